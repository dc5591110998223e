#!/bin/sh
# Installs ControlNet Studio into this folder if needed, then starts it. Options: ./install.sh --help
set -u
unset CDPATH PYTHONPATH PYTHONHOME PYTHONSTARTUP VIRTUAL_ENV
STUDIO_CALLED_FROM=$PWD
cd -- "$(dirname -- "$(readlink -f -- "$0")")" || exit 1
export STUDIO_CALLED_FROM PYTHONUTF8=1 PYTHONDONTWRITEBYTECODE=1
# An update was killed between its two renames of engine: engine/install, which goes back, must be there to run.
[ -e engine ] || [ ! -d .install/update/old/engine ] || mv .install/update/old/engine engine

exists() { # whether the command "$1" is there
    path=$(command -v "$1" 2>/dev/null) || return 1
    # On a Mac without Apple's developer tools this one opens a window that offers to install them.
    [ "$path" != /usr/bin/python3 ] || [ "$(uname -s)" != Darwin ] || xcode-select -p >/dev/null 2>&1
}

probe() { # prints the path of the Python "$1" if the app can run in it
    "$1" engine/install/probe.py 2>/dev/null
}

wants_private=
only_looks=
for word in "$@"; do
    case $word in
    --private-python) wants_private=1 ;;
    --help | -h | --where | --uninstall | --dry-run) only_looks=1 ;;
    --) break ;;
    esac
done

private=.install/python/bin/python3
python=
[ -x "$private" ] && python=$(probe "$private")
if [ -z "$python$wants_private" ]; then
    for name in python3 python3.12 python3.11 python3.13 python; do
        exists "$name" || continue
        python=$(probe "$name") && [ -n "$python" ] && break
        python=
    done
fi

if [ -z "$python" ] && [ -n "$only_looks" ]; then
    echo "Cause: this option needs a Python (3.11, 3.12 or 3.13), and none is here; only an installation fetches one." >&2
    echo "Fix:   start ./install.sh without it. To uninstall by hand, delete the folders .venv and .install in $PWD." >&2
    exit 1
fi

if [ -z "$python" ]; then
    sh engine/install/fetch_python.sh
    code=$?
    [ "$code" = 3 ] && exit 1
    if [ "$code" != 0 ]; then
        echo "       Or install a Python 3.11 to 3.13 with venv (Debian, Ubuntu: sudo apt install python3 python3-venv)." >&2
        for name in python3 python3.12 python3.11 python3.13; do
            exists "$name" && "$name" engine/install/probe.py 2>&1 >/dev/null | sed 's/^/       Not used: /; q' >&2
        done
        exit 1
    fi
    python=$(probe "$private")
    if [ -z "$python" ]; then
        echo "Cause: the fetched Python does not run on this system: it is too old, or its disk may hold no programs (noexec)." >&2
        echo "Fix:   move the app into your home folder, or install a Python 3.11 to 3.13 with venv (Debian, Ubuntu: sudo apt install python3 python3-venv)." >&2
        exit 1
    fi
fi

unset PYTHONDONTWRITEBYTECODE
exec "$python" -m engine.install "$@"

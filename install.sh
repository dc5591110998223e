#!/bin/sh
# Installs ControlNet Studio into this folder if needed, then starts it. Options: ./install.sh --help
set -u
unset CDPATH PYTHONPATH PYTHONHOME PYTHONSTARTUP VIRTUAL_ENV
STUDIO_CALLED_FROM=$PWD
cd -- "$(dirname -- "$(readlink -f -- "$0")")" || exit 1
export STUDIO_CALLED_FROM PYTHONUTF8=1 PYTHONDONTWRITEBYTECODE=1
# An update was killed between its two renames of engine: engine/install, which goes back, must be there to run.
[ -e engine ] || [ ! -d .install/update/old/engine ] || mv .install/update/old/engine engine

probe() { # prints the path of the Python "$1" if the app can run in it
    "$1" engine/install/probe.py 2>/dev/null
}

python=
for name in python3 python3.12 python3.11 python3.13 python; do
    command -v "$name" >/dev/null 2>&1 || continue
    python=$(probe "$name") && [ -n "$python" ] && break
    python=
done

if [ -z "$python" ] && command -v uv >/dev/null 2>&1; then
    echo "No suitable Python here: fetching Python 3.12 with uv ..."
    uv python install 3.12 && found=$(uv python find --no-project 3.12) && python=$(probe "$found")
fi

if [ -z "$python" ]; then
    echo "Cause: no suitable Python (3.11, 3.12 or 3.13, 64-bit, with venv) was found." >&2
    for name in python3 python3.12 python3.11 python3.13; do
        command -v "$name" >/dev/null 2>&1 && "$name" engine/install/probe.py 2>&1 >/dev/null | sed 's/^/       /' >&2
    done
    echo "Fix:   Debian, Ubuntu:  sudo apt install python3 python3-venv" >&2
    echo "       Fedora:          sudo dnf install python3.12" >&2
    echo "       Arch, others:    install uv (https://docs.astral.sh/uv), then start this again" >&2
    exit 1
fi

unset PYTHONDONTWRITEBYTECODE
exec "$python" -m engine.install "$@"

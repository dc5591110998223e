#!/bin/sh
# Puts a private Python into .install/python: the archive that private_python.txt names, checked by its SHA-256.
# install.sh runs it in the app's folder. Exit status 1: it said why not; 3: and that no other Python would help.
set -u

stop() { # cause, fix, exit status
    printf 'Cause: %s\nFix:   %s\n' "$1" "$2" >&2
    exit "${3:-1}"
}

never() { # cause, fix
    stop "$1" "$2" 3
}

is_right() { # whether the file "$1" is the pinned archive
    [ -f "$1" ] || return 1
    if command -v sha256sum >/dev/null 2>&1; then has=$(sha256sum <"$1"); else has=$(shasum -a 256 <"$1"); fi
    [ "${has%% *}" = "$sum" ]
}

download() { # goes on with what a broken download has left; curl and wget use the proxy variables themselves
    if command -v curl >/dev/null 2>&1; then
        meter=--progress-bar
        [ -t 2 ] || meter=-sS
        curl "$meter" --fail --location --retry 3 --connect-timeout 30 --speed-limit 1000 --speed-time 60 \
            --continue-at - --output "$partial" "$folder/$file"
    else
        wget --no-verbose --tries=3 --timeout=60 --continue --output-document="$partial" "$folder/$file"
    fi
}

system=$(uname -s)-$(uname -m)
# A terminal that macOS translates for Apple's processors (Rosetta) says x86_64.
[ "$system" = Darwin-x86_64 ] && [ "$(sysctl -n hw.optional.arm64 2>/dev/null)" = 1 ] && system=Darwin-arm64
if [ "$system" = Darwin-x86_64 ]; then
    never "PyTorch has no builds for Macs with an Intel processor any more." \
        "use a Mac with Apple's own processor, or a computer with Windows or Linux."
fi
case $(ldd --version 2>&1) in
*musl*)
    never "PyTorch has no builds for this Linux, whose C library is musl (Alpine and others)." \
        "use Debian, Ubuntu, Fedora or another Linux with glibc; a container will do."
    ;;
esac
found=
while read -r name size sum file folder; do
    [ "$name" = "$system" ] && found=1 && break
done <engine/install/private_python.txt
[ -n "$found" ] || never "neither Python nor PyTorch has a build for $system." \
    "use a computer with a 64-bit processor of Intel or AMD, and a 64-bit system."
by_hand="get $file from $folder on another computer and put it beside install.sh"

if ! mkdir -p .install 2>/dev/null || [ ! -w .install ]; then
    never "cannot write to the folder $PWD." "move the app to a folder of your own, such as your home folder, and start this again."
fi
if command -v flock >/dev/null 2>&1; then
    exec 9>.install/python-lock
    flock -n 9 || never "another start is already fetching Python." "wait for it, or close its window, then start this again."
fi

if [ -f "$file" ]; then
    archive=$file
    is_right "$file" || stop "$file, which lies beside install.sh, is damaged or another version (its SHA-256 is not $sum)." \
        "get it again from $folder, or delete it."
else
    archive=.install/$file.partial
    partial=$archive
    if ! is_right "$partial"; then
        command -v curl >/dev/null 2>&1 || command -v wget >/dev/null 2>&1 ||
            stop "no suitable Python was found, and neither curl nor wget to fetch one." "install curl, or $by_hand."
        echo "No suitable Python here: fetching one for this app alone, $size MB, into .install/python ..."
        resumed=
        [ -s "$partial" ] && resumed=r
        download
        code=$?
        case $resumed$code in
        r0 | r8 | r22 | r33 | r36) # complete, or refused by the server: what was there may not belong to it
            if ! is_right "$partial"; then
                rm -f "$partial"
                download
                code=$?
            fi
            ;;
        esac
        # 23 of curl, 3 of wget
        [ "$code" = 23 ] || [ "$code" = 3 ] && never "the disk is full." "free some space (the app needs 3 GB, with a graphics card 10 GB) and start this again."
        [ "$code" = 0 ] || stop "Python could not be downloaded (no connection, or a proxy that is not in HTTPS_PROXY)." \
            "start this again, it continues where it stopped; offline, $by_hand."
        if ! is_right "$partial"; then
            rm -f "$partial"
            stop "the downloaded Python is not the expected one (its SHA-256 is not $sum); it was deleted." \
                "start this again; if that does not help, a proxy changes downloads: $by_hand."
        fi
    fi
fi

rm -rf .install/python-new
if ! mkdir .install/python-new || ! tar -xzf "$archive" -C .install/python-new 2>/dev/null ||
    [ ! -e .install/python-new/python/bin/python3 ]; then
    rm -rf .install/python-new
    never "the Python archive could not be unpacked: the disk is full, or tar and gzip are missing." "free some space and start this again."
fi
rm -rf .install/python
mv .install/python-new/python .install/python || never "cannot write to the folder $PWD/.install." "check that it is yours, and start this again."
rm -rf .install/python-new ".install/$file.partial"

#!/bin/sh
# Makes a component from app.py: http.wasm (or the file named), with componentize-py from the folder $COMPONENTIZE_PY (an unpacked wheel; or
# else the one in $PATH) and the WIT packages of wasi:http below the folder $WIT.
set -eu
out=$(realpath -m "${1:-$(dirname "$0")/http.wasm}")
cd "$(dirname "$0")"
wit=$(realpath "${WIT:-wit}")
# The program compiles app.py where it finds it, and would leave the result there.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp app.py "$work"
cd "$work"
set --
for package in io clocks random filesystem sockets cli http; do
    set -- "$@" -d "$wit/wasi-$package"
done
componentize() {
    if [ -n "${COMPONENTIZE_PY:-}" ]; then
        PYTHONPATH=$COMPONENTIZE_PY python3 -c 'import sys; sys.argv[0] = "componentize-py"; from componentize_py import script; script()' "$@"
    else
        componentize-py "$@"
    fi
}
componentize -q "$@" -w wasi:http/proxy@0.2.12 componentize -p . -o "$out" app

#!/bin/sh
# Compiles main.ts to json.wasm (or to the file named), with the compiler and the WASI shim in the folder $NODE_MODULES. The same versions
# give the same bytes, whatever the directory.
set -eu
out=$(realpath -m "${1:-$(dirname "$0")/json.wasm}")
cd "$(dirname "$0")"
modules=$(realpath "${NODE_MODULES:-node_modules}")
# asc finds the shim only below the directory where it runs.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp main.ts "$work"
ln -s "$modules" "$work/node_modules"
cd "$work"
node node_modules/assemblyscript/bin/asc.js main.ts --config node_modules/@assemblyscript/wasi-shim/asconfig.json \
    -O3 --converge --noAssert -o "$out"

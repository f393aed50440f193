#!/bin/sh
# Compiles json.c to json.wasm (or to the file named). Needs Debian's clang, lld, wasi-libc, libclang-rt-14-dev-wasm32 and binaryen.
set -eu
# clang runs wasm-opt where it finds it, and without it makes another file.
command -v wasm-opt >/dev/null || { echo "wasm-opt is missing: install binaryen" >&2; exit 1; }
out=$(realpath -m "${1:-$(dirname "$0")/json.wasm}")
cd "$(dirname "$0")"
clang-14 --target=wasm32-wasi -O2 -Wall -Wextra -Wl,--strip-all -o "$out" json.c

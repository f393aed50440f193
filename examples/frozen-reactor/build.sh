#!/bin/sh
# Compiles counter.c to counter.wasm (or to the file named). Needs Debian's clang, lld, wasi-libc and libclang-rt-14-dev-wasm32.
set -eu
out=$(realpath -m "${1:-$(dirname "$0")/counter.wasm}")
cd "$(dirname "$0")"
clang-14 --target=wasm32-wasi -mexec-model=reactor -O2 -Wall -Wextra -Wl,--strip-all -o "$out" counter.c

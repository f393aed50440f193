#!/bin/sh
# Compiles handler.c to handler.wasm (or to the file named). Needs Debian's clang, lld, wasi-libc and libclang-rt-14-dev-wasm32.
set -eu
out=$(realpath -m "${1:-$(dirname "$0")/handler.wasm}")
cd "$(dirname "$0")"
clang-14 --target=wasm32-wasi -O2 -Wall -Wextra -Wl,--strip-all -o "$out" handler.c

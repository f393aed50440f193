#!/bin/sh
# Compiles main.go to handler.wasm (or to the file named), with the Go compiler in $GO or else the one in $PATH. The same compiler gives the
# same bytes, whatever the directory.
set -eu
out=$(realpath -m "${1:-$(dirname "$0")/handler.wasm}")
cd "$(dirname "$0")"
# What a user has set for Go must not change the bytes; nothing may be downloaded.
unset GOROOT
export GOOS=wasip1 GOARCH=wasm GOWASM= GOFLAGS= GOEXPERIMENT= GOENV=off GOWORK=off GOTOOLCHAIN=local GOPROXY=off CGO_ENABLED=0
"${GO:-go}" build -trimpath -buildvcs=false -ldflags "-s -w" -o "$out" .

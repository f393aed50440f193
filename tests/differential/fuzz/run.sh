#!/usr/bin/env bash
# Lets a fuzzer choose the modules that both engines run: tests/differential/fuzz/run.sh SECONDS [PROCESSES]. Fails if they differ.
#
# New inputs go to $FUZZ_CORPUS (by default corpus/ beside this file, which is not committed); what differs goes to artifacts/.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
seconds=${1:?usage: tests/differential/fuzz/run.sh SECONDS [PROCESSES]}
processes=${2:-1}

triple=x86_64-unknown-linux-gnu
target_dir=${CARGO_TARGET_DIR:-$here/target}
corpus=${FUZZ_CORPUS:-$here/corpus}

# See fuzz/run.sh for both.
export RUSTC_BOOTSTRAP=${RUSTC_BOOTSTRAP:-1}
cargo fuzz build --fuzz-dir "$here" --target "$triple" --sanitizer address --target-dir "$target_dir"

mkdir -p "$corpus" "$here/artifacts"
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
cd "$logs"
# Each process takes over what the others find new.
for ((number = 0; number < processes; number++)); do
    "$target_dir/$triple/release/differential" "$corpus" "$here/seeds/differential" -reload=1 \
        -max_total_time="$seconds" -timeout=60 -rss_limit_mb=4096 -malloc_limit_mb=1024 -max_len=16384 \
        -print_final_stats=1 -artifact_prefix="$here/artifacts/" >"$logs/$number" 2>&1 &
    pids[number]=$!
done
failed=0
for number in "${!pids[@]}"; do
    if wait "${pids[number]}"; then
        echo "differential: $(sed -n 's/^stat::number_of_executed_units: *//p' "$logs/$number") executions, nothing found"
    else
        tail -n 60 "$logs/$number" >&2
        failed=1
    fi
done
[ "$failed" -eq 0 ] || { echo "failed, see tests/differential/fuzz/artifacts" >&2; exit 1; }

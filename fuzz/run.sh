#!/usr/bin/env bash
# Runs fuzz targets: fuzz/run.sh SECONDS [TARGET...], two at a time. Fails if one of them finds something.
#
# New inputs go to $FUZZ_CORPUS (by default fuzz/corpus, which is not committed); what crashes goes to fuzz/artifacts.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
seconds=${1:?usage: fuzz/run.sh SECONDS [TARGET...]}
shift
cd "$here/.."

all=(manifest statement index code_object native load heap chunks brief reference oci root names revocations api wasi host_state wake profile)
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=("${all[@]}")

triple=x86_64-unknown-linux-gnu
target_dir=${CARGO_TARGET_DIR:-$here/target}
corpus=${FUZZ_CORPUS:-$here/corpus}
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT

# A stable compiler has all that is needed but the permission to use it.
export RUSTC_BOOTSTRAP=${RUSTC_BOOTSTRAP:-1}
# cargo-fuzz sets RUSTFLAGS, which replaces those of .cargo/config.toml: the address sanitizer can't be linked statically.
cargo fuzz build --target "$triple" --sanitizer address --target-dir "$target_dir"

run() {
    local target=$1
    mkdir -p "$corpus/$target" "$here/artifacts/$target"
    "$target_dir/$triple/release/$target" "$corpus/$target" "$here/seeds/$target" \
        -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -malloc_limit_mb=256 -max_len="$(max_len "$target")" \
        -print_final_stats=1 -artifact_prefix="$here/artifacts/$target/" >"$logs/$target" 2>&1
}

# Enough for every field to be reached; longer inputs only make each run slower.
max_len() {
    case $1 in
    reference) echo 1100 ;;
    heap | chunks | native | load) echo 70000 ;;
    code_object) echo 8300 ;;
    *) echo 8192 ;;
    esac
}

failed=()
finish() {
    local pid=$1 target=$2
    if wait "$pid"; then
        echo "$target: $(sed -n 's/^stat::number_of_executed_units: *//p' "$logs/$target") executions, nothing found"
    else
        failed+=("$target")
        tail -n 60 "$logs/$target" >&2
        echo "$target: failed, see fuzz/artifacts/$target" >&2
    fi
}

pids=()
names=()
for target in "${targets[@]}"; do
    if [ ${#pids[@]} -ge 2 ]; then
        finish "${pids[0]}" "${names[0]}"
        pids=("${pids[@]:1}")
        names=("${names[@]:1}")
    fi
    run "$target" &
    pids+=($!)
    names+=("$target")
done
for index in "${!pids[@]}"; do
    finish "${pids[$index]}" "${names[$index]}"
done

if [ ${#failed[@]} -gt 0 ]; then
    echo "failed: ${failed[*]}" >&2
    exit 1
fi

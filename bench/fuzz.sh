#!/usr/bin/env bash
# Every fuzz target for a while; an error if one finds something.
#
#   bench/fuzz.sh [SECONDS [TARGET...]]
#
#   SECONDS   for each target; default: 10
#   TARGET    names from fuzz/fuzz_targets; default: all of them
#
# Needs cargo-fuzz, which is installed when it is missing (FUZZ_INSTALL=no: then nothing is fuzzed, and
# that is said). What is learned stays in fuzz/corpus, and finds in fuzz/artifacts.
set -euo pipefail
cd "$(dirname "$0")/../fuzz"

seconds=${1:-10}
shift || true
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
    for file in fuzz_targets/*.rs; do targets+=("$(basename "$file" .rs)"); done
fi

if ! cargo fuzz --version >/dev/null 2>&1; then
    if [ "${FUZZ_INSTALL:-yes}" = no ]; then
        echo "cargo-fuzz is missing: nothing was fuzzed" >&2
        exit 0
    fi
    cargo install cargo-fuzz --locked
fi

# A find ends the run of its target, not that of the others.
found=()
for target in "${targets[@]}"; do
    mkdir -p "corpus/$target" "artifacts/$target"
    printf '\n== %s, %s s\n' "$target" "$seconds"
    # Seeds are read, not written: the second folder.
    cargo +stable fuzz run -s none "$target" "corpus/$target" "seeds/$target" -- \
        -max_total_time="$seconds" -max_len=16384 -timeout=20 -rss_limit_mb=1024 \
        -print_final_stats=1 || found+=("$target")
done

if [ ${#found[@]} -gt 0 ]; then
    echo "found: ${found[*]}; the inputs lie in fuzz/artifacts" >&2
    exit 1
fi

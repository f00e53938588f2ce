#!/usr/bin/env bash
# redis-benchmark against three server processes, with the CPU time that they cost.
#
#   bench/redis-benchmark.sh [PREFIX [REQUESTS [DIR]]]
#
#   PREFIX    where the binaries are; default: target/release (or below CARGO_TARGET_DIR)
#   REQUESTS  of each test; default: 200000 (a tenth of it for a single client without -P)
#   DIR       on which disk the servers keep their data; default: the system's temporary place
#
# Needs redis-benchmark (Debian: redis-tools). Runs `-t set,get -d 256 -r 100000` with 1, 64 and 256
# connections, with and without `-P 16`; once with all keys in one shard, once cut into eight even
# parts. Each run is three redis-benchmark processes at the same time, one for each node, which
# share the connections (a single connection: one process, at node 1). set and get run one after the
# other, so that each has a row.
#
# errors: how many of the processes met an error reply or a lost connection; they end at the first.
# ops/s: the requests of all processes over the time from the first start to the last end.
# CPU: user and system time of all three servers over the run, from /proc, for each request.
set -euo pipefail
cd "$(dirname "$0")/.."

prefix=${1:-${CARGO_TARGET_DIR:-target}/release}
requests=${2:-200000}
directory=${3:-}

command -v redis-benchmark >/dev/null || {
    echo "redis-benchmark is missing: install the Debian package redis-tools" >&2
    exit 1
}

scratch=$(mktemp -d)
cluster=
stop_cluster() {
    if [ -n "$cluster" ]; then
        kill "$cluster" 2>/dev/null || true
        wait "$cluster" 2>/dev/null || true
        cluster=
    fi
}
trap 'stop_cluster; rm -rf "$scratch"' EXIT

# start_cluster ARGUMENTS...: three nodes; fills `ports` and `pids`.
start_cluster() {
    local arguments=("$@")
    if [ -n "$directory" ]; then arguments+=(--dir "$directory"); fi
    mkfifo "$scratch/ready.$$"
    "$prefix/flotilla-bench" cluster "${arguments[@]}" >"$scratch/ready.$$" 2>"$scratch/cluster.log" &
    cluster=$!
    ports=()
    pids=()
    local ready=
    while read -r word _ _ pid _ redis _; do
        case $word in
        node) pids+=("$pid") ports+=("${redis##*:}") ;;
        ready) ready=yes && break ;;
        esac
    done <"$scratch/ready.$$"
    rm -f "$scratch/ready.$$"
    if [ -z "$ready" ]; then
        cat "$scratch/cluster.log" >&2
        exit 1
    fi
}

# User and system time of all servers, in clock ticks.
server_ticks() {
    local pid sum=0 fields
    for pid in "${pids[@]}"; do
        fields=$(sed 's/.*) //' "/proc/$pid/stat")
        # shellcheck disable=SC2086
        set -- $fields
        sum=$((sum + ${12} + ${13}))
    done
    echo "$sum"
}

# run TEST CONNECTIONS PIPELINE: one row.
run() {
    local test=$1 connections=$2 pipeline=$3 count=$requests processes=3 runners=() index
    if [ "$connections" -lt 3 ]; then processes=1; fi
    if [ "$connections" -eq 1 ] && [ "$pipeline" -eq 1 ]; then count=$((requests / 10)); fi
    local before after begin end errors=0
    before=$(server_ticks)
    begin=$(date +%s%N)
    for ((index = 0; index < processes; index++)); do
        # The first processes take what does not divide.
        local share=$((connections / processes + (index < connections % processes ? 1 : 0)))
        redis-benchmark -p "${ports[$index]}" -t "$test" -d 256 -r 100000 -P "$pipeline" \
            -c "$share" -n $((count / processes)) --csv >"$scratch/out.$index" 2>"$scratch/err.$index" &
        runners+=($!)
    done
    for index in "${!runners[@]}"; do
        # redis-benchmark ends with an error at the first error reply.
        if ! wait "${runners[$index]}" || grep -qi 'error from server\|could not connect' \
            "$scratch/out.$index" "$scratch/err.$index"; then
            errors=$((errors + 1))
            cat "$scratch/err.$index" >&2
        fi
    done
    end=$(date +%s%N)
    after=$(server_ticks)
    failed=$((failed + errors))
    awk -v test="$test" -v c="$connections" -v p="$pipeline" -v n=$((count / processes * processes)) \
        -v ns=$((end - begin)) -v ticks=$((after - before)) -v hz="$(getconf CLK_TCK)" -v e="$errors" \
        'BEGIN {
            printf "%-5s %6d %4d %12d ", test, c, p, n
            if (e > 0) printf "%12s %8d %18s\n", "-", e, "-"
            else printf "%12.0f %8d %18.1f\n", n * 1e9 / ns, e, ticks / hz * 1e6 / n
        }'
}

failed=0
measure() {
    printf '\n%s\n' "$1"
    shift
    start_cluster "$@"
    printf '%-5s %6s %4s %12s %12s %8s %18s\n' test conns -P requests ops/s errors 'CPU us/op, 3 nodes'
    local connections pipeline test
    for pipeline in 1 16; do
        for connections in 1 64 256; do
            for test in set get; do
                run "$test" "$connections" "$pipeline"
            done
        done
    done
    stop_cluster
}

measure "All keys in one shard" --shards 1
# Keys are key:000000000000 to key:000000099999: a cut every 12,500.
measure "Eight shards, keys spread evenly" --split-at \
    key:000000012500,key:000000025000,key:000000037500,key:000000050000,key:000000062500,key:000000075000,key:000000087500

if [ "$failed" -ne 0 ]; then
    echo "$failed runs had errors" >&2
    exit 1
fi

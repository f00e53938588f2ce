#!/usr/bin/env bash
# Disks that really fail, under real processes: what the nodes say, serve, and become.
#
#   bench/disk-faults.sh [PREFIX [SCENE...]]
#
#   PREFIX   where the binaries are; default: target/release (or below CARGO_TARGET_DIR)
#   SCENE    journal-flip row-flip header-flip sync-error full slow; default: all of them
#
# Three nodes with eight shards, 20,000 keys. Each scene breaks the disk of one of them and checks
# what the manual promises (docs/operations.md): the others serve every key meanwhile, the node says
# what is wrong, nothing that was acknowledged is missing in the end.
#
# Needs redis-cli and curl; sync-error and slow need strace, full needs root for a loop mount.
# What cannot run here is said and skipped; with all scenes named, that is a failure.
set -euo pipefail
cd "$(dirname "$0")/.."

prefix=${1:-${CARGO_TARGET_DIR:-target}/release}
shift || true
wanted=("$@")
all=(journal-flip row-flip header-flip sync-error full slow)
if [ ${#wanted[@]} -eq 0 ]; then scenes=("${all[@]}"); else scenes=("${wanted[@]}"); fi

for tool in redis-cli curl; do
    command -v "$tool" >/dev/null || { echo "$tool is missing" >&2; exit 1; }
done

scratch=$(mktemp -d "${TMPDIR:-/tmp}/flotilla-disk-faults-XXXXXX")
pids=()
mounted=
failed=0
cleanup() {
    stop_all
    if [ -n "$mounted" ]; then umount "$mounted" 2>/dev/null || true; fi
    rm -rf "$scratch"
}
trap cleanup EXIT

keys=20000
base_port=$((20000 + RANDOM % 8000))
resp_port() { echo $((base_port + $1)); }
admin_port() { echo $((base_port + 10 + $1)); }
home() { echo "$scratch/node-$1"; }

say() { printf '   %s\n' "$*"; }
fail() { printf '   FAIL: %s\n' "$*" >&2; failed=1; }

# start NODE [WRAPPER...]: starts a node, through a wrapper such as env that becomes the node.
start() {
    local node=$1
    shift
    local peers="1=127.0.0.1:$((base_port + 21)),2=127.0.0.1:$((base_port + 22)),3=127.0.0.1:$((base_port + 23))"
    "$@" "$prefix/flotilla" serve --cluster-name faults --node-id "$node" --data-dir "$(home "$node")" \
        --resp-addr "127.0.0.1:$(resp_port "$node")" --admin-addr "127.0.0.1:$(admin_port "$node")" \
        --peers "$peers" --split-at "$splits" ${extra[@]+"${extra[@]}"} >>"$scratch/node-$node.log" 2>&1 &
    pids[$node]=$!
}

kill_node() {
    kill -9 "${pids[$1]}" 2>/dev/null || true
    wait "${pids[$1]}" 2>/dev/null || true
    unset "pids[$1]"
}

stop_all() {
    local node
    for node in "${!pids[@]}"; do kill_node "$node"; done
}

# until_true SECONDS WHAT COMMAND...: waits for a command to succeed.
until_true() {
    local end=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        if [ $SECONDS -ge $end ]; then
            fail "$what: not within time"
            return 1
        fi
        sleep 0.2
    done
}

ready() { curl -fsS "http://127.0.0.1:$(admin_port "$1")/readyz"; }
status_of() { curl -fsS "http://127.0.0.1:$(admin_port "$1")/status"; }
metric() { curl -fsS "http://127.0.0.1:$(admin_port "$1")/metrics" | awk -v name="$2" '$1 == name { print $2 }'; }
cli() { redis-cli -p "$(resp_port "$1")" "${@:2}"; }

# Keys whose first letters spread them over all eight shards; each value names its key and version.
splits=G,M,S,Y,e,k,q
letters=ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz
padding=................................
spread() {
    awk -v keys="$keys" -v version="$1" -v letters="$letters" -v padding="$padding" 'BEGIN {
        for (n = 0; n < keys; n++)
            printf "SET %s%07d %s:%07d:%s\n", substr(letters, n % 52 + 1, 1), n, version, n, padding }'
}
asked() {
    awk -v keys="$keys" -v letters="$letters" 'BEGIN {
        for (n = 0; n < keys; n++) printf "GET %s%07d\n", substr(letters, n % 52 + 1, 1), n }'
}
fill() { spread "$2" | redis-cli -p "$(resp_port "$1")" | grep -cv '^OK$' || true; }

# check_all NODE VERSION: every key has its value when it is asked for at NODE.
check_all() {
    local wrong
    wrong=$(asked | redis-cli -p "$(resp_port "$1")" | awk -v version="$2" -v padding="$padding" '
        $0 != sprintf("%s:%07d:%s", version, NR - 1, padding) { wrong++ } END { print wrong + 0 }')
    if [ "$wrong" = 0 ]; then
        say "all $keys keys are right through node $1"
    else
        fail "$wrong of $keys keys are wrong through node $1"
    fi
}

fresh_cluster() {
    stop_all
    rm -rf "$scratch"/node-*
    extra=()
    for node in 1 2 3; do start "$node"; done
    for node in 1 2 3; do until_true 60 "node $node is ready" ready "$node"; done
    local refused
    refused=$(fill 1 one)
    if [ "$refused" != 0 ]; then fail "$refused of $keys writes were refused"; fi
}

# flip FILE OFFSET: inverts one byte.
flip() {
    local byte
    byte=$(od -An -tu1 -j "$2" -N 1 "$1" | tr -d ' ')
    printf "\\$(printf '%03o' $((byte ^ 255)))" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}

words_of() { grep -aiE "$2" "$scratch/node-$1.log" | tail -"${3:-3}" | cut -c1-220 | sed 's/^/   | /' || true; }

scene_journal_flip() {
    # What the last checkpoint does not hold is only in the journal.
    local file offset
    fill 1 two >/dev/null
    kill_node 3
    file=$(find "$(home 3)/journal" -type f -name '*' -size +64k | sort | while read -r file; do
        if LC_ALL=C grep -aq 'two:00' "$file"; then echo "$file"; break; fi; done)
    offset=$(LC_ALL=C grep -abo 'two:0000777' "$file" | head -1 | cut -d: -f1)
    if [ -z "$offset" ]; then fail "the journal does not hold what was written last"; return; fi
    flip "$file" "$offset"
    say "one byte of node 3's journal inverted: $(basename "$file") at $offset"
    "$prefix/flotilla" inspect journal "$(home 3)" >"$scratch/inspect" 2>&1 && fail "inspect calls a damaged journal sound"
    grep -iE 'corrupt|damage|suspect' "$scratch/inspect" | head -4 | cut -c1-200 | sed 's/^/   | /'
    start 3
    suspects() { status_of 3 | grep -oE '"suspect": ?\[[0-9][^]]*\]'; }
    until_true 30 "node 3 says which shards are suspect" suspects && say "node 3's /status says $(suspects)"
    check_all 1 two
    check_all 3 two
}

scene_row_flip() {
    # A checkpoint puts the rows into redb; then a few are damaged there, some of every shard.
    local file offset flipped=0
    fill 1 two >/dev/null
    kill -TERM "${pids[3]}" && wait "${pids[3]}" || true
    unset 'pids[3]'
    file="$(home 3)/store/store.redb"
    for offset in $(LC_ALL=C grep -abo 'two:00007[0-4][0-9]' "$file" | cut -d: -f1); do
        flip "$file" "$offset"
        flipped=$((flipped + 1))
    done
    if [ "$flipped" = 0 ]; then fail "the store does not hold what was written"; return; fi
    say "a byte of each of $flipped rows in node 3's store inverted"
    "$prefix/flotilla" inspect store "$(home 3)" >"$scratch/inspect" 2>&1 && fail "inspect calls a damaged store sound"
    grep -iE 'corrupt|damage|checksum' "$scratch/inspect" | head -4 | cut -c1-200 | sed 's/^/   | /'
    start 3
    until_true 60 "node 3 is ready" ready 3
    check_all 3 two
    # Whoever leads a shard reads its own rows: leaders are killed until node 3 has led some.
    local victim=1
    for _ in 1 2 3 4 5 6; do
        kill_node "$victim"
        until_true 30 "the others serve with node $victim down" cli 3 get A0000000
        check_all 3 two
        start "$victim"
        until_true 60 "node $victim is ready" ready "$victim"
        if [ "$(metric 3 flotilla_snapshots_received_total)" != 0 ]; then break; fi
        victim=$((3 - victim))
    done
    say "snapshots received by node 3: $(metric 3 flotilla_snapshots_received_total)"
    [ "$(metric 3 flotilla_snapshots_received_total)" != 0 ] || fail "the damaged row was never met"
    words_of 3 'damaged|snapshot|corrupt'
}

scene_header_flip() {
    kill -TERM "${pids[3]}" && wait "${pids[3]}" || true
    unset 'pids[3]'
    dd if=/dev/urandom of="$(home 3)/store/store.redb" bs=4096 count=64 conv=notrunc status=none
    say "the first 256 KiB of node 3's store overwritten with noise"
    start 3
    until_true 60 "node 3 is ready again" ready 3
    # A shard whose log is still whole is replayed; the others get snapshots.
    say "snapshots received by node 3: $(metric 3 flotilla_snapshots_received_total)"
    words_of 3 'unreadable|moved aside|damaged'
    kill_node 1
    until_true 30 "node 3 serves with node 1 down" cli 3 get A0000000
    check_all 3 one
    start 1
}

scene_sync_error() {
    local server before
    server=${pids[3]}
    before=$(date +%s%N)
    strace -qq -f -p "$server" -e trace=fdatasync -e inject=fdatasync:error=EIO:when=1+ -o /dev/null &
    local tracer=$!
    sleep 0.5
    fill 1 two >/dev/null
    until_true 20 "node 3 stops itself" eval "! kill -0 $server"
    kill "$tracer" 2>/dev/null || true
    wait "${pids[3]}" && fail "node 3 ended with exit code 0" || say "node 3 ended with exit code $?"
    unset 'pids[3]'
    words_of 3 'journal failed|STOPPED'
    check_all 1 two
    start 3
    until_true 60 "node 3 is ready again" ready 3
    check_all 3 two
}

scene_full() {
    local image="$scratch/small.img" answer reads
    stop_all
    rm -rf "$scratch"/node-*
    truncate -s 900M "$image"
    mkfs.ext4 -q -F "$image"
    mkdir -p "$(home 3)"
    mount -o loop "$image" "$(home 3)" || { say "skipped: no loop mounts here"; return; }
    mounted=$(home 3)
    extra=()
    for node in 1 2 3; do start "$node" env FLOTILLA_STORAGE__DISK_RESERVE=64MiB; done
    for node in 1 2 3; do until_true 60 "node $node is ready" ready "$node"; done
    fill 1 one >/dev/null
    say "node 3 lives on a file system of $(df -BM --output=size "$mounted" | tail -1 | tr -d ' ')"
    dd if=/dev/zero of="$mounted/filler" bs=1M status=none 2>/dev/null || true
    say "filled up: $(df -BM --output=avail "$mounted" | tail -1 | tr -d ' ') left"
    full() { [ "$(metric 3 flotilla_disk_full)" = 1 ]; }
    until_true 20 "node 3 notices" full
    # Those with room lead what it led, and all goes on with two disks.
    until_true 20 "writes go on through node 3 while its disk is full" eval '[ "$(fill 3 two)" = 0 ]'
    full || fail "its disk is not full any more"
    check_all 1 two
    reads=$(asked | redis-cli -p "$(resp_port 3)" | grep -c ':0' || true)
    say "reads answered through node 3 while its disk is full: $reads of $keys"
    [ "$reads" = "$keys" ] || fail "reads do not go on"
    answer=$(cli 3 del A0000000)
    say "DEL answers $answer"
    [ "$answer" = 1 ] || fail "deletes do not go on"
    rm "$mounted/filler"
    until_true 30 "node 3 recovers without a restart" eval '! full'
    until_true 30 "writes go on" eval '[ "$(fill 3 three)" = 0 ]'
    check_all 3 three
    check_all 1 three
    words_of 3 'disk|full|space'
    stop_all
    umount "$mounted"
    mounted=
}

scene_slow() {
    local server led
    leads() { status_of "$1" | tr '{' '\n' | grep -c '"role":"leader"' || true; }
    server=${pids[1]}
    led=$(leads 1)
    say "node 1 leads $led shards"
    strace -qq -f -p "$server" -e trace=fdatasync -e inject=fdatasync:delay_enter=3000000 -o /dev/null &
    local tracer=$!
    (fill 2 two >/dev/null) &
    local writer=$!
    moved() { [ "$(leads 1)" = 0 ]; }
    until_true 40 "leaderships move away from a disk that takes 3 s for a sync" moved
    say "node 1 leads $(leads 1) shards while its syncs take 3 s"
    wait "$writer" || true
    kill "$tracer" 2>/dev/null || true
    wait "$tracer" 2>/dev/null || true
    words_of 1 'slow|disk|lead'
    fill 2 two >/dev/null
    check_all 2 two
    check_all 1 two
}

for scene in "${scenes[@]}"; do
    printf '\n== %s\n' "$scene"
    case $scene in
    sync-error | slow) command -v strace >/dev/null || {
        say "skipped: strace is missing"
        [ ${#wanted[@]} -eq 0 ] || failed=1
        continue
    } ;;
    full) [ "$(id -u)" -eq 0 ] || {
        say "skipped: a loop mount needs root"
        [ ${#wanted[@]} -eq 0 ] || failed=1
        continue
    } ;;
    esac
    if [ "$scene" != full ]; then fresh_cluster; fi
    "scene_${scene//-/_}"
done
stop_all
if [ "$failed" -ne 0 ]; then
    printf '\nFAIL\n'
    exit 1
fi
printf '\nPASS\n'

#!/usr/bin/env bash
# A network that dies without a word: clients in one network namespace, the service in another, and
# between them a link that is cut. Each client must report the loss within 30 s.
#
# Needs root, cargo, and iproute2 (on Debian it is installed if absent). Where no namespace can be
# made it says so and succeeds. Takes at most 60 s after the build.
set -euo pipefail
cd "$(dirname "$0")/.."

skip() {
    printf 'SKIPPED: %s\n' "$*"
    exit 0
}

[ "$(uname)" = Linux ] || skip "network namespaces are Linux's"
[ "$(id -u)" = 0 ] || skip "only root can make network namespaces"
if ! command -v ip >/dev/null; then
    command -v apt-get >/dev/null || skip "no iproute2"
    export DEBIAN_FRONTEND=noninteractive
    { apt-get install -y --no-install-recommends iproute2 ||
        { apt-get update -qq && apt-get install -y --no-install-recommends iproute2; }; } >/dev/null 2>&1 ||
        skip "iproute2 cannot be installed"
fi

export CARGO_TERM_COLOR=never
# As cargo says it: "Executable tests/all.rs (PATH)".
program=$(cargo test --no-run --test all 2>&1 | sed -n 's/.*Executable.*(\(.*\))$/\1/p')
[ -x "$program" ] || {
    echo "FAILED: the tests cannot be built" >&2
    exit 1
}

here="webpubsub-$$-here" there="webpubsub-$$-there"
dir=$(mktemp -d)
halves=()
clean_up() {
    for half in "${halves[@]}"; do
        kill "$half" 2>/dev/null && wait "$half" 2>/dev/null || true
    done
    # With a namespace its end of the link goes, and with one end the other.
    ip netns del "$here" 2>/dev/null || true
    ip netns del "$there" 2>/dev/null || true
    rm -rf "$dir"
}
trap clean_up EXIT
trap 'exit 1' INT TERM

ip netns add "$here" 2>/dev/null && ip netns add "$there" 2>/dev/null ||
    skip "network namespaces cannot be made here"
ip -n "$here" link add link0 type veth peer name link0 netns "$there" 2>/dev/null ||
    skip "no virtual Ethernet here"
for side in "$here 1" "$there 2"; do
    read -r name number <<<"$side"
    ip -n "$name" address add "192.0.2.$number/24" dev link0
    ip -n "$name" link set lo up
    ip -n "$name" link set link0 up
done

export DEAD_NETWORK_ADDRESS=192.0.2.2:8080 DEAD_NETWORK_READY="$dir/ready" DEAD_NETWORK_CUT="$dir/cut"
# Only for the background: the process takes the shell's place, so that its id is the program's.
half() { exec timeout 60 ip netns exec "$1" "$program" "dead_network::$2" --exact --ignored --nocapture; }
half "$there" service >"$dir/service" 2>&1 &
halves+=($!)
# Until the service listens.
for _ in $(seq 100); do
    ip netns exec "$there" bash -c "exec 3<>/dev/tcp/192.0.2.2/8080" 2>/dev/null && break
    sleep 0.1
done
half "$here" clients >"$dir/clients" 2>&1 &
clients=$!
halves+=("$clients")
for _ in $(seq 100); do
    [ -e "$dir/ready" ] && break
    sleep 0.1
done
ip -n "$there" link set link0 down
touch "$dir/cut"

status=0
wait "$clients" || status=$?
cat "$dir/clients"
[ "$status" = 0 ] || {
    cat "$dir/service"
    echo "FAILED: a dead network was not noticed within 30 s" >&2
    exit 1
}

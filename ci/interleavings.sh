#!/usr/bin/env bash
# Explores the orders in which threads can meet in `src/sync.rs`, with loom, in a package of its
# own. Takes about 20 s on two cores after the build, at most 3 minutes.
#
# A failing order is shown with LOOM_LOG=trace; LOOM_MAX_PREEMPTIONS and LOOM_MAX_DURATION (seconds
# for each exploration) take the place of the usual bounds.
set -euo pipefail
cd "$(dirname "$0")/interleavings"

export CARGO_TERM_COLOR=never
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/../../target}"

runtimes='^(tokio|async-std|async-executor|smol|futures-executor|futures-util|mio) '
if cargo tree --locked --prefix none | grep -E "$runtimes"; then
    echo "FAILED: an async runtime is in the tree" >&2
    exit 1
fi
# Each exploration has one thread.
cargo test --locked -- --nocapture 2>&1 | awk '
    { print }
    /^explored: / { total += $2; explorations++ }
    END { printf "%d executions in %d explorations\n", total, explorations; exit total == 0 }
'

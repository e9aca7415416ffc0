#!/usr/bin/env bash
# The chat window of examples/desktop on a display without a screen, against the emulator: types,
# loses the link, types on, and closes the window. The program prints what it draws.
#
# Needs cargo and what the crate needs to be built. Xvfb, xdotool and the window's libraries are
# installed on Debian if absent; where they cannot be had it says so and succeeds. Takes 30 s after
# the build, which takes two to four minutes the first time.
set -euo pipefail
cd "$(dirname "$0")/.."

skip() {
    printf 'SKIPPED: %s\n' "$*"
    exit 0
}
fail() {
    printf 'FAILED: %s\n' "$*" >&2
    exit 1
}

[ "$(uname)" = Linux ] || skip "Xvfb is for Linux"
# Each library is loaded by name at run time: the build does without.
libraries=(libX11.so.6 libX11-xcb.so.1 libXcursor.so.1 libXi.so.6 libxkbcommon.so.0 libxkbcommon-x11.so.0
    libGL.so.1 libEGL.so.1)
packages=(xvfb xdotool libx11-6 libx11-xcb1 libxcursor1 libxi6 libxkbcommon0 libxkbcommon-x11-0
    libgl1 libegl1 libgl1-mesa-dri)
missing() {
    local known library
    known=$(PATH="$PATH:/sbin:/usr/sbin" ldconfig -p)
    command -v Xvfb >/dev/null || echo Xvfb
    command -v xdotool >/dev/null || echo xdotool
    for library in "${libraries[@]}"; do
        grep -q "^[[:space:]]*$library " <<<"$known" || echo "$library"
    done
    # What draws without a graphics card.
    ! command -v dpkg >/dev/null || dpkg -s libgl1-mesa-dri >/dev/null 2>&1 || echo libgl1-mesa-dri
}
if [ -n "$(missing)" ] && command -v apt-get >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    { apt-get install -y --no-install-recommends "${packages[@]}" ||
        { apt-get update -qq && apt-get install -y --no-install-recommends "${packages[@]}"; }; } >/dev/null 2>&1 || true
fi
[ -z "$(missing)" ] || skip "no" $(missing)

export CARGO_TERM_COLOR=never CARGO_INCREMENTAL=0
target=${CARGO_TARGET_DIR:-$PWD/target}
manifest=examples/desktop/Cargo.toml
cargo fmt --check --manifest-path $manifest
if cargo tree --manifest-path $manifest --edges normal,build --prefix none --no-dedupe |
    grep -E '^(tokio|async-std|async-global-executor|async-executor|smol|futures-executor|futures-util|mio) '; then
    fail "an async runtime is in the window's tree"
fi
began=$SECONDS
cargo build -q -p webpubsub-cli --target-dir "$target"
# A directory of its own: with these flags nothing of the other builds is of use.
RUSTFLAGS="-D warnings" cargo build -q --manifest-path $manifest --target-dir "$target/desktop"
echo "built in $((SECONDS - began)) s"
wps=$target/debug/wps window=$target/desktop/debug/webpubsub-desktop

dir=$(mktemp -d)
started=()
clean_up() {
    status=$?
    if [ $status != 0 ]; then
        tail -n 40 "$dir"/*.txt >&2
    fi
    for pid in "${started[@]}"; do
        kill "$pid" 2>/dev/null || true
    done
    rm -rf "$dir"
}
trap clean_up EXIT
trap 'exit 1' INT TERM

# Waits for a line of a file, after the one that was waited for last.
declare -A seen
expect() { # FILE SECONDS PATTERN
    local file=$dir/$1.txt from=$((${seen[$1]:-0} + 1)) end=$(($(date +%s%N) + $2 * 1000000000)) found
    while true; do
        found=$(tail -n "+$from" "$file" 2>/dev/null | grep -n -m 1 -E -- "$3" || true)
        [ -z "$found" ] || break
        [ "$(date +%s%N)" -lt "$end" ] || fail "no line /$3/ in $1 within $2 s"
        sleep 0.02
    done
    seen[$1]=$((from - 1 + ${found%%:*}))
    printf '%s: %s\n' "$1" "${found#*:}"
}

mkfifo "$dir/console"
exec 3<>"$dir/console"
console() { # a command for the emulator
    echo "emulator> $*"
    echo "$*" >&3
}
"$wps" emulator --user anna --fault "http 503 2" <"$dir/console" >"$dir/emulator.txt" 2>"$dir/emulator-log.txt" 3>&- &
started+=($!)
expect emulator 10 '^client access URL: ' >/dev/null
WEBPUBSUB_URL=$(sed -n 's/^client access URL: //p' "$dir/emulator.txt")
export WEBPUBSUB_URL

Xvfb -displayfd 4 -screen 0 800x600x24 -nolisten tcp 4>"$dir/display.txt" >"$dir/xvfb.txt" 2>&1 3>&- &
started+=($!)
expect display 10 '^[0-9]+$' >/dev/null
DISPLAY=:$(cat "$dir/display.txt")
export DISPLAY
export LIBGL_ALWAYS_SOFTWARE=1 # no graphics card

open_window() { # its output goes to FILE
    log=$1
    "$window" --print >"$dir/$log.txt" 2>&1 3>&- &
    program=$!
    started+=("$program")
    expect "$log" 20 '^state: ' >/dev/null
    seen[$log]=0
    id=$(timeout 20 xdotool search --sync --onlyvisible --name '^Chat$' | head -n 1)
    [ -n "$id" ] || fail "no window"
    # There is no window manager that would do it.
    timeout 5 xdotool windowfocus --sync "$id"
}
keys() { timeout 10 xdotool "$@"; }
type_line() {
    echo "typed> $*"
    keys type --delay 15 "$*"
    keys key Return
}
close_window() {
    local began ended
    began=$(date +%s%N)
    keys key ctrl+q
    # A zombie is an ended program too.
    while [ -e "/proc/$program/stat" ] && ! grep -q '^State:.Z' "/proc/$program/status" 2>/dev/null; do
        [ $(($(date +%s%N) - began)) -lt 5000000000 ] || fail "the window is still open after 5 s ($1)"
        sleep 0.01
    done
    ended=$((($(date +%s%N) - began) / 1000000))
    echo "closed within $ended ms ($1)"
    wait "$program" || fail "the program did not end well ($1)"
    [ $ended -lt 1000 ] || fail "closing took longer than 1 s ($1)"
}

echo "--- the window opens before there is a connection, and counts"
open_window window
expect window 10 '^state: attempt [23] to connect in [0-9.]+ s: '
expect window 15 '^state: connected$'
console list
expect emulator 5 '^[^ ]+ .*anna'
connection=$(sed -n "${seen[emulator]}p" "$dir/emulator.txt" | awk '{ print $1 }')
timeout 120 "$wps" listen room >"$dir/listener.txt" 2>"$dir/listener-log.txt" 3>&- &
started+=($!)
expect listener-log 10 'listening to room' >/dev/null

echo "--- both directions"
type_line "before the cut"
expect window 5 '^line: anna in room: before the cut$'
timeout 10 "$wps" send room "from outside" 2>/dev/null
expect window 2 '^line: anna in room: from outside$'

echo "--- a cut, and four attempts to recover that fail"
console http 503 4
console cut "$connection"
expect window 2 '^state: recovering the connection$'
type_line "during the cut"
expect window 1 '^state: recovering the connection; 1 on the way$'
expect window 15 '^state: connected'
expect window 5 '^line: anna in room: during the cut$'
type_line "after the cut"
expect window 5 '^line: anna in room: after the cut$'

echo "--- a service that stands still"
console freeze 3s
expect emulator 5 '^frozen'
type_line "into the silence"
expect window 1 '^state: connected; 1 on the way$'
expect window 10 '^line: anna in room: into the silence$'

echo "--- a connection that cannot be recovered: a gap"
console no-recovery 1
console cut "$connection"
expect window 20 '^line: connected as .*; messages .* may be missing$'
type_line "after the gap"
expect window 5 '^line: anna in room: after the gap$'

echo "--- the last line is sent, though the window closes at once"
type_line "goodbye"
close_window "connected"
for line in "before the cut" "from outside" "during the cut" "after the cut" "into the silence" "after the gap" goodbye; do
    expect listener 5 "$line\$"
done

echo "--- closing without a connection"
console http 503 1000
open_window unreachable
expect unreachable 10 '^state: attempt 2 to connect '
type_line "nobody hears this"
expect unreachable 1 '; 1 on the way$'
close_window "no connection"

echo "--- closing while the service stands still"
console clear
open_window frozen
expect frozen 15 '^state: connected'
console freeze 60s
expect emulator 5 '^frozen'
type_line "nor this"
expect frozen 1 '^state: connected; 1 on the way$'
close_window "frozen"

#!/usr/bin/env bash
# The emulator with clients of other languages: the official ones, and the WebSocket packages that
# programs without an SDK use. README.md in this folder says what is checked.
#
# Needs cargo. A language that is not at hand, or whose registry cannot be reached, is skipped. Takes
# about a minute after the build; with WPS=PROGRAM that program is the emulator, and with
# WPS_STREAMS=PROGRAM that one is this crate's side of the checks of streams; else they are built.
set -euo pipefail
cd "$(dirname "$0")"

export CARGO_TERM_COLOR=never
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/../../target}"
# What is installed stays here, for the next run.
work="$CARGO_TARGET_DIR/clients"
mkdir -p "$work"

fail() {
    printf 'FAILED: %s\n' "$*" >&2
    exit 1
}
skipped=()
skip() {
    printf 'SKIPPED: %s\n' "$*"
    skipped+=("$*")
}

if [ -z "${WPS:-}" ]; then
    cargo build --quiet --manifest-path ../../cli/Cargo.toml --bin wps
    WPS="$CARGO_TARGET_DIR/debug/wps"
fi

# Built when a language needs it.
streams_program() {
    if [ -z "${WPS_STREAMS:-}" ]; then
        cargo build --quiet --manifest-path ../../cli/Cargo.toml --example streams
        WPS_STREAMS="$CARGO_TARGET_DIR/debug/examples/streams"
    fi
    export WPS_STREAMS
}

dir=$(mktemp -d)
emulators=()
clean_up() {
    [ ${#emulators[@]} = 0 ] || kill "${emulators[@]}" 2>/dev/null || true
    wait
    rm -rf "$dir"
}
trap clean_up EXIT
trap 'exit 1' INT TERM

# emulator NAME FLAG...: starts one on a free port and sets `connection`. Lines that are written to
# $dir/NAME.control are its standard input.
emulator() {
    local name=$1
    shift
    mkfifo "$dir/$name.control"
    touch "$dir/$name.out"
    # Opened for both: so it neither waits for a writer nor ends with the first one.
    "$WPS" emulator --json "$@" <>"$dir/$name.control" >"$dir/$name.out" 2>"$dir/$name.log" &
    emulators+=($!)
    for _ in $(seq 100); do
        connection=$(sed -n 's/.*"connectionString": *"\([^"]*\)".*/\1/p' "$dir/$name.out")
        [ -z "$connection" ] || return 0
        kill -0 "${emulators[-1]}" 2>/dev/null || break
        sleep 0.1
    done
    cat "$dir/$name.log" >&2
    fail "the emulator does not start"
}

# program NAME COMMAND...: runs a program with two emulators of its own, which have the flags
# `flags` too.
checks=0
program() {
    local name=$1
    shift
    printf '\n--- %s\n' "$name"
    emulator "$name" --event-answer echo "${flags[@]}"
    export WPS_CONNECTION_STRING=$connection WPS_CONTROL="$dir/$name.control"
    emulator "$name-no-handler" "${flags[@]}"
    export WPS_CONNECTION_STRING_NO_HANDLER=$connection
    local status=0
    "$@" | tee "$dir/$name.checks" || status=$?
    [ "$status" = 0 ] || {
        tail -n 20 "$dir/$name.log" >&2
        fail "$name, exit code $status"
    }
    kill "${emulators[@]}"
    wait "${emulators[@]}" 2>/dev/null || true
    emulators=()
    checks=$((checks + $(grep -c '^ok - ' "$dir/$name.checks")))
}

flags=()
used=()

javascript() {
    command -v node >/dev/null && command -v npm >/dev/null || { skip "JavaScript: no node with npm"; return; }
    [ "$(node -p 'process.versions.node.split(".")[0] >= 20')" = true ] || { skip "JavaScript: node is older than 20"; return; }
    mkdir -p "$work/js"
    # Modules are looked for beside the program, so it is copied.
    cp js/*.mjs "$work/js/"
    if ! cmp -s js/package-lock.json "$work/js/installed"; then
        cp js/package.json js/package-lock.json "$work/js/"
        (cd "$work/js" && npm ci --ignore-scripts --no-audit --no-fund) >"$dir/npm.log" 2>&1 || {
            ! npm ping --fetch-retries=0 --fetch-timeout=10000 >/dev/null 2>&1 ||
                { cat "$dir/npm.log" >&2; fail "the npm packages cannot be installed"; }
            skip "JavaScript: the npm registry cannot be reached"
            return
        }
        cp js/package-lock.json "$work/js/installed"
    fi
    local version
    version() { (cd "$work/js" && node -p "JSON.parse(fs.readFileSync('node_modules/$1/package.json')).version"); }
    used+=("Node $(node --version): @azure/web-pubsub-client $(version @azure/web-pubsub-client), ws $(version ws)")
    program official-js node "$work/js/official.mjs"
    program plain-js node "$work/js/plain.mjs"
    streams_program
    # Without it the official client does not go on with its streams after a recovery.
    local flags=(--connected-after-recovery)
    program streams-js node "$work/js/streams.mjs"
}

python() {
    command -v python3 >/dev/null && python3 -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null ||
        { skip "Python: no python3 with venv, or older than 3.10"; return; }
    local python="$work/python/bin/python"
    if ! cmp -s python/requirements.txt "$work/python/installed"; then
        rm -rf "$work/python"
        python3 -m venv "$work/python"
        "$python" -m pip install --quiet --disable-pip-version-check -r python/requirements.txt >"$dir/pip.log" 2>&1 || {
            ! "$python" -m pip index versions websockets --retries 0 --timeout 10 >/dev/null 2>&1 ||
                { cat "$dir/pip.log" >&2; fail "the Python packages cannot be installed"; }
            skip "Python: the package index cannot be reached"
            return
        }
        cp python/requirements.txt "$work/python/installed"
    fi
    export PYTHONDONTWRITEBYTECODE=1
    version() { sed -n "s/^$1==//p" python/requirements.txt; }
    used+=("$(python3 --version): azure-messaging-webpubsubclient $(version azure-messaging-webpubsubclient), websockets $(version websockets)")
    # An answer that comes at once is missed by the official client, which then waits for its limit.
    local flags=(--latency 20)
    program official-python "$python" python/official.py
    flags=()
    program plain-python "$python" python/plain.py
}

java_() {
    command -v javac >/dev/null && command -v java >/dev/null || { skip "Java: no JDK"; return; }
    local version
    version=$(javac -version 2>&1 | sed -n 's/^javac \([0-9]*\).*/\1/p')
    [ "${version:-0}" -ge 17 ] || { skip "Java: the JDK is older than 17"; return; }
    used+=("$(javac -version 2>&1 | sed 's/javac/JDK/'): java.net.http.WebSocket")
    program plain-java java -Dfile.encoding=UTF-8 java/Plain.java
}

javascript
python
java_

# The plain programs prove the same; a check that one of them lacks would not be missed otherwise.
first=
for name in plain-js plain-python plain-java; do
    [ -f "$dir/$name.checks" ] || continue
    diff "$dir/${first:-$name}.checks" "$dir/$name.checks" || fail "$first and $name do not check the same"
    first=${first:-$name}
done

printf '\n%d checks passed in %d s\n' "$checks" "$SECONDS"
[ ${#used[@]} = 0 ] || printf '    %s\n' "${used[@]}"
[ ${#skipped[@]} = 0 ] || printf 'SKIPPED: %s\n' "${skipped[@]}"

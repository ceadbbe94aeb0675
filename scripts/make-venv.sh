#!/bin/sh
# Make .venv from a lock of exact versions with hashes, or say in one line what is missing.
#   scripts/make-venv.sh VENV LOCK      (PYTHON=… picks the interpreter)
set -eu
venv=$1 lock=$2
log=$venv/pip.log

fail() { echo "error: $*" >&2; exit 2; }
recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
has_venv() { "$1" -c 'import venv, ensurepip' 2>/dev/null; }

choose_python() {
    seen='' lacks_venv=''
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        command -v "$candidate" >/dev/null 2>&1 || continue
        version=$("$candidate" -c 'import platform; print(platform.python_version())' 2>/dev/null) || continue
        seen="$seen $candidate=$version"
        recent "$candidate" || continue
        if has_venv "$candidate"; then echo "$candidate"; return; fi
        lacks_venv=$candidate
    done
    [ -z "$lacks_venv" ] || fail "$lacks_venv has no venv module; install it (Debian: apt install python3-venv) or set PYTHON=/path/to/python3.11"
    fail "Python 3.11 or later is needed, found:${seen:- none}; install one or set PYTHON=/path/to/python3.11"
}

free_mb=$(df -Pk . | awk 'NR == 2 { print int($4 / 1024) }')
[ "$free_mb" -ge 1000 ] || fail "$(pwd) has $free_mb MB free, .venv needs 1000; free some space"

if ! recent "$venv/bin/python"; then
    python=$(choose_python)
    rm -rf "$venv"
    "$python" -m venv "$venv" || fail "$python -m venv $venv failed (above); set PYTHON=/path/to/another/python3.11"
fi

echo "installing $lock into $venv, once ..." >&2
began=$(date +%s)
if ! "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --retries 2 \
        --no-deps --require-hashes -r "$lock" >"$log" 2>&1; then
    if grep -q 'No space left' "$log"; then
        fail "the disk is full; free some space and try again (log: $log)"
    elif grep -q 'DO NOT MATCH THE HASHES' "$log"; then
        fail "a package is not the one $lock names, nothing was installed; try again, or see $log"
    elif grep -qE 'NewConnectionError|NameResolutionError|ConnectTimeout|ReadTimeout|ProxyError|SSLError|Connection (broken|refused|reset)' "$log"; then
        fail "the Python package registry can't be reached and pip has not cached what $lock needs; check the network or pip's index setting (log: $log)"
    else
        fail "pip could not install $lock: $(grep -i '^error' "$log" | tail -1); see $log"
    fi
fi

# the console entry `pipeline`; the code stays where it is
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --no-deps --no-index \
        --no-build-isolation --editable . >>"$log" 2>&1 \
    || fail "pip could not put this tree into $venv: $(grep -i '^error' "$log" | tail -1); see $log"
echo "installing $lock took $(($(date +%s) - began)) s" >&2

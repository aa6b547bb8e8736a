#!/usr/bin/env bash
# Runs the fast tests in fresh clones of the given folder names, with the dependencies of an environment that is there.
# The repository's root is the package, so a test run must not depend on what the root is called.
set -euo pipefail
root=$(git rev-parse --show-toplevel)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
site=$("$BIN/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
for name in "$@"; do
    git clone --quiet --local "$root" "$work/$name"
    "$BIN/python" -m venv --without-pip "$work/$name/.venv"
    echo "$site" >"$("$work/$name/.venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/base.pth"
    "$BIN/python" -m pip --disable-pip-version-check --python "$work/$name/.venv/bin/python" install --quiet \
        --no-deps --no-build-isolation --editable "$work/$name"
    echo "in a folder named $name:"
    (cd "$work/$name" && .venv/bin/python -m pytest -q tests/schemas tests/runners/test_family_1d_sweep.py)
done

#!/usr/bin/env bash
# Builds and runs every test, each in one of two builds: g++'s release (real NVRTC, the binary, whole models, what only the software
# GPU's checked doubles see) and clang's sanitized one (unit tests, every test that needs a GPU, on the software GPU; fuzz targets).
# From a fresh checkout on Debian 12 or Ubuntu 24.04, as root or with sudo.
# Usage: tools/check.sh. Ends with ctest's summary and its exit code.
set -euo pipefail
. "$(dirname "$0")/deps.sh"

install_packages "${BUILD_PACKAGES[@]}" "${TEST_PACKAGES[@]}" "${FETCH_PACKAGES[@]}"
provide_cuda
# In the time that the release build and its tests leave: the model, the other compiler and its build.
set -m   # a background job is a process group, which can be ended as a whole
trap 'for job in $(jobs -p); do kill -- "-$job" 2>/dev/null; done' EXIT
model=
if [ -z "${SPARKJIT_TEST_MODELS:-}" ]; then
  provide_model & model=$!
fi
mkdir -p "$ROOT/build"
nice -n 19 "$ROOT/tools/check_sanitizers.sh" --build-only > "$ROOT/build/asan.log" 2>&1 & sanitized=$!

release=$ROOT/build/release
configure_check release
cmake --build "$release" --target check_plain >&2
if [ -n "$model" ]; then
  wait "$model" && export SPARKJIT_TEST_MODELS=$DEPS/models || say "no model file: the tests that need one will skip"
fi
say "release built after $SECONDS s"
ctest --test-dir "$release" -j2 --output-on-failure -L "$PLAIN_LABELS"
say "release tested after $SECONDS s"
wait "$sanitized" || { tail -n 40 "$ROOT/build/asan.log" >&2; say "the sanitized build fails"; exit 1; }

exec bash "$ROOT/tools/check_sanitizers.sh"

#!/usr/bin/env bash
# Builds and runs every test, each in one of two builds: g++'s release (real NVRTC, the binary, whole models, what only the software
# GPU's checked doubles see) and clang's sanitized one (unit tests, every test that needs a GPU, on the software GPU; fuzz targets).
# From a fresh checkout on Debian 12 or Ubuntu 24.04, as root or with sudo.
# Usage: tools/check.sh. Ends with ctest's summary and its exit code.
set -euo pipefail
. "$(dirname "$0")/deps.sh"

install_packages "${BUILD_PACKAGES[@]}" "${TEST_PACKAGES[@]}" "${CLANG_PACKAGES[@]}" "${FETCH_PACKAGES[@]}"
provide_cuda
model=
if [ -z "${SPARKJIT_TEST_MODELS:-}" ]; then
  provide_model & model=$!   # while the compiler works
fi

release=$ROOT/build/release
configure_check release
cmake --build "$release" --target check_plain >&2
if [ -n "$model" ]; then
  wait "$model" && export SPARKJIT_TEST_MODELS=$DEPS/models || say "no model file: the tests that need one will skip"
fi
say "release built after $SECONDS s"
ctest --test-dir "$release" -j2 --output-on-failure -L "$PLAIN_LABELS"
say "release tested after $SECONDS s"

exec bash "$ROOT/tools/check_sanitizers.sh"

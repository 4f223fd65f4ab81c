#!/usr/bin/env bash
# Builds everything and runs every test (those that need a GPU on the software GPU), then the tests of file readers again under
# sanitizers; from a fresh checkout on Debian 12 or Ubuntu 24.04, as root or with sudo.
# Usage: tools/check.sh. Ends with ctest's summary and its exit code.
set -euo pipefail
. "$(dirname "$0")/deps.sh"

install_packages "${BUILD_PACKAGES[@]}" "${TEST_PACKAGES[@]}"
provide_cuda
if [ -z "${SPARKJIT_TEST_MODELS:-}" ]; then
  provide_model && export SPARKJIT_TEST_MODELS=$DEPS/models || say "no model file: the tests that need one will skip"
fi

configure_check release
cmake --build "$ROOT/build/release" >&2
ctest --test-dir "$ROOT/build/release" -j2 --output-on-failure
say "built and tested after $SECONDS s"

bash "$ROOT/tools/check_sanitizers.sh"
say "all tests passed; check.sh took $SECONDS s"

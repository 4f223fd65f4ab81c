#!/usr/bin/env bash
# Builds everything and runs every test; from a fresh checkout on Debian 12 or Ubuntu 24.04, as root or with sudo.
# Usage: tools/check.sh. Ends with ctest's summary and its exit code.
set -euo pipefail
. "$(dirname "$0")/deps.sh"

install_packages "${BUILD_PACKAGES[@]}" "${TEST_PACKAGES[@]}"
provide_cuda
if [ -z "${SPARKJIT_TEST_MODELS:-}" ]; then
  provide_model && export SPARKJIT_TEST_MODELS=$DEPS/models || say "no model file: the tests that need one will skip"
fi

# Reading files from strangers is where sanitizers pay: container, tokenizer, cache.
configure asan
asan_tests=$(cd "$ROOT/tests" && ls models/*_test.cpp cache/*_test.cpp | sed 's/\.cpp$//; s#/#_#g')
cmake --build "$ROOT/build/asan" --target $asan_tests >&2
ctest --test-dir "$ROOT/build/asan" -j2 --output-on-failure -L unit -R "^($(echo $asan_tests | tr ' ' '|'))\$"

configure release
cmake --build "$ROOT/build/release" >&2
ctest --test-dir "$ROOT/build/release" -j2 --output-on-failure

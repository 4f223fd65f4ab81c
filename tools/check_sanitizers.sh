#!/usr/bin/env bash
# The tests of what reads strangers' files (container, tokenizer, cache), under AddressSanitizer and UBSan.
# Usage: tools/check_sanitizers.sh. Not yet part of check.sh: it has to be seen green and inside the time first.
set -euo pipefail
. "$(dirname "$0")/deps.sh"

install_packages "${BUILD_PACKAGES[@]}" "${TEST_PACKAGES[@]}"
provide_cuda

# Reading files from strangers is where sanitizers pay: container, tokenizer, cache.
configure asan
asan_tests=$(cd "$ROOT/tests" && ls models/*_test.cpp cache/*_test.cpp | sed 's/\.cpp$//; s#/#_#g')
cmake --build "$ROOT/build/asan" --target $asan_tests >&2
ctest --test-dir "$ROOT/build/asan" -j2 --output-on-failure -L unit -R "^($(echo $asan_tests | tr ' ' '|'))\$"

#!/usr/bin/env bash
# The tests of what reads strangers' files (container, tokenizer, cache), under AddressSanitizer and UBSan. Part of check.sh.
# Usage: tools/check_sanitizers.sh
set -euo pipefail
. "$(dirname "$0")/deps.sh"

install_packages "${BUILD_PACKAGES[@]}" "${TEST_PACKAGES[@]}"
provide_cuda

configure_check asan
# Not bundle_faults: it filters system calls, which has not been made to work under AddressSanitizer.
readers='cache/(cubin_store|store_faults|bundle|bundle_lookup|signature)|models/(dequant|gguf_file|mapped_file|model_desc|pretokenizer|tokenizer|utf8_stream)'
tests=$(cd "$ROOT/tests" && ls */*_test.cpp | grep -E "^($readers)_test" | sed 's/\.cpp$//; s#/#_#g')
cmake --build "$ROOT/build/asan" --target $tests >&2
ctest --test-dir "$ROOT/build/asan" -j2 --output-on-failure -R "^($(echo $tests | tr ' ' '|'))\$"

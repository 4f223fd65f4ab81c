#!/usr/bin/env bash
# The tests of what reads strangers' files (container, tokenizer, cache), under AddressSanitizer and UBSan, and their fuzz targets
# on random mutations of the seeds. Part of check.sh. Usage: tools/check_sanitizers.sh [SECONDS a fuzz target; default 4]
set -euo pipefail
. "$(dirname "$0")/deps.sh"

install_packages "${BUILD_PACKAGES[@]}" "${TEST_PACKAGES[@]}"
provide_cuda

configure_check asan
readers='cache/(cubin_store|bundle|bundle_faults|bundle_lookup|signature|tuning_db)|models/(dequant|gguf_file|mapped_file|model_desc|pretokenizer|tokenizer|utf8_stream)'
tests=$(cd "$ROOT/tests" && ls */*_test.cpp | grep -E "^($readers)_test" | sed 's/\.cpp$//; s#/#_#g')
fuzzers=$(cd "$ROOT/tests/fuzz" && ls *_fuzz.cpp | sed 's/_fuzz\.cpp$//')
cmake --build "$ROOT/build/asan" --target $tests $(printf 'fuzz_%s_replay ' $fuzzers) >&2
ctest --test-dir "$ROOT/build/asan" -j2 --output-on-failure -R "^($(echo $tests | tr ' ' '|'))\$"

# A blind search: one led by coverage (tools/fuzz.sh) needs clang and a second build, more time than all of this takes.
export ASAN_OPTIONS=abort_on_error=1:max_allocation_size_mb=512:malloc_context_size=2:quarantine_size_mb=16
fuzz() {
  mkdir -p "$ROOT/build/asan/fuzz/$1" && cd "$ROOT/build/asan/fuzz/$1"
  "$ROOT/build/asan/tests/fuzz/fuzz_$1_replay" "$ROOT/tests/fuzz/corpus/$1" "$2" > log 2>&1 ||
    { tail -n 40 log; echo "fuzz_$1_replay fails; its input, in base64:"; base64 fuzz-input; return 1; }
  echo "$1: $(tail -n 1 log)"
}
export -f fuzz && export ROOT
printf '%s\n' $fuzzers | xargs -P 2 -I{} bash -c 'fuzz {} '"${1:-4}"

#!/usr/bin/env bash
# On a machine with a GPU: runs every test labelled gpu and the benchmark, from a folder that was built elsewhere. Needs
# neither CMake nor a compiler, only the driver and NVRTC.
# Usage: tools/gpu_check.sh BUILD_DIR LOG_DIR [MODEL.gguf...]
# Writes a log a test, summary.txt, doctor.txt and for each model bench-*.md. Models default to those in
# $SPARKJIT_TEST_MODELS. Exit code 1 if any test failed.
set -uo pipefail
[ $# -ge 2 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2; }
build=$(cd "$1" && pwd) || exit 2
mkdir -p "$2" && logs=$(cd "$2" && pwd) || exit 2
shift 2
models=("$@")
if [ ${#models[@]} -eq 0 ] && [ -n "${SPARKJIT_TEST_MODELS:-}" ]; then models=("$SPARKJIT_TEST_MODELS"/*.gguf); fi
source_dir=$(cd "$(dirname "$0")/.." && pwd)
if [ -z "${SPARKJIT_GOLDENS:-}" ] && [ -d "$source_dir/../shared/goldens" ]; then export SPARKJIT_GOLDENS=$source_dir/../shared/goldens; fi
[ -f "$build/gpu_tests.txt" ] || { echo "$build/gpu_tests.txt is missing: build the tests first" >&2; exit 2; }

passed=0 failed=0 skipped=0
: > "$logs/summary.txt"
"$build/sparkjit" doctor > "$logs/doctor.txt" 2>&1
cat "$logs/doctor.txt"

# A line: name, path relative to the build folder, arguments.
while read -r name program arguments; do
  start=$(date +%s.%N)
  # shellcheck disable=SC2086
  timeout 600 "$build/$program" $arguments > "$logs/$name.log" 2>&1
  code=$?
  seconds=$(awk -v a="$start" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f", b - a }')
  # GoogleTest exits 0 when it skips; a run in which nothing passed has shown nothing.
  if [ $code -eq 77 ] || { [ $code -eq 0 ] && grep -q '\[  SKIPPED \]' "$logs/$name.log" && grep -q '\[  PASSED  \] 0 tests' "$logs/$name.log"; }; then
    skipped=$((skipped + 1)); verdict=skipped
  elif [ $code -eq 0 ]; then
    passed=$((passed + 1)); verdict=passed
  else
    failed=$((failed + 1)); verdict="FAILED ($code)"
    tail -n 30 "$logs/$name.log"
  fi
  echo "$verdict $name ${seconds}s" | tee -a "$logs/summary.txt"
done < "$build/gpu_tests.txt"

for model in ${models[@]+"${models[@]}"}; do
  name=$(basename "$model" .gguf)
  for temperature in cold warm; do
    [ $temperature = cold ] && rm -rf "$logs/cache-$name"
    echo "$name, $temperature cache" | tee -a "$logs/timings.txt"
    "$build/sparkjit" run -m "$model" -p "The capital of France is" -n 32 --temp 0 --device cuda --cache-dir "$logs/cache-$name" --timings \
      2>&1 | tee -a "$logs/timings.txt"
  done
  "$build/sparkjit" bench -m "$model" --device cuda -p 512 -d 128,512,4096 -n 128 -r 5 --per-op --cache-dir "$logs/cache-$name" \
    > "$logs/bench-$name.md" 2> "$logs/bench-$name.err" || { failed=$((failed + 1)); cat "$logs/bench-$name.err"; }
  cat "$logs/bench-$name.md"
  rm -rf "$logs/cache-$name"
done

echo "$passed passed, $failed failed, $skipped skipped" | tee -a "$logs/summary.txt"
[ $failed -eq 0 ]

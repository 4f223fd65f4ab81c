#!/usr/bin/env bash
# Builds sparkjit and its tests for aarch64 (DGX Spark and other ARM hosts) with Debian's cross compiler, and runs the unit
# tests under qemu's user emulation. Tests that need NVRTC or a GPU are left out: neither exists under emulation.
# Usage: tools/check_aarch64.sh
set -euo pipefail
. "$(dirname "$0")/deps.sh"
prefix=$DEPS/aarch64

install_packages cmake ninja-build g++-aarch64-linux-gnu qemu-user googletest dpkg-dev
provide_cuda

# Libraries for the target are unpacked below build/deps with an apt state of its own: the system keeps its architectures.
libraries="libpcre2-dev libutf8proc-dev libsodium-dev libxxhash-dev libfmt-dev libfmt9 libtomlplusplus-dev libcli11-dev nlohmann-json3-dev"
if [ "$(cat "$prefix/.complete" 2>/dev/null)" != "$libraries" ]; then
  say "fetching the libraries for arm64"
  rm -rf "$prefix" && mkdir -p "$prefix/debs" "$prefix/apt/lists/partial" "$prefix/apt/cache/archives/partial"
  apt_arm64() {
    apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o Dir::State::lists="$prefix/apt/lists" \
      -o Dir::Cache="$prefix/apt/cache" -o APT::Sandbox::User= -o Debug::NoLocking=1 "$@" >&2
  }
  apt_arm64 update
  # shellcheck disable=SC2086
  (cd "$prefix/debs" && apt_arm64 download $libraries)
  for package in "$prefix"/debs/*.deb; do dpkg-deb -x "$package" "$prefix"; done
  cmake -S /usr/src/googletest -B "$prefix/googletest" -G Ninja -DCMAKE_TOOLCHAIN_FILE="$ROOT/cmake/aarch64-linux-gnu.cmake" \
    -DCMAKE_BUILD_TYPE=Release -DCMAKE_INSTALL_PREFIX="$prefix/usr" -DBUILD_GMOCK=OFF >&2
  cmake --build "$prefix/googletest" --target install >&2
  echo "$libraries" > "$prefix/.complete"
fi

configure_check release -B "$ROOT/build/aarch64" -DCMAKE_TOOLCHAIN_FILE="$ROOT/cmake/aarch64-linux-gnu.cmake" \
  -DSPARKJIT_TARGET_LIBRARIES="$prefix"
cmake --build "$ROOT/build/aarch64" >&2
# A limit in seconds says nothing of an emulated processor.
ctest --test-dir "$ROOT/build/aarch64" -j2 --output-on-failure -L unit -LE "nvrtc|gpu" -E gguf_limits

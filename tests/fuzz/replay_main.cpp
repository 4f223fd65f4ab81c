// Runs a fuzz target without clang, built like any test: once over every file of a folder, so that the committed seeds and every
// input that once broke something stay green; then, if asked, over random mutations of them. That search is blind (libFuzzer's, in
// tools/fuzz.sh, is led by coverage) but needs no second compiler. Usage: <target>_replay FOLDER [SECONDS]
// Not one file is an error, or the test could not fail. An input that ends the program is left in ./fuzz-input.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
extern "C" __attribute__((weak)) int LLVMFuzzerInitialize(int* argc, char*** argv);

namespace {

constexpr double kSlow_s = 1;   // of processor time: a busy machine is no hang
constexpr size_t kMaxBytes = 4096;

std::string input;   // the one that runs

/// Leaves the input behind; sanitizers get here with ASAN_OPTIONS=abort_on_error=1.
void keep_input(int) {
  const int fd = ::open("fuzz-input", O_WRONLY | O_CREAT | O_TRUNC, 0644);
  if (fd < 0 || ::write(fd, input.data(), input.size()) < 0) std::_Exit(3);
  std::_Exit(1);
}

/// Runs `input`; false when it took too long.
bool run_input() {
  const std::clock_t start = std::clock();
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(input.data()), input.size());
  return double(std::clock() - start) / CLOCKS_PER_SEC <= kSlow_s;
}

/// One random change: a bit, a byte, a number at any place, a piece taken out, moved or taken from another seed.
void mutate(std::string& bytes, const std::vector<std::string>& seeds, std::mt19937_64& random) {
  const auto below = [&](size_t n) { return n == 0 ? 0 : size_t(random() % n); };
  const size_t at = below(bytes.size());
  const std::string& other = seeds[below(seeds.size())];
  switch (bytes.empty() ? 5 : below(6)) {
    case 0: bytes[at] = char(bytes[at] ^ (1 << below(8))); break;
    case 1: bytes[at] = char(random()); break;
    case 2: {
      const size_t n_bytes = std::min<size_t>(bytes.size() - at, size_t{1} << below(4));
      const uint64_t near[] = {0, 1, ~0ull, 1ull << below(64), (1ull << below(64)) - 1, bytes.size(), bytes.size() - at, random()};
      const uint64_t value = near[below(std::size(near))] + below(3) - 1;
      for (size_t i = 0; i < n_bytes; ++i) bytes[at + i] = char(value >> (8 * i));
      break;
    }
    case 3: bytes.erase(at, 1 + below(std::min<size_t>(bytes.size() - at, 64))); break;
    case 4: bytes.insert(below(bytes.size()), bytes.substr(at, 1 + below(64))); break;
    default: bytes.insert(at, other.substr(below(other.size()), 1 + below(256)));
  }
  if (bytes.size() > kMaxBytes) bytes.resize(kMaxBytes);
}

/// Returns how many inputs were slow.
int search(const std::vector<std::string>& seeds, double seconds) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  std::mt19937_64 random(std::random_device{}());
  uint64_t n_runs = 0;
  int n_slow = 0;
  for (; std::chrono::steady_clock::now() < end; ++n_runs) {
    input = seeds[random() % seeds.size()];
    for (uint64_t n = 1 + random() % 8; n > 0; --n) mutate(input, seeds, random);
    if (!run_input() && ++n_slow == 1) std::ofstream("fuzz-input", std::ios::binary) << input;
  }
  std::fprintf(stderr, "%llu random inputs, %d of them slow\n", static_cast<unsigned long long>(n_runs), n_slow);
  return n_slow;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2 && argc != 3) return 2;
  if (LLVMFuzzerInitialize != nullptr) LLVMFuzzerInitialize(&argc, &argv);
  std::signal(SIGABRT, keep_input);
  std::vector<std::string> seeds;
  int n_slow = 0;
  for (const auto& entry : std::filesystem::directory_iterator(argv[1])) {
    std::ifstream in(entry.path(), std::ios::binary);
    seeds.emplace_back(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
    std::fprintf(stderr, "%s\n", entry.path().filename().c_str());   // the last one printed is the one that broke
    input = seeds.back();
    n_slow += !run_input();
  }
  std::fprintf(stderr, "%zu files, %d of them slow\n", seeds.size(), n_slow);
  if (argc == 3 && !seeds.empty()) n_slow += search(seeds, std::atof(argv[2]));
  return !seeds.empty() && n_slow == 0 ? 0 : 1;
}

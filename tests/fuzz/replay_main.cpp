// Runs a fuzz target once over every file of a folder, built like any test: the committed seeds and every input that once broke
// something stay green without clang. Usage: <target>_replay FOLDER. Not one file is an error, or the test could not fail.
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
extern "C" __attribute__((weak)) int LLVMFuzzerInitialize(int* argc, char*** argv);

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  if (LLVMFuzzerInitialize != nullptr) LLVMFuzzerInitialize(&argc, &argv);
  int n_files = 0, n_slow = 0;
  for (const auto& entry : std::filesystem::directory_iterator(argv[1])) {
    std::ifstream in(entry.path(), std::ios::binary);
    const std::string bytes{std::istreambuf_iterator<char>(in), {}};
    std::fprintf(stderr, "%s\n", entry.path().filename().c_str());   // the last one printed is the one that broke
    const auto start = std::chrono::steady_clock::now();
    LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
    n_slow += std::chrono::steady_clock::now() - start > std::chrono::seconds(5);
    ++n_files;
  }
  std::fprintf(stderr, "%d files, %d of them slow\n", n_files, n_slow);
  return n_files > 0 && n_slow == 0 ? 0 : 1;
}

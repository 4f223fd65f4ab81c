// 16 processes read a cubin store while 4 write and 2 evict, for as many seconds as asked: every entry that is found must be
// the one that was written. Usage: cache_soak SECONDS. Prints what was done; exit code 1 when a load failed.
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <random>

#include "cache/cubin_store.h"
#include "jit/base/log.h"
#include "tests/cache/fake_cubin.h"
#include "tests/support/temp_folder.h"

namespace sj {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kReaders = 16, kWriters = 4, kEvictors = 2;
constexpr uint32_t kKeys = 200;
constexpr uint64_t kEntryBytes = 10'000, kMaxBytes = kKeys * kEntryBytes / 2;   // half of the keys fit

/// In memory that all processes share.
struct Counts {
  std::atomic<uint64_t> n_hits, n_misses, n_failed, n_writes, n_refused, n_evicted, n_log_lines;
};

/// The entry's name and length follow from its key, so a reader knows what it must get.
Cubin cubin_of(uint32_t key) { return test::fake_cubin("sj_" + std::string(key % 20, 'k'), kEntryBytes + key); }

void read_some(CubinStore& store, std::mt19937& random, Counts& counts) {
  const uint32_t key = random() % kKeys;
  const std::optional<Cubin> found = store.find(test::fake_key(key));
  if (!found) ++counts.n_misses;
  else if (found->bytes == cubin_of(key).bytes && found->entry == cubin_of(key).entry) ++counts.n_hits;
  else ++counts.n_failed;
}

void write_some(CubinStore& store, std::mt19937& random, Counts& counts) {
  const uint32_t key = random() % kKeys;
  ++(store.insert(test::fake_key(key), cubin_of(key)) ? counts.n_writes : counts.n_refused);
}

/// Evicts down to a random size. Young entries stay, so their stamps are made old first: as if hours had passed.
void evict_some(CubinStore& store, std::mt19937& random, Counts& counts) {
  std::error_code ignored;   // entries come and go
  for (auto item = std::filesystem::recursive_directory_iterator(store.dir(), ignored); !ignored && item != std::filesystem::recursive_directory_iterator();
       item.increment(ignored))
    if (item->path().extension() == ".cubin" && random() % 2 == 0)
      std::filesystem::last_write_time(item->path(), std::filesystem::file_time_type::clock::now() - std::chrono::hours(2), ignored);
  counts.n_evicted += store.collect_garbage(random() % kMaxBytes);
  ::usleep(20'000);
}

pid_t start(void (*work)(CubinStore&, std::mt19937&, Counts&), const std::string& dir, unsigned seed, Clock::time_point end, Counts& counts) {
  const pid_t child = ::fork();
  if (child != 0) return child;
  set_log_sink([&counts](std::string_view line) {   // a warning means that something was damaged or refused
    std::fprintf(stderr, "%.*s\n", static_cast<int>(line.size()), line.data());
    ++counts.n_log_lines;
  });
  std::mt19937 random(seed);
  while (Clock::now() < end) {
    CubinStore store(dir, kMaxBytes);   // a process that starts anew
    for (int i = 0; i < 200 && Clock::now() < end; ++i) work(store, random, counts);
  }
  ::_exit(0);
}

int soak(int n_seconds) {
  void* shared = ::mmap(nullptr, sizeof(Counts), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) return 2;
  Counts& counts = *new (shared) Counts{};
  const test::TempFolder folder;
  const Clock::time_point end = Clock::now() + std::chrono::seconds(n_seconds);
  unsigned seed = 1;
  std::vector<pid_t> children;
  for (int i = 0; i < kReaders; ++i) children.push_back(start(read_some, folder / "cache", seed++, end, counts));
  for (int i = 0; i < kWriters; ++i) children.push_back(start(write_some, folder / "cache", seed++, end, counts));
  for (int i = 0; i < kEvictors; ++i) children.push_back(start(evict_some, folder / "cache", seed++, end, counts));
  int n_crashed = 0;
  for (const pid_t child : children) {
    int status = 0;
    ::waitpid(child, &status, 0);
    n_crashed += WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : 1;
  }
  const StoreStats stats = CubinStore(folder / "cache").stats();
  std::printf("%d s: %llu loads found their entry, %llu missed, %llu failed; %llu entries written, %llu refused, %llu evicted; "
              "%llu quarantined, %llu warnings, %d processes died\n",
              n_seconds, static_cast<unsigned long long>(counts.n_hits), static_cast<unsigned long long>(counts.n_misses),
              static_cast<unsigned long long>(counts.n_failed), static_cast<unsigned long long>(counts.n_writes),
              static_cast<unsigned long long>(counts.n_refused), static_cast<unsigned long long>(counts.n_evicted),
              static_cast<unsigned long long>(stats.n_quarantined), static_cast<unsigned long long>(counts.n_log_lines), n_crashed);
  const bool is_idle = counts.n_hits == 0 || counts.n_writes == 0 || counts.n_evicted == 0;   // then it shows nothing
  const bool is_good = counts.n_failed == 0 && counts.n_refused == 0 && stats.n_quarantined == 0 && counts.n_log_lines == 0 && n_crashed == 0;
  return is_good && !is_idle ? 0 : 1;
}

}  // namespace
}  // namespace sj

int main(int argc, char** argv) {
  const int n_seconds = argc == 2 ? std::atoi(argv[1]) : 0;
  if (n_seconds <= 0) {
    std::fprintf(stderr, "usage: cache_soak SECONDS\n");
    return 2;
  }
  return sj::soak(n_seconds);
}

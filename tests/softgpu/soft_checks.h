// What the checked doubles know of memory that a GPU does not tell: which bytes of device memory hold a value, which launch
// and block wrote them, and the same for shared memory between two barriers. In a plain build every function is empty.
// One host thread runs blocks in the checked build, so nothing here is locked.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace softgpu {

#ifdef SOFT_CHECKED
inline constexpr bool kIsChecked = true;
#else
inline constexpr bool kIsChecked = false;
#endif

/// How the message of a race between blocks begins.
inline constexpr const char* kBlockRace = "block race";

enum class AccessKind : int { kRead = 0, kWrite = 1, kAtomic = 2, kWeight = 3 };

/// Shadow of the device address range: a cell for 4 bytes.
class DeviceShadow {
 public:
  static DeviceShadow& instance();

  void cover(uint64_t base, uint64_t n_bytes);
  /// New memory holds no value; `is_host_visible` memory counts as written by the host at any time.
  void allocated(uint64_t address, uint64_t n_bytes, bool is_host_visible);
  void freed(uint64_t address, uint64_t n_bytes);
  /// The host (or a copy, or a fill) wrote the range; `has_value` false takes the values away.
  void host_wrote(uint64_t address, uint64_t n_bytes, bool has_value);
  /// dst gets the values that src has.
  void host_copied(uint64_t dst, uint64_t src, uint64_t n_bytes);

  struct Reader {
    uint64_t launch_idx;          ///< of the running launch
    uint64_t complete_to;         ///< launches up to this one are complete
    uint64_t also_complete;       ///< and this one; 0: none
    uint32_t block_idx;
    bool may_race;                ///< blocks may touch each other's data (SOFTCUDA_ALLOW=block-race)
  };
  /// Empty when the access is fine; else what is wrong with it.
  std::string check(uint64_t address, uint64_t n_bytes, AccessKind kind, const Reader& reader);
  /// The running launch has `n_blocks`; none of them has done an atomic yet.
  void launch_begins(uint64_t n_blocks);

 private:
  struct Cell {
    uint32_t launch;  ///< last writer; 0: the host
    uint32_t block : 18;     ///< its lower bits
    uint32_t by_block : 4;   ///< bytes that this block wrote; those that another wrote before are forgotten
    uint32_t is_host_visible : 1;
    uint32_t is_atomic : 1;
    uint32_t has_value : 4;  ///< a bit a byte
    uint32_t is_valid : 4;   ///< inside an allocation
  };
  static_assert(sizeof(Cell) == 8);
  Cell* cell(uint64_t address) { return cells_ + (address - base_) / 4; }
  template <class Fn>
  void each(uint64_t address, uint64_t n_bytes, Fn fn);
  uint64_t base_ = 0;
  Cell* cells_ = nullptr;
  std::vector<bool> has_done_atomic_;  ///< by block of the running launch
};

/// Shadow of one block's shared memory: a cell a byte.
class SharedShadow {
 public:
  void cover(uint64_t n_bytes);
  void block_begins() { first_epoch_ = ++epoch_; }
  /// A barrier that all threads passed: what came before it is ordered before what comes after.
  void barrier() { ++epoch_; }

  struct Thread {
    uint16_t idx;
    uint16_t sync;  ///< warp collectives it took part in during this block
  };
  std::string check(uint64_t offset, uint64_t n_bytes, AccessKind kind, const Thread& thread, bool may_be_unwritten);
  /// Bytes that an asynchronous copy will fill: a value is there only when it has landed.
  void take_values(uint64_t offset, uint64_t n_bytes);

 private:
  struct Cell {
    uint32_t write_epoch, read_epoch;
    uint16_t writer, reader;
    uint16_t write_sync, read_sync;
    bool is_atomic;
  };
  static bool is_ordered(uint16_t other, uint16_t other_sync, const Thread& me);
  std::vector<Cell> cells_;
  uint32_t epoch_ = 1, first_epoch_ = 1;
};

/// Name of a launch for messages, remembered for the latest ones.
void remember_launch(uint64_t launch_idx, const std::string& name);
std::string launch_name(uint64_t launch_idx);

}  // namespace softgpu

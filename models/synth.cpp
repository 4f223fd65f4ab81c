#include "models/synth.h"

#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <exception>
#include <filesystem>
#include <mutex>
#include <thread>
#include <vector>

#include <fmt/format.h>

#include "jit/base/error.h"
#include "models/gguf_writer.h"

namespace sj {
namespace {

constexpr uint64_t kPieceBytes = uint64_t{8} << 20;   // one write, one unit of work

/// UTF-8 of the character that stands for a byte in gpt2's alphabet: printable bytes stand for themselves, the others, in
/// ascending order, are U+0100 and following.
std::string byte_token(unsigned byte) {
  const auto is_plain = [](unsigned b) { return (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE; };
  unsigned code = byte;
  if (!is_plain(byte)) {
    code = 0x100;
    for (unsigned b = 0; b < byte; ++b) code += is_plain(b) ? 0 : 1;
  }
  if (code < 0x80) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 63))};
}

/// A byte-level vocabulary of exactly n_vocab tokens: the 256 bytes, a few merges of English, numbered words.
void put_tokenizer(const ShapeTokenizer& t, GgufWriter& w) {
  constexpr std::array<std::array<const char*, 2>, 12> kMerges = {{{"\u0120", "t"}, {"\u0120", "a"}, {"h", "e"}, {"i", "n"}, {"r", "e"}, {"o", "n"},
                                                                 {"\u0120t", "he"}, {"e", "r"}, {"\u0120", "s"}, {"a", "t"}, {"\u0120", "w"}, {"\u0120", "o"}}};
  std::vector<std::string> tokens, merges;
  std::vector<int32_t> types;
  unsigned next_byte = 0;
  size_t next_merge = 0;
  for (uint32_t id = 0; id < t.n_vocab; ++id) {
    const bool is_bos = t.bos_token_id == id, is_eos = t.eos_token_id == id;
    types.push_back(is_bos || is_eos ? 3 : 1);   // control, normal
    if (is_eos) {
      tokens.emplace_back("<|im_end|>");
    } else if (is_bos) {
      tokens.emplace_back("<|im_start|>");
    } else if (next_byte < 256) {
      tokens.push_back(byte_token(next_byte++));
    } else if (next_merge < kMerges.size()) {
      tokens.push_back(std::string(kMerges[next_merge][0]) + kMerges[next_merge][1]);
      merges.push_back(std::string(kMerges[next_merge][0]) + " " + kMerges[next_merge][1]);
      ++next_merge;
    } else {
      tokens.push_back(fmt::format("\u0120w{}", id));
    }
  }
  w.put_string("tokenizer.ggml.model", "gpt2");
  w.put_string("tokenizer.ggml.pre", t.pre);
  w.put_strings("tokenizer.ggml.tokens", tokens);
  w.put_i32s("tokenizer.ggml.token_type", types);
  w.put_strings("tokenizer.ggml.merges", merges);
  if (t.bos_token_id) w.put_u32("tokenizer.ggml.bos_token_id", *t.bos_token_id);
  if (t.eos_token_id) w.put_u32("tokenizer.ggml.eos_token_id", *t.eos_token_id);
  w.put_bool("tokenizer.ggml.add_bos_token", false);
}

GgufWriter compose(const ShapeFile& shape, uint32_t n_layers) {
  GgufWriter w;
  w.put_string("general.architecture", shape.architecture);
  w.put_string("general.type", "model");
  w.put_string("general.name", fmt::format("synthetic {}", shape.name));
  w.put_u32("general.quantization_version", 2);
  for (const auto& [key, value] : shape.hyperparameters) {
    const std::string full = fmt::format("{}.{}", shape.architecture, key);
    if (const auto* number = std::get_if<uint32_t>(&value)) w.put_u32(full, key == "block_count" && n_layers != 0 ? n_layers : *number);
    else if (const auto* real = std::get_if<float>(&value)) w.put_f32(full, *real);
    else if (const auto* flag = std::get_if<bool>(&value)) w.put_bool(full, *flag);
    else w.put_string(full, std::get<std::string>(value));
  }
  put_tokenizer(shape.tokenizer, w);
  for (const ShapeTensor& tensor : shape_tensors(shape, n_layers)) w.add_tensor(tensor.name, tensor.dtype, tensor.shape);
  return w;
}

/// The file under construction: removed again unless committed.
class PartFile {
 public:
  explicit PartFile(const std::string& path) : path_(path), part_path_(fmt::format("{}.{}.part", path, ::getpid())) {
    fd_ = ::open(part_path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd_ < 0) fail("can't create the file");
  }
  ~PartFile() {
    if (fd_ < 0) return;
    ::close(fd_);
    ::unlink(part_path_.c_str());
  }
  PartFile(const PartFile&) = delete;
  PartFile& operator=(const PartFile&) = delete;

  void require_room(uint64_t n_bytes) const {
    struct statvfs info {};
    if (::fstatvfs(fd_, &info) != 0) return;   // then the writes will tell
    const uint64_t free_bytes = uint64_t{info.f_bavail} * info.f_frsize;
    if (free_bytes < n_bytes)
      throw Error(ErrorKind::kIo, fmt::format("{}: not enough room: needs {:.2f} GB, {:.2f} GB are free", path_, 1e-9 * static_cast<double>(n_bytes),
                                              1e-9 * static_cast<double>(free_bytes)));
  }
  void write(std::span<const std::byte> bytes, uint64_t offset) const {
    while (!bytes.empty()) {
      const ssize_t n = ::pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) fail("can't write");
      bytes = bytes.subspan(static_cast<size_t>(n));
      offset += static_cast<uint64_t>(n);
    }
  }
  void commit(uint64_t n_bytes) {
    if (::ftruncate(fd_, static_cast<off_t>(n_bytes)) != 0) fail("can't set the file's size");
    const int fd = std::exchange(fd_, -1);
    if (::close(fd) != 0 || std::rename(part_path_.c_str(), path_.c_str()) != 0) {
      const int error = errno;
      ::unlink(part_path_.c_str());
      errno = error;
      fail("can't finish the file");
    }
  }

 private:
  [[noreturn]] void fail(std::string_view what) const { throw Error(ErrorKind::kIo, fmt::format("{}: {}: {}", path_, what, std::strerror(errno))); }

  std::string path_, part_path_;
  int fd_ = -1;
};

/// Some rows of one tensor, about kPieceBytes.
struct Piece {
  const TensorInfo* tensor = nullptr;
  uint64_t first_row = 0, n_rows = 0;
};

std::vector<Piece> cut_into_pieces(const std::vector<TensorInfo>& tensors) {
  std::vector<Piece> out;
  for (const TensorInfo& tensor : tensors) {
    const uint64_t row_bytes = tensor.n_bytes / tensor.n_rows();
    const uint64_t step = std::max<uint64_t>(1, kPieceBytes / row_bytes);
    for (uint64_t row = 0; row < tensor.n_rows(); row += step) out.push_back({&tensor, row, std::min(step, tensor.n_rows() - row)});
  }
  return out;
}

}  // namespace

uint64_t write_synthetic_gguf(const ShapeFile& shape, const SynthOptions& options) {
  const GgufWriter writer = compose(shape, options.n_layers);
  const uint64_t total_bytes = writer.file_bytes();
  const std::vector<TensorInfo> tensors = writer.tensors();
  const std::vector<Piece> pieces = cut_into_pieces(tensors);
  PartFile file(options.path);
  file.require_room(total_bytes);
  const std::string header = writer.header();
  file.write(std::as_bytes(std::span(header)), 0);

  std::atomic<size_t> next{0};
  std::mutex mutex;   // guards done_bytes, first_error and the progress callback
  uint64_t done_bytes = header.size();
  std::exception_ptr first_error;
  const auto work = [&] {
    std::vector<std::byte> buffer;
    try {
      for (size_t i = next++; i < pieces.size(); i = next++) {
        const Piece& piece = pieces[i];
        const uint64_t row_bytes = piece.tensor->n_bytes / piece.tensor->n_rows();
        buffer.resize(piece.n_rows * row_bytes);
        synthesise_tensor(*piece.tensor, options.seed, piece.first_row, buffer);
        file.write(buffer, piece.tensor->file_offset + piece.first_row * row_bytes);
        const std::lock_guard lock(mutex);
        done_bytes += buffer.size();
        if (options.progress) options.progress(done_bytes, total_bytes);
      }
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (!first_error) first_error = std::current_exception();
      next = pieces.size();
    }
  };
  const uint32_t n_threads = options.n_threads != 0 ? options.n_threads : std::max(1u, std::thread::hardware_concurrency());
  {
    std::vector<std::jthread> threads;
    for (uint32_t i = 1; i < n_threads; ++i) threads.emplace_back(work);
    work();
  }
  if (first_error) std::rethrow_exception(first_error);
  file.commit(total_bytes);
  return total_bytes;
}

GgufFile synthetic_gguf(const ShapeFile& shape, const SynthOptions& options) {
  const GgufWriter writer = compose(shape, options.n_layers);
  return gguf_without_data(writer.header(), writer.file_bytes(), fmt::format("shape {}", shape.name));
}

}  // namespace sj

// What went wrong, for whom, and with which exit code. Every folder throws this one type; only main (and code that
// adds a frame) catches it.
#pragma once

#include <exception>
#include <string>
#include <string_view>

namespace sj {

/// The value is the process's exit code.
enum class ErrorKind : int {
  kUsage = 2,        ///< a flag, an option file or a combination of them
  kIo = 3,           ///< a file that can't be opened, read or written
  kBadModel = 4,     ///< bytes of a model file that break a rule
  kUnsupported = 5,  ///< valid, but not for us (yet), or not on this device
  kCompile = 6,      ///< NVRTC missing, too old, or it refused a kernel
  kCuda = 7,         ///< a driver call failed, no device, no device memory
  kInternal = 70,    ///< our mistake
};

std::string_view kind_name(ErrorKind kind);

/// The project's one exception type.
///
/// `message` names the object, the rule, what was expected and what was found, in one line. `where` is the stack of
/// frames that were added on the way up, innermost first, e.g. "tensor blk.0.attn_q.weight; file m.gguf".
class Error : public std::exception {
 public:
  Error(ErrorKind kind, std::string message, std::string where = {});

  ErrorKind kind() const { return kind_; }
  int exit_code() const { return static_cast<int>(kind_); }
  const std::string& message() const { return message_; }
  const std::string& where() const { return where_; }
  /// "<message> [<where>]": what main prints after "sparkjit: error: ".
  const char* what() const noexcept override { return text_.c_str(); }
  /// The same error with one more frame.
  Error with_frame(std::string_view frame) const;

 private:
  ErrorKind kind_;
  std::string message_;
  std::string where_;
  std::string text_;
};

}  // namespace sj

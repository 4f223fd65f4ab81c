#include "jit/base/error.h"

#include <utility>

namespace sj {

std::string_view kind_name(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kUsage: return "usage";
    case ErrorKind::kIo: return "io";
    case ErrorKind::kBadModel: return "bad model";
    case ErrorKind::kUnsupported: return "unsupported";
    case ErrorKind::kCompile: return "compile";
    case ErrorKind::kCuda: return "cuda";
    case ErrorKind::kInternal: return "internal";
  }
  return "unknown";
}

Error::Error(ErrorKind kind, std::string message, std::string where)
    : kind_(kind), message_(std::move(message)), where_(std::move(where)),
      text_(where_.empty() ? message_ : message_ + " [" + where_ + "]") {}

Error Error::with_frame(std::string_view frame) const {
  return Error(kind_, message_, where_.empty() ? std::string(frame) : where_ + "; " + std::string(frame));
}

}  // namespace sj

// The stages of `inspect` that need a card: launches, compiled kernels, memory. The card may be a profile, so no GPU is
// needed. In: a model and a device name. Out: text. Called by inspect.
#pragma once

#include <span>
#include <string>

#include "jit/device_info.h"
#include "models/gguf_file.h"
#include "models/model_desc.h"
#include "runtime/session.h"

namespace sj {

/// `name` is a profile ("rtx5090", "gb10", "h200", "rtxpro6000"), the path of a profile (*.toml), or cuda / cuda:N for the
/// card in this machine. Throws kUsage, kIo, kCuda.
DeviceInfo require_inspected_device(const std::string& name, const SessionOptions& options);

/// Every launch of the decode step and of the batch step.
std::string specs_text(const ModelDesc& model, const DeviceInfo& device, const SessionOptions& options);
/// Compiles every kernel (or takes it from the cache): registers, spills, shared memory, size, label.
std::string cubins_text(const ModelDesc& model, const DeviceInfo& device, const SessionOptions& options);
/// How fast the decode step would be at each depth; a prediction. `options` must have a context for the deepest.
std::string predict_text(const ModelDesc& model, const DeviceInfo& device, const SessionOptions& options,
                         std::span<const uint32_t> depths);
/// Device memory by purpose, place of every value and state, bytes moved by a step.
std::string plan_text(const GgufFile& file, const ModelDesc& model, const DeviceInfo& device, const SessionOptions& options);

}  // namespace sj

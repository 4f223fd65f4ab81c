// What loading a model onto a GPU takes, whoever loads it: where its weights come from, whether all of it fits, and a context of
// random keys and values. Called by the session and by the tuner's bench.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "jit/device_info.h"
#include "jit/driver.h"
#include "kernel_src/kv_type.h"
#include "runtime/memory_plan.h"
#include "runtime/opened_model.h"
#include "runtime/planner.h"
#include "runtime/weights.h"

namespace sj {

/// The file's weights, or made ones; `opened` must outlive it.
std::unique_ptr<WeightSource> weight_source(const OpenedModel& opened, const DeviceInfo& device);

MemoryNeeds memory_needs(const ModelDesc& model, uint32_t max_ctx_tokens, KvType kv_type, const WeightPlan& weights, const StatePlan& states,
                         std::span<const ArenaPlan> arenas);

/// Random keys and values (fill_random_kv) for the first `n_tokens` positions of all layers. Done on return.
void fill_kv_cache(const Driver& drv, const Stream& stream, const DeviceMemory& memory, const ModelDesc& model, KvType kv_type,
                   uint32_t n_tokens, uint32_t seed);

}  // namespace sj

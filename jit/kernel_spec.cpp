#include "jit/kernel_spec.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>

#include "jit/base/error.h"

namespace sj {
namespace {

std::string int_type(int64_t value) {
  if (value >= 0 && value <= std::numeric_limits<uint32_t>::max()) return "unsigned";
  if (value >= std::numeric_limits<int32_t>::min() && value < 0) return "int";
  return "long long";
}

/// A float literal that NVRTC reads back to exactly float(value).
std::string float_text(double value, bool is_double) {
  if (!std::isfinite(value)) {
    const std::string_view width = is_double ? "" : "f";
    if (std::isnan(value)) return fmt::format("__builtin_nan{}(\"\")", width);
    return fmt::format("{}__builtin_huge_val{}()", value < 0 ? "-" : "", width);
  }
  std::string text = is_double ? fmt::format("{}", value) : fmt::format("{}", static_cast<float>(value));
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  return is_double ? text : text + "f";
}

struct Constant {
  std::string type, text;
};

Constant constant_of(const KernelSpec& spec, const Baked& baked) {
  const auto type_or = [&](std::string fallback) { return baked.type.empty() ? std::move(fallback) : baked.type; };
  if (const auto* i = std::get_if<int64_t>(&baked.value)) {
    // The lowest int64_t has no literal: its digits alone don't fit.
    const std::string text = *i == std::numeric_limits<int64_t>::min() ? "-9223372036854775807LL - 1" : fmt::format("{}", *i);
    return {type_or(int_type(*i)), text};
  }
  if (const auto* d = std::get_if<double>(&baked.value))
    return {type_or("float"), float_text(*d, baked.type == "double")};
  if (const auto* b = std::get_if<bool>(&baked.value)) return {type_or("bool"), *b ? "true" : "false"};
  if (baked.type.empty())
    throw Error(ErrorKind::kInternal, fmt::format("kernel spec {}: baked constant {} is text and has no type", spec.entry, baked.name));
  return {baked.type, std::get<std::string>(baked.value)};
}

}  // namespace

std::string baked_header(const KernelSpec& spec) {
  std::string out = "#pragma once\nnamespace sj::baked {\n";
  for (const Baked& baked : spec.baked) {
    const Constant constant = constant_of(spec, baked);
    out += fmt::format("inline constexpr {} {} = {};\n", constant.type, baked.name, constant.text);
  }
  return out + "}\n";
}

std::string kernel_label(const KernelSpec& spec) {
  std::string out = spec.entry.starts_with("sj_") ? spec.entry.substr(3) : spec.entry;
  std::string list;
  for (const Baked& baked : spec.baked) {
    if (std::holds_alternative<std::string>(baked.value)) continue;  // tables don't fit a label
    std::string text;
    if (const auto* i = std::get_if<int64_t>(&baked.value)) text = fmt::format("{}", *i);
    if (const auto* d = std::get_if<double>(&baked.value)) text = fmt::format("{}", static_cast<float>(*d));
    if (const auto* b = std::get_if<bool>(&baked.value)) text = *b ? "1" : "0";
    list += fmt::format("{}{}={}", list.empty() ? "" : ",", baked.name, text);
  }
  return fmt::format("{}[{}]", out, list);
}

}  // namespace sj

#include "cache/bundle_manifest.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

namespace sj {

using Json = nlohmann::ordered_json;

namespace {

template <class T>
void add_missing(std::vector<T>& list, const std::vector<T>& more) {
  for (const T& item : more)
    if (std::find(list.begin(), list.end(), item) == list.end()) list.push_back(item);
}

BundleManifest read(const Json& json) {
  BundleManifest manifest;
  json.at("made_by").get_to(manifest.made_by);
  for (const Json& c : json.at("compilers"))
    manifest.compilers.push_back({c.at("version").get<int>(), c.at("build_id").get<std::string>()});
  json.at("options").get_to(manifest.options);
  for (const Json& d : json.at("devices"))
    manifest.devices.push_back({.name = d.at("name"), .target = d.at("target"), .n_sms = d.at("n_sms"),
                                .smem_per_block_bytes = d.at("smem_per_block_bytes")});
  for (const Json& m : json.at("models"))
    manifest.models.push_back({.model = m.at("model"), .device = m.at("device"), .prefill_tokens = m.at("prefill_tokens"),
                               .is_f32 = m.at("f32"), .kv_type = m.value("kv_type", "f16"), .n_kernels = m.at("kernels")});
  return manifest;
}

}  // namespace

std::string manifest_text(const BundleManifest& manifest) {
  Json compilers = Json::array(), devices = Json::array(), models = Json::array();
  for (const CompilerId& c : manifest.compilers) compilers.push_back({{"version", c.version}, {"build_id", c.build_id}});
  for (const BundleDevice& d : manifest.devices)
    devices.push_back({{"name", d.name}, {"target", d.target}, {"n_sms", d.n_sms}, {"smem_per_block_bytes", d.smem_per_block_bytes}});
  for (const BundleModel& m : manifest.models)
    models.push_back({{"model", m.model}, {"device", m.device}, {"prefill_tokens", m.prefill_tokens}, {"f32", m.is_f32}, {"kv_type", m.kv_type},
                      {"kernels", m.n_kernels}});
  // A model's name may be any bytes.
  return Json{{"made_by", manifest.made_by}, {"compilers", compilers}, {"options", manifest.options}, {"devices", devices}, {"models", models}}
      .dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::optional<BundleManifest> parse_manifest(std::string_view text, std::string& why) {
  try {
    return read(Json::parse(text));
  } catch (const Json::exception& error) {
    why = error.what();
    return std::nullopt;
  }
}

void merge_manifest(BundleManifest& manifest, const BundleManifest& more) {
  add_missing(manifest.made_by, more.made_by);
  add_missing(manifest.compilers, more.compilers);
  manifest.options.insert(more.options.begin(), more.options.end());
  add_missing(manifest.devices, more.devices);
  add_missing(manifest.models, more.models);
}

std::string purpose_text(const BundleManifest& manifest) {
  std::string text;
  for (const BundleDevice& d : manifest.devices) text += fmt::format("{}{} ({}, {} SMs)", text.empty() ? "" : ", ", d.name, d.target, d.n_sms);
  std::set<std::string> kv_types;
  for (const BundleModel& m : manifest.models) kv_types.insert(m.kv_type);
  return text + fmt::format("{}{}", kv_types.empty() ? "" : ", KV cache ", fmt::join(kv_types, ", "));
}

}  // namespace sj

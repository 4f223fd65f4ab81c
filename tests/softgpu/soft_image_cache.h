// Images that were compiled before, in a folder that all processes share: the tests compile the same kernels again and again.
// In: everything that decides an image's bytes. Out: the image, or nothing. An entry that can't be used is no entry.
#pragma once

#include <optional>
#include <string>

namespace softgpu {

/// The folder: SOFTNVRTC_CACHE, or the build's own; "none" turns it off.
std::string image_cache_folder();

/// `key` is the whole input as text (flags, sources); it is compared byte for byte.
std::optional<std::string> find_image(const std::string& key);

/// Kept for later when that works; failures are silent, as the image is there anyway.
void keep_image(const std::string& key, const std::string& image);

}  // namespace softgpu

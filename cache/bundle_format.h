// Places in a bundle file; cache/bundle.h draws them.
#pragma once

#include <cstddef>
#include <string_view>

namespace sj::bundle_format {

inline constexpr std::string_view kMagic = "SJBUNDLE";
inline constexpr unsigned kVersion = 1;
inline constexpr size_t kVersionAt = 8, kHeaderBytesAt = 12, kFileBytesAt = 16, kManifestBytesAt = 24, kEntriesAt = 32, kEntriesBytesAt = 40,
                        kMetaHashAt = 48, kHeaderHashAt = 112, kHeaderBytes = 128;
inline constexpr size_t kSealAt = kHeaderBytes, kSignatureAt = kSealAt + 32, kSealHashAt = kSealAt + 96, kManifestAt = kSealAt + 112;
inline constexpr size_t kIndexKeyBytes = 16, kIndexOffsetAt = 16, kIndexBytesAt = 24, kIndexDigestAt = 32, kIndexEntryBytes = 64;
/// Precedes what is signed, so that a signature of something else is none of a bundle.
inline constexpr std::string_view kSignedAs = "sparkjit bundle 1\n";

}  // namespace sj::bundle_format

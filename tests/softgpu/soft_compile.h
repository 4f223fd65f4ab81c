// DEVICE TEXT -> HOST SHARED OBJECT. In: the program's texts and the options that matter. Out: an image or a compiler log in
// NVRTC's form. Called by softnvrtc.cpp.
#pragma once

#include <map>
#include <string>
#include <vector>

namespace softgpu {

struct CompileInput {
  std::string name;                            ///< "gemv.cu"
  std::string text;
  std::map<std::string, std::string> headers;  ///< by the name that #include uses
  uint32_t arch = 0;                           ///< 120
  std::vector<std::string> defines;            ///< "-DX=1"
  std::string standard = "-std=c++20";
  bool is_fma_allowed = true;
};

struct CompileOutput {
  std::string image;                   ///< empty after an error
  std::vector<std::string> entries;
  std::string log;
};

/// Bytes that checked images have between two shared variables; 0 in fast ones.
uint64_t shared_padding_bytes();

CompileOutput compile_for_host(const CompileInput& in);

}  // namespace softgpu

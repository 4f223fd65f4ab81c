// What a run of the binary that fails must look like.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/e2e/binary.h"

namespace sj::test {

/// Passes when the run ended with `exit_code` and its error, from "sparkjit: error: " on, has each of `parts`.
inline ::testing::AssertionResult fails(const Outcome& outcome, int exit_code, const std::vector<std::string>& parts) {
  const size_t begin = outcome.err.find("sparkjit: error: ");
  if (outcome.exit_code != exit_code || begin == std::string::npos)
    return ::testing::AssertionFailure() << "exit code " << outcome.exit_code << ", expected " << exit_code << ": " << outcome.err;
  for (const std::string& part : parts)
    if (outcome.err.find(part, begin) == std::string::npos) return ::testing::AssertionFailure() << outcome.err << "lacks: " << part;
  return ::testing::AssertionSuccess();
}

/// The same, and nothing on stdout.
inline void expect_error(const Outcome& outcome, int exit_code, const std::vector<std::string>& parts) {
  EXPECT_TRUE(fails(outcome, exit_code, parts));
  EXPECT_EQ(outcome.out, "");
}

}  // namespace sj::test

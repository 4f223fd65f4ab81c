// Checks of what a refusal says: its kind and the words that name the object, the rule and what was found.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "jit/base/error.h"

namespace sj::test {

/// Runs `action`; passes when it throws an Error of `kind` whose text contains every one of `parts`.
template <class Action, class... Parts>
::testing::AssertionResult throws_error(Action&& action, ErrorKind kind, const Parts&... parts) {
  try {
    action();
  } catch (const Error& error) {
    const std::string text = error.what();
    if (error.kind() != kind)
      return ::testing::AssertionFailure() << "kind is " << kind_name(error.kind()) << ", expected " << kind_name(kind) << ": " << text;
    std::string missing;
    ((missing += text.find(parts) == std::string::npos ? std::string(missing.empty() ? "" : ", ") + parts : std::string()), ...);
    if (!missing.empty()) return ::testing::AssertionFailure() << "the message lacks \"" << missing << "\": " << text;
    return ::testing::AssertionSuccess();
  }
  return ::testing::AssertionFailure() << "nothing was thrown";
}

}  // namespace sj::test

// A small valid call of every public function, for tests that run all of them.
#pragma once
#include <string>

#include "invocation.h"

namespace rankone::test {

// Throws std::logic_error for a function that has none: a new op needs its line in samples.cpp.
Invocation sampleCall(const std::string& function);

}  // namespace rankone::test

// A small valid call of every public function, for tests that run all of them.
#pragma once
#include <string>

#include "invocation.h"

namespace rankone::test {

struct SampleForm {
  DType dtype = DType::F32;  // of what may have half the width
  bool packed = false;       // one row of three sequences, where the function takes cuSeqlens
  bool fused = false;        // norms, activations, the normalizer, where it takes them
};

// Throws std::logic_error for a function that has none: a new op needs its line in samples.cpp.
Invocation sampleCall(const std::string& function, const SampleForm& form = {});

}  // namespace rankone::test

// Every public function of the engine by name: the ops of ops.def and, as rows over the recurrence, the presets.
#pragma once
#include <span>

#include "ops/op.h"

namespace rankone {

struct Entry {
  const char* name;
  const OpSpec* spec;
  const Preset* preset;  // null for an op under its own name
  // Bits by place in the spec.
  uint32_t takesInputs = 0, requiresInputs = 0, takesOptions = 0;
};

std::span<const Entry> entries();

}  // namespace rankone

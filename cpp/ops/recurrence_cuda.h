// Calls of the recurrence grid as the CUDA backend takes them.
#pragma once
#include <memory>

#include "kernels/recurrence.h"
#include "ops/cuda.h"

namespace rankone::cuda {

// Memory for what a forward of this problem leaves for its backward.
std::shared_ptr<SavedForward> makeSaved(const Call& call, const RecurrenceProblem& problem);

// `args` and `z` as the op has bound them: their tensors are on the device, a gate that a preset fixes and all indices
// on the host.
void recurrenceForward(const Call& call, const RecurrenceForward& args, const Normalizer& z);
void recurrenceBackward(const Call& call, const RecurrenceBackward& args);

}  // namespace rankone::cuda

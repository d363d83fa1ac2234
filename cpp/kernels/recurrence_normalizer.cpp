#include <type_traits>

#include "kernels/recurrence.h"

#define RANKONE_KERNEL "kernels/recurrence_normalizer.inl"
#include "core/foreach_isa.h"

namespace rankone {

void normalizerScales(const RecurrenceProblem& p, const Normalizer& z) { RANKONE_PICK(normalizerScales)(p, z); }

void normalizerGradients(const RecurrenceBackward& args, const Normalizer& z, const float* dFinalZ, float* dInitialZ) {
  RANKONE_PICK(normalizerGradients)(args, z, dFinalZ, dInitialZ);
}

}  // namespace rankone

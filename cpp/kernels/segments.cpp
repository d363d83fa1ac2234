#include "kernels/segments.h"

#define RANKONE_KERNEL "kernels/segments.inl"
#include "core/foreach_isa.h"

namespace rankone {

void gateTransitions(const RecurrenceProblem& p, float* out) { RANKONE_PICK(gateTransitions)(p, out); }

void gateTransitionGradients(const RecurrenceProblem& p, const float* dTransition, float* dg) {
  RANKONE_PICK(gateTransitionGradients)(p, dTransition, dg);
}

void keySums(const RecurrenceProblem& p, float* out) { RANKONE_PICK(keySums)(p, out); }

}  // namespace rankone

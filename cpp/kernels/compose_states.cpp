#include "kernels/segments.h"

#define RANKONE_KERNEL "kernels/compose_states.inl"
#include "core/foreach_isa.h"

namespace rankone {

void composeStates(const SegmentStates& args) { RANKONE_PICK(composeStates)(args); }

void composeStatesBackward(const SegmentGradients& args) { RANKONE_PICK(composeStatesBackward)(args); }

}  // namespace rankone

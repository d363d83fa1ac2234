#include <type_traits>

#include "kernels/recurrence.h"

#define RANKONE_KERNEL "kernels/recurrence_token.inl"
#include "core/foreach_isa.h"

namespace rankone {

void recurrenceTokens(const RecurrenceForward& args) { RANKONE_PICK(recurrenceTokens)(args); }

}  // namespace rankone

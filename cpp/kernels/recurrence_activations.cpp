#include <type_traits>

#include "kernels/recurrence.h"

#define RANKONE_KERNEL "kernels/recurrence_activations.inl"
#include "core/foreach_isa.h"

namespace rankone {

void recurrenceActivationGradients(const RecurrenceBackward& args) {
  RANKONE_PICK(recurrenceActivationGradients)(args);
}

}  // namespace rankone

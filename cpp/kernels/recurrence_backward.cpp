#include <memory>
#include <type_traits>

#include "kernels/recurrence.h"

#define RANKONE_KERNEL "kernels/recurrence_backward.inl"
#include "core/foreach_isa.h"

namespace rankone {

void recurrenceBackward(const RecurrenceBackward& args) { RANKONE_PICK(recurrenceBackward)(args); }

SavedGeometry savedGeometry(int64_t n, int64_t K, int64_t V) { return RANKONE_PICK(savedGeometry)(n, K, V); }

}  // namespace rankone

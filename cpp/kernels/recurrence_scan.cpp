#include <memory>
#include <type_traits>

#include "kernels/recurrence.h"

#define RANKONE_KERNEL "kernels/recurrence_scan.inl"
#include "core/foreach_isa.h"

namespace rankone {

void recurrenceScan(const RecurrenceForward& args) { RANKONE_PICK(recurrenceScan)(args); }

}  // namespace rankone

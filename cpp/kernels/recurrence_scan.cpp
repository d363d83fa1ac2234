#include <memory>
#include <type_traits>

#include "kernels/recurrence.h"

#define RANKONE_KERNEL "kernels/recurrence_scan.inl"
#include "core/foreach_isa.h"

namespace rankone {

void recurrenceScan(const RecurrenceForward& args) { RANKONE_PICK(recurrenceScan)(args); }

void recurrenceScanColumns(const RecurrenceForward& args, int64_t sequence, int64_t hv, int64_t column0,
                           int64_t column1) {
  RANKONE_PICK(recurrenceScanColumns)(args, sequence, hv, column0, column1);
}

}  // namespace rankone

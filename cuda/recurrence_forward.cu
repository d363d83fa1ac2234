#include "recurrence.h"

namespace rankone::cuda {

void recurrenceForward(Stream&, const RankoneRecurrenceForward&) { throw Failure(1, "not built yet"); }

}  // namespace rankone::cuda

#include "recurrence_token.h"

namespace rankone::cuda {

bool takesChunks(const RankoneRecurrence& p) {
  if (p.compute == RANKONE_COMPUTE_F32 || p.mode == RANKONE_MODE_RECURRENT) return false;
  return p.compute == RANKONE_COMPUTE_BF16 || p.q.dtype != RANKONE_F32;
}

void recurrenceForward(Stream& stream, const RankoneRecurrenceForward& args) {
  const Sequences sequences(stream, args.problem);
  recurrenceTokens(stream, args, sequences, nullptr);
}

}  // namespace rankone::cuda

// Long sequences of few heads, cut into pieces that are scanned at the same time. What a piece does to the state that
// it is given is linear: S -> M S + N. Two scans find the N of every piece (from zeros; of the first from the state it
// has) and M (from the identity, without values); a product in float32 for piece after piece gives each the state that
// it starts from; then all are scanned with those. That is exact, at (2 V + K) / V times the work of one scan.
#pragma once
#include "recurrence_scan.h"

namespace rankone::cuda {

// Chunks begin .. end of a sequence, piece `index` of `count`.
struct Piece {
  int64_t begin, end;
  int32_t sequence, index, count;
  int32_t slot;  // of carried states; -1: none, the piece is scanned in one go from the sequence's state
};

// Every sequence's pieces, in order. How many a sequence has depends on its own length and on HV, K and V: a
// sequence's results must not depend on what else is in the batch, nor may they on the device. `turn`: chunks that are
// prepared at once.
std::vector<Piece> piecesOf(const Sequences& sequences, const RankoneRecurrence& problem, int64_t turn);

enum class Pass { N, M, FINAL };

// The parts of pieces in chunks [first, end).
std::vector<Segment> partsOf(const std::vector<Piece>& pieces, Pass pass, int64_t first, int64_t end);

// carry [slots,HV,K,V] from each piece's N to the state that it starts from; M [slots,HV,K,K].
void carryStates(Stream& stream, const std::vector<Piece>& pieces, const RankoneRecurrence& problem, float* carry,
                 const float* M);

// The final states of cut sequences, from their last pieces' slots.
void deliverStates(Stream& stream, const std::vector<Piece>& pieces, const ScanArgs& scan);

}  // namespace rankone::cuda

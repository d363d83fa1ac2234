#include <algorithm>

#include "recurrence_segments.cuh"
#include "recurrence_segments.h"

namespace rankone::cuda {
namespace {

// CTAs that fill a device, of which a sequence's heads and blocks of 32 columns are to be at most an eighth before it
// is cut; and chunks of a piece at least, so that three scans of pieces are faster than one of all.
constexpr int64_t kFill = 256, kLeastPieces = 4, kLeastChunks = 16;

int64_t pieceCount(int64_t chunks, const RankoneRecurrence& p) {
  const int64_t width = p.HV * ((p.V + 31) / 32);
  const int64_t count = std::min(kFill / width, chunks / kLeastChunks);
  return 2 * kLeastPieces * width <= kFill && count >= kLeastPieces ? count : 1;
}

}  // namespace

std::vector<Piece> piecesOf(const Sequences& sequences, const RankoneRecurrence& p, int64_t turn) {
  std::vector<Piece> pieces;
  int32_t slots = 0;
  for (int64_t s = 0; s < p.N; ++s) {
    const int64_t begin = sequences.hostFirstChunks[s], chunks = sequences.hostFirstChunks[s + 1] - begin;
    const int64_t count = pieceCount(chunks, p);
    for (int64_t i = 0; i < count; ++i) {
      Piece piece{begin + chunks * i / count, begin + chunks * (i + 1) / count, static_cast<int32_t>(s),
                  static_cast<int32_t>(i),    static_cast<int32_t>(count),      -1};
      const bool cut = chunks > 0 && piece.begin / turn != (piece.end - 1) / turn;
      if (count > 1 || cut) piece.slot = slots++;
      pieces.push_back(piece);
    }
  }
  return pieces;
}

std::vector<Segment> partsOf(const std::vector<Piece>& pieces, Pass pass, int64_t first, int64_t end) {
  std::vector<Segment> parts;
  for (const Piece& piece : pieces) {
    const bool last = piece.index == piece.count - 1, empty = piece.begin == piece.end;
    if (pass == Pass::N && last) continue;
    if (pass == Pass::M && (last || piece.index == 0)) continue;
    // A sequence without chunks hands its state on in the first turn.
    const int64_t low = empty ? piece.begin : std::max(piece.begin, first);
    const int64_t high = empty ? piece.end : std::min(piece.end, end);
    if (empty ? first > 0 : low >= high) continue;
    Segment part{low, low - first, static_cast<int32_t>(high - low), piece.sequence, piece.slot, piece.slot};
    if (low == piece.begin) {
      if (pass == Pass::M)
        part.from = Segment::IDENTITY;
      else if (piece.index == 0)
        part.from = Segment::ARGUMENT;
      else if (pass == Pass::N)
        part.from = Segment::ZEROS;
    }
    // A cut sequence's first piece may read what its last one would write beside it: that goes to its slot.
    if (pass == Pass::FINAL && high == piece.end && !(last && piece.count > 1))
      part.to = last ? Segment::ARGUMENT : Segment::NOWHERE;
    parts.push_back(part);
  }
  return parts;
}

void carryStates(Stream& stream, const std::vector<Piece>& pieces, const RankoneRecurrence& p, float* carry,
                 const float* M) {
  std::vector<int32_t> first, count;
  for (const Piece& piece : pieces) {
    if (piece.index > 0 || piece.count == 1) continue;
    first.push_back(piece.slot);
    count.push_back(piece.count);
  }
  const Scratch<int32_t> firstOnDevice(stream, first), countOnDevice(stream, count);
  const int64_t blocks = (p.V + kCarryColumns - 1) / kCarryColumns;
  const CarryArgs args = {carry,
                          M,
                          firstOnDevice.data(),
                          countOnDevice.data(),
                          static_cast<int32_t>(p.HV),
                          static_cast<int32_t>(p.K),
                          static_cast<int32_t>(p.V)};
  stream.launch("carryPieces", carryPieces,
                dim3(static_cast<unsigned>(static_cast<int64_t>(first.size()) * p.HV * blocks)), dim3(kCarryThreads),
                sizeof(CarryShared), args);
}

void deliverStates(Stream& stream, const std::vector<Piece>& pieces, const ScanArgs& scan) {
  std::vector<int32_t> slots, sequences;
  for (const Piece& piece : pieces) {
    if (piece.count == 1 || piece.index + 1 < piece.count) continue;
    slots.push_back(piece.slot);
    sequences.push_back(piece.sequence);
  }
  const Scratch<int32_t> slotsOnDevice(stream, slots), sequencesOnDevice(stream, sequences);
  const int64_t size = static_cast<int64_t>(scan.HV) * scan.K * scan.V,
                count = size * static_cast<int64_t>(slots.size());
  const DeliverArgs args = {
      scan.carry, slotsOnDevice.data(), sequencesOnDevice.data(), scan.stateRows, scan.finalState, size, count};
  stream.launch("deliverPieces", deliverPieces,
                dim3(static_cast<unsigned>((count + kCarryThreads - 1) / kCarryThreads)), dim3(kCarryThreads), 0, args);
}

}  // namespace rankone::cuda

#include <cstddef>
#include <cstdlib>
#include <numeric>

#include "recurrence_prep.h"
#include "recurrence_prep_channel.cuh"

namespace rankone::cuda {
namespace {

constexpr int64_t kWorkspaceBytes = int64_t{1} << 30;

int32_t take(int32_t& end, int64_t bytes) {
  const int32_t at = end;
  end += static_cast<int32_t>((bytes + 15) / 16 * 16);
  return at;
}

}  // namespace

PrepLayout prepLayout(const RankoneRecurrence& p, const Prepared& prepared) {
  const bool delta = p.update == RANKONE_DELTA, channel = p.gate == RANKONE_GATE_CHANNEL;
  PrepLayout layout{};
  layout.n = static_cast<int32_t>(p.n);
  layout.tokens = static_cast<int32_t>(chunkTokens(p.n));
  layout.tiles = (layout.tokens + 15) / 16;
  layout.KD = p.K <= 64 ? 64 : p.K <= 128 ? 128 : 256;
  const int blocks = layout.firstBlock(layout.tiles - 1) + layout.rowBlocks(layout.tiles - 1);
  const int64_t factors = kChunkRows * sizeof(float), row = prepared.Kp * static_cast<int64_t>(sizeof(uint16_t));
  int32_t end = 0;
  if (delta) take(end, kTriangleBlocks * kBlockBytes);
  layout.p = take(end, blocks * kBlockBytes);
  layout.beta = take(end, delta ? factors : 0);
  layout.decay = take(end, channel ? layout.KD * static_cast<int64_t>(sizeof(float)) : kDecayBytes);
  layout.kIn = take(end, channel ? 0 : factors);
  layout.kOut = take(end, channel ? 0 : factors);
  layout.qIn = take(end, channel ? 0 : factors);
  layout.head = end;
  layout.kInRows = take(end, channel && delta ? kChunkRows * row : 0);
  layout.kOutRows = take(end, channel ? kChunkRows * row : 0);
  layout.qInRows = take(end, channel ? layout.tokens * row : 0);
  // TMA's maps want every stride to be a multiple of the one before.
  const int64_t unit = channel ? std::lcm(row, int64_t{128}) : 128;
  layout.bytes = (end + unit - 1) / unit * unit;
  return layout;
}

int64_t chunksAtOnce(const PrepLayout& layout, int64_t HV) {
  const char* set = std::getenv("RANKONE_CUDA_WORKSPACE");
  const int64_t bytes = set ? std::atoll(set) : kWorkspaceBytes, chunks = bytes / (layout.bytes * HV);
  return chunks > 1 ? chunks : 1;
}

ChunkPrep recurrencePrep(Stream& stream, const RankoneRecurrence& p, const Sequences& sequences,
                         const Prepared& prepared, int64_t first, int64_t count) {
  ChunkPrep out{prepLayout(p, prepared), first, count, {}};
  out.memory = Scratch<char>(stream, static_cast<size_t>(count * p.HV * out.layout.bytes));
  PrepArgs args{};
  args.q = static_cast<const uint16_t*>(prepared.q);
  args.k = static_cast<const uint16_t*>(prepared.k);
  args.qNorm = prepared.qNorm;
  args.kNorm = prepared.kNorm;
  args.g = prepared.g;
  args.beta = prepared.beta;
  args.chunks = sequences.chunks.data() + first;
  args.workspace = out.memory.data();
  args.layout = out.layout;
  args.H = static_cast<int32_t>(p.H);
  args.HV = static_cast<int32_t>(p.HV);
  args.K = static_cast<int32_t>(p.K);
  args.Kp = static_cast<int32_t>(prepared.Kp);
  args.gate = p.gate;
  args.scale = p.scale;
  const bool delta = p.update == RANKONE_DELTA;
  if (p.gate == RANKONE_GATE_CHANNEL) {
    stream.launch("prepareChannelChunks", delta ? prepareChannelChunks<true> : prepareChannelChunks<false>,
                  dim3(static_cast<unsigned>(count * p.HV)), dim3(256), sizeof(ChannelShared), args);
    return out;
  }
  const size_t width = static_cast<size_t>(p.K + 63) / 64 * 64;
  const size_t rows = (kChunkRows + static_cast<size_t>(out.layout.tiles) * 16) * width * sizeof(uint16_t);
  const size_t inverses = delta ? 2 * sizeof(InverseTiles) : 0;
  stream.launch("prepareChunks", delta ? prepareChunks<true> : prepareChunks<false>,
                dim3(static_cast<unsigned>(count * p.H)), dim3(delta ? 256 : 128),
                offsetof(PrepShared, tiles) + (rows > inverses ? rows : inverses), args);
  return out;
}

}  // namespace rankone::cuda

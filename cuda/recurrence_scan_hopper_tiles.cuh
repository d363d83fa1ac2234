// What a block of the scan on Hopper has in shared memory, and how it gets there.
#pragma once
#include <cstdint>

#include "recurrence_scan_columns.cuh"

namespace rankone::cuda {

constexpr int kHopperColumns = 64, kMostHopperStages = 3;

struct HopperScanArgs {
  ScanArgs scan;  // its stages: of K, V and head
  int32_t queryStages;
  // Boxes of 64 columns of a whole chunk's rows, of one head (kOut, kIn and q of gates per channel: of one slot); of
  // `head`, all of a slot's.
  simt::TensorMap kOut, kIn, q, v, head;
};

template <int KW, int KS, bool DELTA, bool CHANNEL>
struct HopperScanShared {
  static constexpr int KD = KW * KS;
  static constexpr int kSlice = kChunkRows * 128;  // of 64 columns, swizzled as TMA does
  static constexpr int kKeys = KD / 64 * kSlice;
  static constexpr int kStage = kKeys * (CHANNEL && DELTA ? 2 : 1) + kSlice;

  uint64_t full[kMostHopperStages], left[kMostHopperStages], queries[kMostHopperStages];
  __align__(16) float x[KS > 1 && DELTA ? 4 : 1][KS][KS > 1 && DELTA ? 8 : 1][32][4];  // parts of K S
  uint32_t u[4][4][32][4], state[4][KD / 16][32][4];
  __align__(1024) unsigned char tiles[1024];  // stages of K or kOut, kIn, V; of Q; of heads: as many as a launch gives

  static SIMT_HOST_DEV size_t bytes(int stages, int queryStages, int head) {
    return sizeof(HopperScanShared) - 1024 + static_cast<size_t>(stages) * (kStage + head) +
           static_cast<size_t>(queryStages) * kKeys;
  }
};

// A place in a ring of stages, and the parity of its barriers' phase.
struct Ring {
  int at = 0;
  uint32_t parity = 0;
  SIMT_DEV void step(int stages) {
    if (++at < stages) return;
    at = 0;
    parity ^= 1;
  }
  SIMT_DEV Ring before(int stages) const { return at > 0 ? Ring{at - 1, parity} : Ring{stages - 1, parity ^ 1}; }
};

template <int KW, int KS, bool DELTA, bool CHANNEL>
struct HopperScanTiles : ScanColumns<HopperScanShared<KW, KS, DELTA, CHANNEL>, KW, kHopperColumns, DELTA, CHANNEL> {
  using Shared = HopperScanShared<KW, KS, DELTA, CHANNEL>;
  using Columns = ScanColumns<Shared, KW, kHopperColumns, DELTA, CHANNEL>;
  using Columns::h, Columns::hv, Columns::p, Columns::s, Columns::segment, Columns::v0;
  static constexpr int SLICES = Shared::KD / 64;
  static constexpr int OUTPUT = 14;  // barrier of the warps of output

  const HopperScanArgs& args;
  int64_t firstToken;
  int lastTokens;  // of the segment's last chunk; the others are whole

  SIMT_DEV int tokensOf(int c) const { return c + 1 < segment.chunks ? p.layout.tokens : lastTokens; }
  SIMT_DEV int64_t tokenOfChunk(int c) const { return firstToken + static_cast<int64_t>(c) * p.layout.tokens; }

  SIMT_DEV uint16_t* stage(int i) const { return reinterpret_cast<uint16_t*>(s.tiles + i * Shared::kStage); }
  SIMT_DEV uint16_t* keysIn(int i) const {
    return stage(i) + (CHANNEL && DELTA ? Shared::kKeys / sizeof(uint16_t) : 0);
  }
  SIMT_DEV uint16_t* values(int i) const {
    return stage(i) + (Shared::kStage - Shared::kSlice) / static_cast<int>(sizeof(uint16_t));
  }
  SIMT_DEV uint16_t* queries(int i) const {
    return reinterpret_cast<uint16_t*>(s.tiles + p.stages * Shared::kStage + i * Shared::kKeys);
  }
  SIMT_DEV char* head(int i) const { return reinterpret_cast<char*>(queries(args.queryStages)) + i * p.layout.head; }

  // ---- loads, by the warps of output

  // Rows of 64 columns a slice: of a whole chunk by thread 0 through TMA, else by all threads.
  SIMT_DEV void loadSlices(uint16_t* to, const simt::TensorMap& map, int slices, int column, int64_t y, int64_t z,
                           uint64_t* bar) const {
    SIMT_NOUNROLL for (int i = 0; i < slices; ++i) simt::tma_load_3d(to + i * Shared::kSlice / 2, &map, column + i * 64,
                                                                     static_cast<int>(y), static_cast<int>(z), bar);
  }
  SIMT_DEV void copySlices(uint16_t* to, const uint16_t* from, int64_t stride, int slices, int rows, int columns,
                           int thread) const {
    SIMT_NOUNROLL for (int i = 0; i < slices; ++i) loadTile(to + i * Shared::kSlice / 2, kChunkRows, 64, from + i * 64,
                                                            stride, rows, columns - i * 64, thread, 128);
  }
  // What threads have copied themselves is there for wgmma too.
  SIMT_DEV void announce(uint64_t* bar, int thread) const {
    simt::cp_async_commit();
    simt::cp_async_wait<0>();
    simt::fence_proxy_async();
    simt::syncwarp();
    simt::bar_sync(OUTPUT, 128);
    if (thread == 0) simt::mbar_arrive(bar);
  }

  SIMT_DEV void load(int c, int to, int thread) const {
    const int n = p.layout.n, tokens = tokensOf(c), rows = tokens * n;
    const int64_t token = tokenOfChunk(c), slot = (segment.slot + c) * p.HV + hv;
    uint64_t* bar = &s.full[to];
    if (tokens == p.layout.tokens) {
      if (thread != 0) return;
      const int lines = SLICES * (CHANNEL && DELTA ? 2 : 1) + (p.v ? 1 : 0);
      simt::mbar_expect_tx(bar, static_cast<uint32_t>(lines * rows * 128 + p.layout.head));
      loadSlices(stage(to), args.kOut, SLICES, 0, CHANNEL ? 0 : h, CHANNEL ? slot : token * n, bar);
      if (CHANNEL && DELTA) loadSlices(keysIn(to), args.kIn, SLICES, 0, 0, slot, bar);
      if (p.v) loadSlices(values(to), args.v, 1, v0, hv, token * n, bar);
      simt::tma_load_3d(head(to), &args.head, 0, 0, static_cast<int>(slot), bar);
      return;
    }
    const char* from = p.workspace + slot * p.layout.bytes;
    const int64_t stride = CHANNEL ? p.Kp : static_cast<int64_t>(p.H) * p.Kp;
    const uint16_t* keys =
        CHANNEL ? reinterpret_cast<const uint16_t*>(from + p.layout.kOutRows) : p.k + (token * n * p.H + h) * p.Kp;
    copySlices(stage(to), keys, stride, SLICES, rows, p.Kp, thread);
    if (CHANNEL && DELTA)
      copySlices(keysIn(to), reinterpret_cast<const uint16_t*>(from + p.layout.kInRows), stride, SLICES, rows, p.Kp,
                 thread);
    copySlices(values(to), p.v + (token * n * p.HV + hv) * p.Vp + v0, static_cast<int64_t>(p.HV) * p.Vp, 1,
               p.v ? rows : 0, p.Vp - v0, thread);
    for (int i = thread * 16; i < p.layout.head; i += 128 * 16) simt::cp_async16(head(to) + i, from + i);
    announce(bar, thread);
  }

  SIMT_DEV void loadQueries(int c, int to, int thread) const {
    const int tokens = tokensOf(c);
    const int64_t token = tokenOfChunk(c), slot = (segment.slot + c) * p.HV + hv;
    uint64_t* bar = &s.queries[to];
    if (tokens == p.layout.tokens) {
      if (thread != 0) return;
      simt::mbar_expect_tx(bar, static_cast<uint32_t>(SLICES * tokens * 128));
      loadSlices(queries(to), args.q, SLICES, 0, CHANNEL ? 0 : h, CHANNEL ? slot : token, bar);
      return;
    }
    const uint16_t* from =
        CHANNEL ? reinterpret_cast<const uint16_t*>(p.workspace + slot * p.layout.bytes + p.layout.qInRows)
                : p.q + (token * p.H + h) * p.Kp;
    copySlices(queries(to), from, CHANNEL ? p.Kp : static_cast<int64_t>(p.H) * p.Kp, SLICES, tokens, p.Kp, thread);
    announce(bar, thread);
  }
};

}  // namespace rankone::cuda

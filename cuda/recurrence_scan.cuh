// The scan's kernel. A CTA walks through the chunks of a segment with VB columns of a value head's state:
//
//   X = beta (V - kIn (K S))    U = T X    O = qIn (Q S) + P U    S <- decay S + K^T (kOut U)
//
// (additive: U = V). Every product that touches the state has V on the side of M: S^T, X^T and U^T go from accumulators
// into operands in registers. A warp owns 16 columns of S for KW of its rows; KS warps share a column's rows and add
// their parts of K S. Beside them a warp for every 16 columns starts the copies of the next chunk and computes O, from
// S and U that are handed to it through shared memory in operand order.
#pragma once
#include <cstdint>

#include "recurrence_scan_columns.cuh"

namespace rankone::cuda {

template <int KW, int KS, int VB, bool DELTA, bool CHANNEL>
struct ScanShared {
  static constexpr int KD = KW * KS, COLUMNS = VB / 16;
  static constexpr int kHead = (DELTA ? kTriangleBlocks * kBlockBytes + kChunkRows * 4 : 0) +
                               kTriangleBlocks * kBlockBytes + (CHANNEL ? KD * 4 : kDecayBytes + 3 * kChunkRows * 4);
  uint32_t state[COLUMNS][KD / 16][32][4], u[COLUMNS][4][32][4];
  float x[COLUMNS][KS][KS > 1 && DELTA ? 8 : 1][32][4];  // parts of K S
  struct Stage {
    __align__(128) uint16_t kOut[kChunkRows * KD];  // or K
    __align__(128) uint16_t kIn[CHANNEL && DELTA ? kChunkRows * KD : 8];
    __align__(128) uint16_t q[kChunkRows * KD];
    __align__(128) uint16_t v[kChunkRows * VB];
    __align__(128) char head[kHead];
  };
  Stage stages[2];  // a launch gives it one or both
};

template <int KW, int KS, int VB, bool DELTA, bool CHANNEL>
struct Scan : ScanColumns<ScanShared<KW, KS, VB, DELTA, CHANNEL>, KW, VB, DELTA, CHANNEL> {
  using Shared = ScanShared<KW, KS, VB, DELTA, CHANNEL>;
  using Columns = ScanColumns<Shared, KW, VB, DELTA, CHANNEL>;
  using Columns::floats, Columns::h, Columns::hv, Columns::p, Columns::s, Columns::segment, Columns::v0;
  using Stage = typename Shared::Stage;
  static constexpr int KD = Shared::KD, COLUMNS = Shared::COLUMNS;
  static constexpr int WORKERS = COLUMNS * KS * 32, LOADERS = COLUMNS * 32, THREADS = WORKERS + LOADERS;
  // That shared memory has room for where a multiprocessor has 228 KB; unsaid, the compiler goes for three and spills.
  static constexpr int RESIDENT = KW == 64 ? 3 : KS == 1 ? 2 : 1;
  static constexpr int ALL = 15;  // barriers; the others are of 16 columns:
  SIMT_DEV static int ofState(int w) { return 1 + w; }
  SIMT_DEV static int ofU(int w) { return 1 + COLUMNS + w; }
  SIMT_DEV static int ofX(int w) { return 1 + 2 * COLUMNS + w; }

  SIMT_DEV void load(Stage& stage, int64_t c, int thread) const {
    const Chunk chunk = p.chunks[segment.chunk + c];
    const int n = p.layout.n, rows = chunk.tokens * n;
    const char* from = p.workspace + ((segment.slot + c) * p.HV + hv) * p.layout.bytes;
    if (CHANNEL) {
      loadTile(stage.kOut, kChunkRows, KD, reinterpret_cast<const uint16_t*>(from + p.layout.kOutRows), p.Kp, rows,
               p.Kp, thread, LOADERS);
      if (DELTA)
        loadTile(stage.kIn, kChunkRows, KD, reinterpret_cast<const uint16_t*>(from + p.layout.kInRows), p.Kp, rows,
                 p.Kp, thread, LOADERS);
      if (p.o)
        loadTile(stage.q, p.layout.tiles * 16, KD, reinterpret_cast<const uint16_t*>(from + p.layout.qInRows), p.Kp,
                 chunk.tokens, p.Kp, thread, LOADERS);
    } else {
      const int64_t stride = static_cast<int64_t>(p.H) * p.Kp;
      loadTile(stage.kOut, kChunkRows, KD, p.k + (chunk.token * n * p.H + h) * p.Kp, stride, rows, p.Kp, thread,
               LOADERS);
      if (p.o)
        loadTile(stage.q, p.layout.tiles * 16, KD, p.q + (chunk.token * p.H + h) * p.Kp, stride, chunk.tokens, p.Kp,
                 thread, LOADERS);
    }
    loadTile(stage.v, kChunkRows, VB, p.v + (chunk.token * n * p.HV + hv) * p.Vp + v0,
             static_cast<int64_t>(p.HV) * p.Vp, p.v ? rows : 0, p.Vp - v0, thread, LOADERS);
    for (int i = thread * 16; i < p.layout.head; i += LOADERS * 16) simt::cp_async16(stage.head + i, from + i);
  }

  // ---- the warps of the recurrence: columns 16 w .., rows KW part ..

  // S in bf16: to the warp of O, to the trace and as operands.
  SIMT_DEV void handState(uint32_t (&a)[KW / 16][4], const float (&S)[KW / 8][4], int64_t c, int w, int part,
                          int lane) const {
    SIMT_UNROLL for (int i = 0; i < KW / 16; ++i) {
      packOperand(a[i], S[2 * i], S[2 * i + 1]);
      if (p.o || p.traceStates) simt::st4(s.state[w][part * (KW / 16) + i][lane], a[i][0], a[i][1], a[i][2], a[i][3]);
    }
    if (p.o) simt::bar_arrive(ofState(w), (KS + 1) * 32);
    if (p.traceStates) Columns::traceState(c, w, part, lane);
  }

  // U^T, 16 columns of V by 64 rows, as accumulators.
  SIMT_DEV void solve(float (&u)[8][4], const uint32_t (&a)[KW / 16][4], const Stage& stage, int w, int part,
                      int lane) const {
    const uint16_t* keys = CHANNEL ? stage.kIn : stage.kOut;
    float x[8][4] = {};  // (K S)^T
    SIMT_UNROLL for (int i = 0; i < KW / 16; ++i) {
      SIMT_UNROLL for (int r = 0; r < 4; ++r) {
        uint32_t b[4];
        simt::ldmatrix_x4(b, blockRow(keys, r * 16, part * KW + i * 16, KD, lane, true));
        simt::mma_bf16(x[2 * r], a[i], b[0], b[1]);
        simt::mma_bf16(x[2 * r + 1], a[i], b[2], b[3]);
      }
    }
    if (KS > 1) {
      SIMT_UNROLL for (int i = 0; i < 8; ++i) simt::st4(s.x[w][part][i][lane], x[i]);
      simt::bar_sync(ofX(w), 64);
      SIMT_UNROLL for (int i = 0; i < 8; ++i) {
        float other[4];
        simt::ld4(other, s.x[w][part ^ 1][i][lane]);
        SIMT_UNROLL for (int e = 0; e < 4; ++e) x[i][e] += other[e];
      }
    }
    uint32_t rows[4][4];
    Columns::correct(rows, u, x, stage.v, stage.head, w, lane);
    SIMT_UNROLL for (int j = 0; j < 4; ++j) {
      SIMT_UNROLL for (int i = j; i < 4; ++i) {
        uint32_t b[4];
        simt::ldmatrix_x4_trans(b, stage.head + (i * (i + 1) / 2 + j) * kBlockBytes + lane * 16);
        simt::mma_bf16(u[2 * i], rows[j], b[0], b[2]);
        simt::mma_bf16(u[2 * i + 1], rows[j], b[1], b[3]);
      }
    }
  }

  SIMT_DEV void recurrence(int w, int part, int lane) const {
    float S[KW / 8][4];
    Columns::loadState(S, w, part, lane);
    SIMT_NOUNROLL for (int64_t c = 0; c < segment.chunks; ++c) {
      if (p.stages == 1) simt::bar_sync(ALL, THREADS);
      simt::bar_sync(ALL, THREADS);
      const Stage& stage = s.stages[p.stages == 1 ? 0 : c & 1];
      const float* decay = floats(stage.head, p.layout.decay);
      const float* kOut = floats(stage.head, p.layout.kOut);
      Columns::clearState(S, decay, part, lane);
      uint32_t a[KW / 16][4];
      handState(a, S, c, w, part, lane);
      uint32_t rows[4][4];  // U^T as operands
      if constexpr (DELTA) {
        float u[8][4];
        solve(u, a, stage, w, part, lane);
        SIMT_UNROLL for (int r = 0; r < 4; ++r)
            Columns::finishRows(rows[r], u[2 * r], u[2 * r + 1], kOut, r, w, part, lane);
      } else {
        SIMT_UNROLL for (int r = 0; r < 4; ++r) Columns::takeRows(rows[r], stage.v, kOut, r, w, part, lane);
      }
      if (part == 0 && p.o) simt::bar_arrive(ofU(w), 64);
      if (DELTA && part == 0 && p.traceRows) Columns::traceU(c, w, lane);
      Columns::decayState(S, decay, part, lane);
      SIMT_UNROLL for (int r = 0; r < 4; ++r) {
        SIMT_UNROLL for (int i = 0; i < KW / 16; ++i) {
          uint32_t b[4];
          simt::ldmatrix_x4_trans(b, blockRow(stage.kOut, r * 16, part * KW + i * 16, KD, lane, false));
          simt::mma_bf16(S[2 * i], rows[r], b[0], b[1]);
          simt::mma_bf16(S[2 * i + 1], rows[r], b[2], b[3]);
        }
      }
    }
    Columns::storeState(S, w, part, lane);
  }

  // ---- the warps of copies and O: columns 16 w ..

  SIMT_DEV void output(const Stage& stage, int64_t c, int w, int lane) const {
    const int tiles = p.layout.tiles;
    float o[4][2][4] = {};
    simt::bar_sync(ofState(w), (KS + 1) * 32);
    SIMT_UNROLL for (int i = 0; i < KD / 16; ++i) {
      uint32_t a[4], b[4];
      simt::ld4(b, s.state[w][i][lane]);
      SIMT_UNROLL for (int m = 0; m < 4; ++m) {
        if (m >= tiles) continue;
        simt::ldmatrix_x4(a, blockRow(stage.q, m * 16, i * 16, KD, lane, false));
        simt::mma_bf16(o[m][0], a, b[0], b[2]);
        simt::mma_bf16(o[m][1], a, b[1], b[3]);
      }
    }
    if (!CHANNEL) {
      const float* qIn = floats(stage.head, p.layout.qIn);
      SIMT_UNROLL for (int m = 0; m < 4; ++m) {
        SIMT_UNROLL for (int e = 0; e < 4; ++e) {
          const float f = qIn[m * 16 + (lane >> 2) + (e >> 1) * 8];
          o[m][0][e] *= f;
          o[m][1][e] *= f;
        }
      }
    }
    simt::bar_sync(ofU(w), 64);
    SIMT_UNROLL for (int j = 0; j < 4; ++j) {
      uint32_t a[4], b[4];
      simt::ld4(b, s.u[w][j][lane]);
      SIMT_UNROLL for (int m = 0; m < 4; ++m) {
        if (m >= tiles || j >= p.layout.rowBlocks(m)) continue;
        // Of the other half of rows before the other half of columns, as operand A wants it.
        const int matrix = lane >> 3, tile = (matrix & 1) * 2 + (matrix >> 1);
        simt::ldmatrix_x4(
            a, stage.head + p.layout.p + (p.layout.firstBlock(m) + j) * kBlockBytes + tile * 128 + (lane & 7) * 16);
        simt::mma_bf16(o[m][0], a, b[0], b[2]);
        simt::mma_bf16(o[m][1], a, b[1], b[3]);
      }
    }
    const Chunk chunk = p.chunks[segment.chunk + c];
    const bool wide = p.V % 4 == 0 && reinterpret_cast<uintptr_t>(p.o) % 8 == 0;
    SIMT_UNROLL for (int m = 0; m < 4; ++m) {
      if (m >= tiles) continue;
      SIMT_UNROLL for (int e = 0; e < 2; ++e) {
        const int t = m * 16 + (lane >> 2) + e * 8, v = v0 + w * 16;
        const float left[2] = {o[m][0][2 * e], o[m][0][2 * e + 1]}, right[2] = {o[m][1][2 * e], o[m][1][2 * e + 1]};
        storeRow(p.o, p.oDType, ((chunk.token + t) * p.HV + hv) * p.V + v, t < chunk.tokens, p.V - v, wide, left, right,
                 lane);
      }
    }
  }

  SIMT_DEV void loadAndOutput(int w, int thread) const {
    const int lane = thread & 31;
    if (p.stages == 2 && segment.chunks > 0) load(s.stages[0], 0, thread);
    SIMT_NOUNROLL for (int64_t c = 0; c < segment.chunks; ++c) {
      if (p.stages == 1) {
        simt::bar_sync(ALL, THREADS);  // everyone has left the chunk before
        load(s.stages[0], c, thread);
      }
      simt::cp_async_commit();
      simt::cp_async_wait<0>();
      // Chunk c is here; everyone has left the one before, and what was handed over.
      simt::bar_sync(ALL, THREADS);
      if (p.stages == 2 && c + 1 < segment.chunks) load(s.stages[(c + 1) & 1], c + 1, thread);
      if (p.o) output(s.stages[p.stages == 1 ? 0 : c & 1], c, w, lane);
    }
  }

  SIMT_DEV void run(int thread) const {
    const int warp = thread >> 5;
    if (thread < WORKERS) {
      recurrence(warp % COLUMNS, warp / COLUMNS, thread & 31);
    } else {
      loadAndOutput(warp - WORKERS / 32, thread - WORKERS);
    }
  }
};

template <int KW, int KS, int VB, bool DELTA, bool CHANNEL>
__global__ void __launch_bounds__(Scan<KW, KS, VB, DELTA, CHANNEL>::THREADS, Scan<KW, KS, VB, DELTA, CHANNEL>::RESIDENT)
    scanKernel(const ScanArgs p) {
  using Form = Scan<KW, KS, VB, DELTA, CHANNEL>;
  const int columns = (p.V + VB - 1) / VB, block = static_cast<int>(blockIdx.x % columns);
  const int64_t head = blockIdx.x / columns;
  const int hv = static_cast<int>(head % p.HV);
  const Form scan = {
      {p, simt::shared<typename Form::Shared>(), p.segments[head / p.HV], hv, hv / (p.HV / p.H), block * VB}};
  scan.run(threadIdx.x);
}

}  // namespace rankone::cuda

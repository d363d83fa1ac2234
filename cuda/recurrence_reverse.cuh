// The reverse scan in chunks on the tensor cores, from the last chunk to the first: D, the gradient of the state, and
// w, those of the updates' rows. With what recurrence_prep.h computes of a chunk:
//
//   dU = P^T dO + 2^(G_last - G) K^ D      w = T^T dU (additive: dU)
//   D <- 2^(G_last) D + Q^T (scale 2^G dO) - K^T (beta 2^G w)  (additive: without the last)
//
// Columns of V are independent of each other. A block takes 32 of them. Two warps share 16 columns: each holds half of
// the rows of D, transposed, in registers, so that D, dU and w go from accumulator to operand without leaving them;
// what the halves owe to dU meets in shared memory. Two more warps fetch the chunk that is next.
#pragma once
#include "recurrence_prep.h"
#include "recurrence_scan_stores.cuh"
#include "recurrence_tiles.cuh"

namespace rankone::cuda {

constexpr int kReverseColumns = 32, kReverseWarps = 4, kReverseThreads = (kReverseWarps + 2) * 32;

// Blocks of a sequence and head.
SIMT_HOST_DEV unsigned columnBlocks(int V) { return (V + kReverseColumns - 1) / kReverseColumns; }

struct ReverseArgs {
  PrepLayout layout;
  const char* prep;            // [count,HV] of layout.bytes: of chunks from `first` on
  const uint16_t* q;           // [B,T,H,Kp]
  const uint16_t* k;           // [B,T*n,H,Kp]
  const uint16_t* dO;          // [B,T,HV,Vp]
  const Chunk* chunks;         // [chunks]
  const int64_t* firstChunks;  // [N+1]
  int64_t first, count;        // chunks of this launch
  bool opens;                  // no launch came before: every sequence begins with dFinalState
  int32_t H, HV, K, V, Kp, Vp;
  const float* dFinalState;  // [N,HV,K,V] or null
  float* carried;            // [N,HV,K,V] D before the launch's first chunk; or null: not wanted
  uint16_t* states;          // [chunks,HV,K,V] D at the chunks' ends
  uint16_t* rows;            // [B,T*n,HV,V] w
  int32_t stages;            // chunks in shared memory: 1 or 2
};

// A chunk in shared memory, by bytes from its beginning.
template <int KD, bool kDelta, bool kChannel>
struct ReverseStage {
  static constexpr int kRowTile = kChunkRows * KD * 2;
  static constexpr int kQueries = kRowTile;                                  // q, or qInRows
  static constexpr int kReads = 2 * kRowTile;                                // kInRows
  static constexpr int kOutputs = (kChannel && kDelta ? 3 : 2) * kRowTile;   // dO
  static constexpr int kHead = kOutputs + kChunkRows * kReverseColumns * 2;  // T, P and factors
  static SIMT_HOST_DEV int bytes(const PrepLayout& layout) { return (kHead + layout.head + 127) / 128 * 128; }
};

struct ReverseShared {
  __align__(128) float halves[kReverseWarps][8][32][4];  // of dU, in the order of registers
  __align__(128) unsigned char stages[128];              // as many as the launch gives it
};

template <int KD, bool kDelta, bool kChannel>
class ReverseScan {
  using Stage = ReverseStage<KD, kDelta, kChannel>;
  static constexpr int kTiles = KD / 16;  // of 8 columns of K, in a warp's half

 public:
  SIMT_DEV ReverseScan(const ReverseArgs& args, ReverseShared& shared)
      : a(args),
        s(shared),
        lane(static_cast<int>(threadIdx.x) % 32),
        warp(static_cast<int>(threadIdx.x) / 32),
        hv(static_cast<int>(blockIdx.y)),
        sequence(blockIdx.x / columnBlocks(args.V)),
        v0(static_cast<int>(blockIdx.x % columnBlocks(args.V)) * kReverseColumns) {}

  SIMT_DEV void run() {
    const int64_t begin = a.firstChunks[sequence], end = a.firstChunks[sequence + 1];
    const int64_t from = begin > a.first ? begin : a.first, to = end < a.first + a.count ? end : a.first + a.count;
    const bool fetching = warp >= kReverseWarps;
    if (from >= to && !(a.opens && begin == end)) return;
    if (fetching && from < to) fetch(to - 1, 0);
    if (!fetching) loadD(end <= a.first + a.count);
    SIMT_NOUNROLL for (int64_t c = to - 1; c >= from; --c) {
      const int stage = a.stages == 2 ? static_cast<int>(to - 1 - c) % 2 : 0;
      if (fetching) simt::cp_async_wait<0>();
      simt::syncthreads();
      if (fetching && a.stages == 2 && c > from) fetch(c - 1, stage ^ 1);
      if (!fetching) step(c, s.stages + stage * Stage::bytes(a.layout));
      if (a.stages == 2) continue;
      simt::syncthreads();
      if (fetching && c > from) fetch(c - 1, 0);
    }
    if (!fetching && a.carried) storeD();
  }

 private:
  // ---- by the fetching warps

  SIMT_DEV void fetch(int64_t c, int stage) const {
    unsigned char* to = s.stages + stage * Stage::bytes(a.layout);
    const Chunk chunk = a.chunks[c];
    const int thread = static_cast<int>(threadIdx.x) - kReverseWarps * 32, threads = 64, n = a.layout.n;
    const int rows = chunk.tokens * n, Kp = a.Kp;
    const char* prep = a.prep + ((c - a.first) * a.HV + hv) * a.layout.bytes;
    const auto tile = [&](int at) { return reinterpret_cast<uint16_t*>(to + at); };
    const auto part = [&](int at) { return reinterpret_cast<const uint16_t*>(prep + at); };
    if constexpr (kChannel) {
      loadTile(tile(0), kChunkRows, KD, part(a.layout.kOutRows), Kp, rows, Kp, thread, threads);
      loadTile(tile(Stage::kQueries), a.layout.tiles * 16, KD, part(a.layout.qInRows), Kp, chunk.tokens, Kp, thread,
               threads);
      if constexpr (kDelta)
        loadTile(tile(Stage::kReads), kChunkRows, KD, part(a.layout.kInRows), Kp, rows, Kp, thread, threads);
    } else {
      const int stride = a.H * a.Kp, head = hv / (a.HV / a.H);
      loadTile(tile(0), kChunkRows, KD, a.k + (chunk.token * n * a.H + head) * a.Kp, stride, rows, Kp, thread, threads);
      loadTile(tile(Stage::kQueries), a.layout.tiles * 16, KD, a.q + (chunk.token * a.H + head) * a.Kp, stride,
               chunk.tokens, Kp, thread, threads);
    }
    loadTile(tile(Stage::kOutputs), a.layout.tiles * 16, kReverseColumns, a.dO + (chunk.token * a.HV + hv) * a.Vp + v0,
             a.HV * a.Vp, chunk.tokens, a.Vp - v0, thread, threads);
    for (int i = thread * 16; i < a.layout.head; i += threads * 16) simt::cp_async16(to + Stage::kHead + i, prep + i);
    simt::cp_async_commit();
  }

  // ---- by the others: a warp holds D^T [16 columns of V][KD / 2]

  SIMT_DEV int half() const { return warp & 1; }
  SIMT_DEV int firstColumn() const { return warp / 2 * 16; }
  SIMT_DEV int column(int e) const { return v0 + firstColumn() + lane / 4 + (e >> 1) * 8; }
  SIMT_DEV int row(int n, int e) const { return half() * (KD / 2) + n * 8 + lane % 4 * 2 + (e & 1); }
  // Within a state; where the sequence's begins.
  SIMT_DEV int inState(int n, int e) const { return row(n, e) * a.V + column(e); }
  SIMT_DEV int64_t state() const { return (sequence * a.HV + hv) * a.K * a.V; }

  SIMT_DEV void loadD(bool ends) {
    const float* from = ends ? a.dFinalState : a.carried;
    if (from) from += state();
    SIMT_UNROLL for (int n = 0; n < kTiles; ++n) SIMT_UNROLL for (int e = 0; e < 4; ++e) D[n][e] =
        from && row(n, e) < a.K && column(e) < a.V ? from[inState(n, e)] : 0.0f;
  }
  SIMT_DEV void storeD() const {
    float* to = a.carried + state();
    SIMT_UNROLL for (int n = 0; n < kTiles; ++n)
        SIMT_UNROLL for (int e = 0; e < 4; ++e) if (row(n, e) < a.K && column(e) < a.V) to[inState(n, e)] = D[n][e];
  }
  // 8 rows of an accumulator, from `row` on, of which those before `rows` are stored in bf16.
  SIMT_DEV void store(uint16_t* to, int64_t stride, int row, int rows, const float (&x)[4]) const {
    const int c = v0 + firstColumn();
    storeTransposed(to + row * stride + c, stride, rows - row, a.V - c, a.V % 4 == 0, simt::pack_bf16(x[0], x[1]),
                    simt::pack_bf16(x[2], x[3]), lane);
  }
  SIMT_DEV void storeTrace(int64_t c) const {
    uint16_t* to = a.states + (c * a.HV + hv) * a.K * a.V;
    SIMT_UNROLL for (int n = 0; n < kTiles; ++n) store(to, a.V, half() * (KD / 2) + n * 8, a.K, D[n]);
  }

  SIMT_DEV void step(int64_t c, const unsigned char* stage) {
    storeTrace(c);
    const Chunk chunk = a.chunks[c];
    const PrepLayout& layout = a.layout;
    const int matrix = lane >> 3, r = lane & 7, low = (matrix & 1) * 8 + r, high = (matrix >> 1) * 8 + r;
    const unsigned char* prep = stage + Stage::kHead;
    const auto tile = [&](int at) { return reinterpret_cast<const uint16_t*>(stage + at); };
    // Two factors of rows or tokens 16 b + 8 half + ..., of the pair that this lane holds.
    const auto factors = [&](float(&f)[2], int at, int b, int half) {
      simt::ld2(f, reinterpret_cast<const float*>(prep + at) + b * 16 + half * 8 + lane % 4 * 2);
    };

    float dU[8][4] = {};  // transposed: [16 columns][64 rows]
    SIMT_UNROLL for (int k = 0; k < kTiles / 2; ++k) {
      uint32_t x[4], y[4];
      packOperand(x, D[2 * k], D[2 * k + 1]);
      SIMT_UNROLL for (int b = 0; b < 4; ++b) {
        simt::ldmatrix_x4(y, tile(0) + swizzled(b * 16 + high, half() * (KD / 2) + k * 16 + (matrix & 1) * 8, KD));
        simt::mma_bf16(dU[2 * b], x, y[0], y[1]);
        simt::mma_bf16(dU[2 * b + 1], x, y[2], y[3]);
      }
    }
    if constexpr (!kChannel) {
      SIMT_UNROLL for (int n = 0; n < 8; ++n) {
        float f[2];
        factors(f, layout.kOut, n / 2, n % 2);
        SIMT_UNROLL for (int e = 0; e < 4; ++e) dU[n][e] *= f[e & 1];
      }
    }

    const auto outputs = [&](uint32_t(&x)[4], int m) {  // dO transposed
      simt::ldmatrix_x4_trans(
          x, tile(Stage::kOutputs) + swizzled(m * 16 + high, firstColumn() + (matrix & 1) * 8, kReverseColumns));
    };
    SIMT_UNROLL for (int m = 0; m < 4; ++m) {
      if (m >= layout.tiles || (m == 1 || m == 2) != half()) continue;  // halves of about as many blocks
      uint32_t x[4];
      outputs(x, m);
      SIMT_UNROLL for (int b = 0; b < 4; ++b) {
        if (b >= layout.rowBlocks(m)) continue;
        uint32_t y[4];  // P's tiles [token half][row half]
        simt::ldmatrix_x4_trans(y, prep + layout.p + (layout.firstBlock(m) + b) * kBlockBytes + lane * 16);
        simt::mma_bf16(dU[2 * b], x, y[0], y[2]);
        simt::mma_bf16(dU[2 * b + 1], x, y[1], y[3]);
      }
    }

    addOtherHalf(dU);

    if constexpr (kDelta) {  // w in the place of dU: block b comes of blocks i >= b
      SIMT_UNROLL for (int b = 0; b < 4; ++b) {
        float w[2][4] = {};
        SIMT_UNROLL for (int i = b; i < 4; ++i) {
          uint32_t x[4], y[4];
          packOperand(x, dU[2 * i], dU[2 * i + 1]);
          simt::ldmatrix_x4(y, prep + (i * (i + 1) / 2 + b) * kBlockBytes + lane * 16);
          simt::mma_bf16(w[0], x, y[0], y[1]);
          simt::mma_bf16(w[1], x, y[2], y[3]);
        }
        SIMT_UNROLL for (int e = 0; e < 8; ++e) dU[2 * b + e / 4][e % 4] = w[e / 4][e % 4];
      }
    }
    storeRows(chunk, dU);

    decay(prep);
    SIMT_NOUNROLL for (int m = 0; m < layout.tiles; ++m) {
      uint32_t x[4];
      outputs(x, m);
      if constexpr (!kChannel) {
        SIMT_UNROLL for (int e = 0; e < 4; ++e) {
          float f[2];
          factors(f, layout.qIn, m, e / 2);
          x[e] = simt::pack_bf16(f[0] * lowBf16(x[e]), f[1] * highBf16(x[e]));
        }
      }
      addToD(x, tile(Stage::kQueries), m * 16 + low, matrix);
    }
    if constexpr (kDelta) {
      SIMT_UNROLL for (int b = 0; b < 4; ++b) {
        SIMT_UNROLL for (int half = 0; half < 2; ++half) {
          float f[2], in[2] = {1, 1};
          factors(f, layout.beta, b, half);
          if constexpr (!kChannel) factors(in, layout.kIn, b, half);
          SIMT_UNROLL for (int e = 0; e < 4; ++e) dU[2 * b + half][e] *= -f[e & 1] * in[e & 1];
        }
        uint32_t x[4];
        packOperand(x, dU[2 * b], dU[2 * b + 1]);
        addToD(x, tile(kChannel ? Stage::kReads : 0), b * 16 + low, matrix);
      }
    }
  }

  // The other warp's sums of the same columns. Both warps add the same two numbers.
  SIMT_DEV void addOtherHalf(float (&dU)[8][4]) {
    SIMT_UNROLL for (int n = 0; n < 8; ++n) simt::st4(s.halves[warp][n][lane], dU[n]);
    simt::bar_sync(1 + warp / 2, 64);
    SIMT_UNROLL for (int n = 0; n < 8; ++n) {
      float other[4];
      simt::ld4(other, s.halves[warp ^ 1][n][lane]);
      SIMT_UNROLL for (int e = 0; e < 4; ++e) dU[n][e] += other[e];
    }
  }

  // D^T += x y of 16 rows of a tile, `row` the one that this lane addresses.
  SIMT_DEV void addToD(const uint32_t (&x)[4], const uint16_t* rows, int row, int matrix) {
    SIMT_UNROLL for (int k = 0; k < kTiles / 2; ++k) {
      uint32_t y[4];
      simt::ldmatrix_x4_trans(y, rows + swizzled(row, half() * (KD / 2) + k * 16 + (matrix >> 1) * 8, KD));
      simt::mma_bf16(D[2 * k], x, y[0], y[1]);
      simt::mma_bf16(D[2 * k + 1], x, y[2], y[3]);
    }
  }

  // D of what the chunk keeps of it; a reset clears whatever it was.
  SIMT_DEV void decay(const unsigned char* prep) {
    const float* decays = reinterpret_cast<const float*>(prep + a.layout.decay);
    float by[2] = {decays[0], decays[0]};
    SIMT_UNROLL for (int n = 0; n < kTiles; ++n) {
      if constexpr (kChannel) simt::ld2(by, decays + row(n, 0));
      SIMT_UNROLL for (int e = 0; e < 4; ++e) D[n][e] = by[e & 1] > 0 ? D[n][e] * by[e & 1] : 0.0f;
    }
  }

  // Each of the two warps stores a half of w.
  SIMT_DEV void storeRows(const Chunk& chunk, const float (&w)[8][4]) const {
    const int rows = chunk.tokens * a.layout.n;
    const int64_t stride = static_cast<int64_t>(a.HV) * a.V;
    uint16_t* to = a.rows + (chunk.token * a.layout.n * a.HV + hv) * a.V;
    SIMT_UNROLL for (int n = 0; n < 8; ++n) if (n / 4 == half()) store(to, stride, n * 8, rows, w[n]);
  }

  const ReverseArgs& a;
  ReverseShared& s;
  const int lane, warp;
  const int hv;
  const int64_t sequence;
  const int v0;
  float D[kTiles][4];
};

template <int KD, bool kDelta, bool kChannel>
__global__ void __launch_bounds__(kReverseThreads, KD <= 128 ? 2 : 1) recurrenceReverseScan(const ReverseArgs args) {
  ReverseScan<KD, kDelta, kChannel>(args, simt::shared<ReverseShared>()).run();
}

}  // namespace rankone::cuda

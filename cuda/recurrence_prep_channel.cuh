// The kernel of recurrence_prep.h for a gate per channel: one CTA per chunk and value head, 64 channels at a time.
// Products of rows i and j decay by 2^(G_i - G_j) in every channel. Blocks of 16 rows off the diagonal split that at
// G at their rows' first token, so that both parts are decays, and run on the tensor cores. On the diagonal one part
// grows: blocks do the same with one update a token and gates that keep it below 2^kMildLog2 in all 64 channels, and
// others are exact in float32.
#pragma once
#include "recurrence_prep.cuh"

namespace rankone::cuda {

struct ChannelShared {
  static constexpr int kChannels = 64;
  static constexpr int kGates = 68, kRaw = 72;  // strides of rows: aligned to 16 bytes, in different banks

  float qNorm[kChunkRows], kNorm[kChunkRows], beta[kChunkRows];
  float totals[4][kChannels];
  int resets[4][kChannels];
  int steep[8];  // by warps of sumGates: two for a block on the diagonal
  struct Slice {
    __align__(128) float G[kChunkRows * kGates];
    __align__(128) uint16_t k[kChunkRows * kRaw], q[kChunkRows * kRaw];
    __align__(128) uint16_t kLeft[kChunkRows * kChannels], qLeft[kChunkRows * kChannels];
    __align__(128) uint16_t right[160 * kChannels];  // rows up to the end of block 0, of block 1, ..
  };
  struct End {
    InverseTiles tiles;
    InverseDiagonal keys, queries;  // blocks on the diagonal of K K^T, later A, and of Q K^T
  };
  union {
    Slice slice;
    End end;
  };
};

constexpr float kMildLog2 = 40;

// Eight bf16 of a row times factors.
SIMT_DEV void scaleEight(void* to, const float (&x)[8], const float (&factor)[8], float common) {
  uint32_t u[4];
  SIMT_UNROLL for (int e = 0; e < 4; ++e) u[e] =
      simt::pack_bf16(x[2 * e] * common * factor[2 * e], x[2 * e + 1] * common * factor[2 * e + 1]);
  simt::st4(to, u[0], u[1], u[2], u[3]);
}
SIMT_DEV void loadEight(float (&x)[8], const uint16_t* from) {
  uint32_t u[4];
  simt::ld4(u, from);
  SIMT_UNROLL for (int e = 0; e < 4; ++e) x[2 * e] = lowBf16(u[e]), x[2 * e + 1] = highBf16(u[e]);
}
// 2^(a - b) of eight channels; `b` null: 2^a.
SIMT_DEV void decayEight(float (&factor)[8], const float* a, const float* b) {
  SIMT_UNROLL for (int half = 0; half < 8; half += 4) {
    float x[4], y[4] = {};
    simt::ld4(x, a + half);
    if (b) simt::ld4(y, b + half);
    SIMT_UNROLL for (int e = 0; e < 4; ++e) factor[half + e] = decayOf(x[e] - y[e]);
  }
}

struct ChannelChunk {
  int64_t token;
  int32_t tokens, h, hv;
  char* workspace;
};

// Cumulative log gates of the slice's channels, and what the chunk leaves of their rows of the state.
SIMT_DEV void sumGates(ChannelShared& s, const PrepArgs& p, const ChannelChunk& at, int channel0, int thread) {
  const int channel = thread & 63, part = thread >> 6;
  const bool inside = channel0 + channel < p.K;
  float* G = s.slice.G + part * 16 * ChannelShared::kGates + channel;
  const float* from = p.g + ((at.token + part * 16) * p.HV + at.hv) * p.K + channel0 + channel;
  const int64_t stride = static_cast<int64_t>(p.HV) * p.K;
  float sum = 0, first = 0, most = 0;
  int resets = 0;
  SIMT_NOUNROLL for (int i0 = 0; i0 < 16; i0 += 8) {
    float g[8];
    SIMT_UNROLL for (int i = 0; i < 8; ++i) g[i] =
        inside && part * 16 + i0 + i < at.tokens ? from[(i0 + i) * stride] : 0.0f;
    SIMT_UNROLL for (int i = 0; i < 8; ++i) {
      if (g[i] < kResetLog2) resets |= part + i0 + i == 0 ? 2 : 1;
      sum += summand(g[i]);
      if (i0 + i == 0) first = sum;
      const float off = sum > first ? sum - first : first - sum;
      if (!(off <= most)) most = off;
      G[(i0 + i) * ChannelShared::kGates] = sum;
    }
  }
  s.totals[part][channel] = sum;
  s.resets[part][channel] = resets;
  const bool steep = simt::ballot(!(most <= kMildLog2)) != 0;
  if (thread % 32 == 0) s.steep[thread >> 5] = steep;
  simt::syncthreads();
  float before = 0;
  for (int i = 0; i < part; ++i) before += s.totals[i][channel];
  SIMT_UNROLL for (int i = 0; i < 16; ++i) G[i * ChannelShared::kGates] += before;
  if (part == 3) {
    int any = 0;
    SIMT_UNROLL for (int i = 0; i < 4; ++i) any |= s.resets[i][channel];
    reinterpret_cast<float*>(at.workspace + p.layout.decay)[channel0 + channel] =
        chunkDecay(before + sum, any != 0, (any & 2) != 0 || !inside);
  }
}

// Rows of the slice times their decays: to the workspace, and as operands of the blocks off the diagonal.
template <bool DELTA>
SIMT_DEV void scaleRows(ChannelShared& s, const PrepArgs& p, const ChannelChunk& at, int channel0, int thread) {
  constexpr int GATES = ChannelShared::kGates, RAW = ChannelShared::kRaw, WIDTH = ChannelShared::kChannels;
  ChannelShared::Slice& slice = s.slice;
  const PrepLayout& layout = p.layout;
  const int n = layout.n;
  uint16_t* kIn = reinterpret_cast<uint16_t*>(at.workspace + layout.kInRows);
  uint16_t* kOut = reinterpret_cast<uint16_t*>(at.workspace + layout.kOutRows);
  uint16_t* qIn = reinterpret_cast<uint16_t*>(at.workspace + layout.qInRows);
  const float* last = slice.G + (kChunkRows - 1) * GATES;
  SIMT_NOUNROLL for (int item = thread; item < kChunkRows * 8; item += 256) {
    const int row = item >> 3, c = (item & 7) * 8, channel = channel0 + c;
    const float* G = slice.G + tokenOf(row, n) * GATES + c;
    float x[8], factor[8];
    loadEight(x, slice.k + row * RAW + c);
    const bool stored = row < at.tokens * n && channel < p.Kp;
    const int64_t to = static_cast<int64_t>(row) * p.Kp + channel;
    if (stored) {
      decayEight(factor, last + c, G);
      scaleEight(kOut + to, x, factor, s.kNorm[row]);
    }
    if (DELTA) {
      if (stored) {
        decayEight(factor, G, nullptr);
        scaleEight(kIn + to, x, factor, s.kNorm[row]);
      }
      decayEight(factor, G, slice.G + tokenOf(row & ~15, n) * GATES + c);
      scaleEight(slice.kLeft + swizzled(row, c, WIDTH), x, factor, 1);
    }
  }
  SIMT_NOUNROLL for (int item = thread; item < layout.tiles * 16 * 8; item += 256) {
    const int t = item >> 3, c = (item & 7) * 8, channel = channel0 + c;
    const float* G = slice.G + t * GATES + c;
    float x[8], factor[8];
    loadEight(x, slice.q + t * RAW + c);
    if (t < at.tokens && channel < p.Kp) {
      decayEight(factor, G, nullptr);
      scaleEight(qIn + static_cast<int64_t>(t) * p.Kp + channel, x, factor, p.scale * s.qNorm[t]);
    }
    decayEight(factor, G, slice.G + (t & ~15) * GATES + c);
    scaleEight(slice.qLeft + swizzled(t, c, WIDTH), x, factor, 1);
  }
  SIMT_NOUNROLL for (int item = thread; item < 160 * 8; item += 256) {
    const int i = item >> 3, c = (item & 7) * 8;
    const int block = i < 16 ? 0 : i < 48 ? 1 : i < 96 ? 2 : 3, row = i - 8 * block * (block + 1);
    float x[8], factor[8];
    loadEight(x, slice.k + row * RAW + c);
    decayEight(factor, slice.G + tokenOf(block * 16, n) * GATES + c, slice.G + tokenOf(row, n) * GATES + c);
    scaleEight(slice.right + swizzled(i, c, WIDTH), x, factor, 1);
  }
}

// Four bf16 of a row.
SIMT_DEV void loadFour(float (&x)[4], const uint16_t* from) {
  uint32_t u[2];
  simt::ld2(u, from);
  x[0] = lowBf16(u[0]), x[1] = highBf16(u[0]), x[2] = lowBf16(u[1]), x[3] = highBf16(u[1]);
}

// Adds the slice's part of rows i and four columns j of block `c` on the diagonal: of K K^T to a, of Q K^T, whose row
// is token `t`, to b.
template <bool DELTA>
SIMT_DEV void addDiagonal(const ChannelShared::Slice& slice, int n, int i, int j0, int t, float (&a)[4],
                          float (&b)[4]) {
  constexpr int GATES = ChannelShared::kGates, RAW = ChannelShared::kRaw;
  const float *Gi = slice.G + tokenOf(i, n) * GATES, *Gt = slice.G + t * GATES;
  SIMT_NOUNROLL for (int c = 0; c < ChannelShared::kChannels; c += 4) {
    float gi[4], gt[4], k[4], q[4];
    simt::ld4(gt, Gt + c);
    loadFour(q, slice.q + t * RAW + c);
    if (DELTA) {
      simt::ld4(gi, Gi + c);
      loadFour(k, slice.k + i * RAW + c);
    }
    SIMT_UNROLL for (int u = 0; u < 4; ++u) {
      float gj[4], kj[4];
      simt::ld4(gj, slice.G + tokenOf(j0 + u, n) * GATES + c);
      loadFour(kj, slice.k + (j0 + u) * RAW + c);
      SIMT_UNROLL for (int e = 0; e < 4; ++e) {
        const float ofQuery = decayOf(gt[e] - gj[e]);
        b[u] += q[e] * kj[e] * ofQuery;
        if (DELTA) a[u] += k[e] * kj[e] * (n == 1 ? ofQuery : decayOf(gi[e] - gj[e]));
      }
    }
  }
}

template <bool DELTA>
__global__ void __launch_bounds__(256, 2) prepareChannelChunks(const PrepArgs p) {
  ChannelShared& s = simt::shared<ChannelShared>();
  const PrepLayout& layout = p.layout;
  const int thread = threadIdx.x, lane = thread & 31, warp = (thread >> 5) & 3, n = layout.n;
  const int row0 = lane >> 2, column0 = (lane & 3) * 2;
  const bool ofP = thread >= 128;
  const int64_t slot = blockIdx.x / p.HV;
  const int hv = static_cast<int>(blockIdx.x % p.HV), h = hv / (p.HV / p.H);
  const ChannelChunk at = {p.chunks[slot].token, p.chunks[slot].tokens, h, hv,
                           p.workspace + static_cast<int64_t>(blockIdx.x) * layout.bytes};
  loadNorms(s, p, at.token, at.tokens, h, thread, 256);
  if (DELTA && thread < kChunkRows) {
    const float beta = thread < at.tokens * n ? p.beta[(at.token * n + thread) * p.HV + hv] : 0.0f;
    s.beta[thread] = beta;
    reinterpret_cast<float*>(at.workspace + layout.beta)[thread] = beta;
  }
  for (int i = (p.K + 63) / 64 * 64 + thread; i < layout.KD; i += 256)
    reinterpret_cast<float*>(at.workspace + layout.decay)[i] = -1;

  // On the diagonal: block c, its row i and columns j0 .. j0 + 3; of P the block is of token tile c / n.
  const int c = thread >> 6, i = c * 16 + (thread & 15), j0 = c * 16 + ((thread >> 4) & 3) * 4;
  const int tile = c / n, t = tile * 16 + (thread & 15);
  const bool inP = tile < layout.tiles;
  float a[4] = {}, b[4] = {};
  // Off it: the first `blocks` blocks of row tile `warp`, with the rows before row block `block` on the right.
  const int block = ofP ? (warp < layout.tiles ? warp * n : 0) : DELTA ? warp : 0;
  float products[3][2][4] = {}, diagonal[1][2][4] = {};
  SIMT_NOUNROLL for (int channel0 = 0; channel0 < p.K; channel0 += ChannelShared::kChannels) {
    simt::syncthreads();  // the slice before is read
    const int columns = p.Kp - channel0;
    for (int item = thread; item < 2 * kChunkRows * 8; item += 256) {
      const int row = (item >> 3) % kChunkRows, column = (item & 7) * 8;
      const bool ofKeys = item < kChunkRows * 8;
      uint16_t* to = (ofKeys ? s.slice.k : s.slice.q) + row * ChannelShared::kRaw + column;
      if (row < (ofKeys ? at.tokens * n : at.tokens) && column < columns) {
        simt::cp_async16(to, ofKeys ? p.k + ((at.token * n + row) * p.H + h) * p.Kp + channel0 + column
                                    : p.q + ((at.token + row) * p.H + h) * p.Kp + channel0 + column);
      } else {
        simt::st4(to, 0, 0, 0, 0);
      }
    }
    simt::cp_async_commit();
    sumGates(s, p, at, channel0, thread);
    simt::cp_async_wait<0>();
    simt::syncthreads();
    scaleRows<DELTA>(s, p, at, channel0, thread);
    simt::syncthreads();
    const uint16_t* left = ofP ? s.slice.qLeft : s.slice.kLeft;
    const uint16_t* right = s.slice.right + 8 * block * (block + 1) * ChannelShared::kChannels;
    if (block > 0)
      multiplyRows(products, left, right, ChannelShared::kChannels, ChannelShared::kChannels, warp, block, lane);
    if ((DELTA || ofP) && n == 1 && !(s.steep[2 * warp] | s.steep[2 * warp + 1]))
      multiplyRows(diagonal, left, right + 16 * block * ChannelShared::kChannels, ChannelShared::kChannels,
                   ChannelShared::kChannels, warp, 1, lane);
    if (n > 1 || (s.steep[2 * c] | s.steep[2 * c + 1])) addDiagonal<DELTA>(s.slice, n, i, j0, inP ? t : 0, a, b);
  }
  simt::syncthreads();  // the slices give way to what follows

  if (DELTA || ofP) {
    InverseDiagonal& to = ofP ? s.end.queries : s.end.keys;
    SIMT_UNROLL for (int x = 0; x < 2; ++x) {
      float* pair = &to.a[warp][row0 * kDiagonalStride + x * 8 + column0];
      simt::st2(pair, diagonal[0][x][0], diagonal[0][x][1]);
      simt::st2(pair + 8 * kDiagonalStride, diagonal[0][x][2], diagonal[0][x][3]);
    }
  }
  simt::syncthreads();
  SIMT_UNROLL for (int x = 0; x < 3; ++x) {
    if (x >= block) continue;
    SIMT_UNROLL for (int e = 0; e < 8; ++e) {
      const int row = warp * 16 + row0 + ((e >> 1) & 1) * 8, j = x * 16 + (e >> 2) * 8 + column0 + (e & 1);
      products[x][e >> 2][e & 3] *= s.kNorm[j] * (ofP     ? p.scale * s.qNorm[row]
                                                  : DELTA ? s.beta[row] * s.kNorm[row]
                                                          : 0.0f);
    }
    if (ofP) {
      storeP(layout, at.workspace, warp, x, lane, products[x]);
    } else {
      storeBelow(s.end.tiles, warp, x, lane, products[x]);
    }
  }
  SIMT_UNROLL for (int u = 0; u < 4; ++u) {
    const int j = j0 + u, in = (i & 15) * kDiagonalStride + (j & 15);
    if (DELTA) {
      float& x = s.end.keys.a[c][in];
      x = j < i ? (x + a[u]) * s.beta[i] * s.kNorm[i] * s.kNorm[j] : 0.0f;
    }
    b[u] += s.end.queries.a[c][in];
    b[u] = tokenOf(j, n) <= t ? b[u] * p.scale * s.qNorm[t & 63] * s.kNorm[j] : 0.0f;
  }
  if (inP) {
    const int ti = t & 15, ji = j0 & 15;
    char* to = at.workspace + layout.p + (layout.firstBlock(tile) + c) * kBlockBytes +
               ((ti >> 3) * 2 + (ji >> 3)) * 128 + (ti & 7) * 16 + (ji & 7) * 2;
    simt::st2(reinterpret_cast<uint32_t*>(to), simt::pack_bf16(b[0], b[1]), simt::pack_bf16(b[2], b[3]));
  }
  if constexpr (DELTA) {
    simt::syncthreads();
    if (!ofP) invert(s.end.tiles, s.end.keys, at.workspace, warp, lane);
  }
}

}  // namespace rankone::cuda

// Kernels of recurrence_prep.h for gates of a token, of a head or none: one CTA per chunk and key head computes K K^T
// and Q K^T once, and from them T and P of every value head of the group.
#pragma once
#include "recurrence_inverse.cuh"
#include "recurrence_prep.h"

namespace rankone::cuda {

struct PrepArgs {
  const uint16_t* q;    // [tokens,H,Kp]
  const uint16_t* k;    // [tokens n,H,Kp]
  const float* qNorm;   // [tokens,H] or null
  const float* kNorm;   // [tokens n,H] or null
  const float* g;       // by gate
  const float* beta;    // [tokens n,HV]
  const Chunk* chunks;  // [count]
  char* workspace;      // [count,HV] of layout.bytes
  PrepLayout layout;
  int32_t H, HV, K, Kp, gate;
  float scale;
};

struct PrepShared {
  InverseDiagonal diagonal;
  float G[8][kChunkRows], beta[4][kChunkRows];  // a copy for every warp: no barrier
  float qNorm[kChunkRows], kNorm[kChunkRows];
  // k and q, then two of InverseTiles in turn. A launch gives it what they need.
  __align__(128) unsigned char tiles[2 * kChunkRows * 256 * 2];
};
static_assert(sizeof(PrepShared::tiles) >= 2 * sizeof(InverseTiles));

// A log gate as it is summed.
SIMT_DEV float summand(float g) { return g < kResetLog2 ? -kResetPenalty : g; }

// What PrepLayout calls decay.
SIMT_DEV float chunkDecay(float G, bool anyReset, bool firstIsReset) {
  return firstIsReset ? -1.0f : anyReset ? 0.0f : decayOf(G < -kMostLog2 ? -kMostLog2 : G);
}

// Accumulators of a 16x16 block, masked and scaled, to their block of P.
SIMT_DEV void storeP(const PrepLayout& layout, char* workspace, int m, int c, int lane, const float (&x)[2][4]) {
  char* block = workspace + layout.p + (layout.firstBlock(m) + c) * kBlockBytes + lane * 4;
  SIMT_UNROLL for (int n = 0; n < 2; ++n) {
    SIMT_UNROLL for (int e = 0; e < 2; ++e) simt::st1x2(reinterpret_cast<uint16_t*>(block + (e * 2 + n) * 128),
                                                        simt::pack_bf16(x[n][2 * e], x[n][2 * e + 1]));
  }
}

// Norms of a chunk's rows, 0 behind them.
template <class Shared>
SIMT_DEV void loadNorms(Shared& s, const PrepArgs& p, int64_t token, int tokens, int h, int thread, int threads) {
  for (int i = thread; i < 2 * kChunkRows; i += threads) {
    const int row = i % kChunkRows;
    if (i < kChunkRows) {
      s.qNorm[row] = row < tokens ? (p.qNorm ? p.qNorm[(token + row) * p.H + h] : 1.0f) : 0.0f;
    } else {
      s.kNorm[row] =
          row < tokens * p.layout.n ? (p.kNorm ? p.kNorm[(token * p.layout.n + row) * p.H + h] : 1.0f) : 0.0f;
    }
  }
}

// A warp's tile of 16 rows of a b^T, b in blocks of 16 rows of which the first `blocks` count.
template <int MOST>
SIMT_DEV void multiplyRows(float (&d)[MOST][2][4], const uint16_t* a, const uint16_t* b, int width, int columns,
                           int rowTile, int blocks, int lane) {
  const int matrix = lane >> 3, r = lane & 7;
  SIMT_NOUNROLL for (int k = 0; k < columns; k += 16) {
    uint32_t x[4], y[4];
    simt::ldmatrix_x4(x, a + swizzled(rowTile * 16 + (matrix & 1) * 8 + r, k + (matrix >> 1) * 8, width));
    SIMT_UNROLL for (int c = 0; c < MOST; ++c) {
      if (c >= blocks) continue;
      simt::ldmatrix_x4(y, b + swizzled(c * 16 + (matrix >> 1) * 8 + r, k + (matrix & 1) * 8, width));
      multiply(d[c], x, y);
    }
  }
}

// With updates 256 threads: warps 0 to 3 K K^T and T, the others Q K^T and P. Else 128.
template <bool DELTA>
__global__ void __launch_bounds__(DELTA ? 256 : 128, 2) prepareChunks(const PrepArgs p) {
  constexpr int THREADS = DELTA ? 256 : 128;
  PrepShared& s = simt::shared<PrepShared>();
  const PrepLayout& layout = p.layout;
  const int thread = threadIdx.x, lane = thread & 31, warp = (thread >> 5) & 3;
  const int row0 = lane >> 2, column0 = (lane & 3) * 2, n = layout.n;
  const bool ofP = !DELTA || thread >= 128;
  const int64_t slot = blockIdx.x / p.H;
  const int h = static_cast<int>(blockIdx.x % p.H), group = p.HV / p.H;
  const int64_t token = p.chunks[slot].token;
  const int tokens = p.chunks[slot].tokens, width = (p.K + 63) / 64 * 64;

  uint16_t* k = reinterpret_cast<uint16_t*>(s.tiles);
  uint16_t* q = k + kChunkRows * width;
  const int64_t stride = static_cast<int64_t>(p.H) * p.Kp;
  loadTile(k, kChunkRows, width, p.k + (token * n * p.H + h) * p.Kp, stride, tokens * n, p.Kp, thread, THREADS);
  loadTile(q, layout.tiles * 16, width, p.q + (token * p.H + h) * p.Kp, stride, tokens, p.Kp, thread, THREADS);
  simt::cp_async_commit();
  loadNorms(s, p, token, tokens, h, thread, THREADS);

  float gates[2], betas[2];  // of a head, by pairs of tokens and rows
  const auto fetch = [&](int hv) {
    SIMT_UNROLL for (int e = 0; e < 2; ++e) {
      const int i = 2 * lane + e;
      gates[e] = 0;
      if (p.gate == RANKONE_GATE_HEAD && i < tokens) gates[e] = p.g[hv];
      if (p.gate == RANKONE_GATE_TOKEN && i < tokens) gates[e] = p.g[(token + i) * p.HV + hv];
      if (DELTA) betas[e] = i < tokens * n ? p.beta[(token * n + i) * p.HV + hv] : 0.0f;
    }
  };
  fetch(h * group);
  simt::cp_async_wait<0>();
  simt::syncthreads();

  float products[4][2][4] = {};
  const int blocks = !ofP ? warp + 1 : warp < layout.tiles ? layout.rowBlocks(warp) : 0;
  if (blocks > 0) multiplyRows(products, ofP ? q : k, k, width, (p.K + 15) / 16 * 16, warp, blocks, lane);
  SIMT_UNROLL for (int c = 0; c < 4; ++c) {
    SIMT_UNROLL for (int x = 0; x < 2; ++x) {
      SIMT_UNROLL for (int e = 0; e < 4; ++e) {
        const int row = warp * 16 + row0 + (e >> 1) * 8, j = c * 16 + x * 8 + column0 + (e & 1);
        const float factor = s.kNorm[j] * (ofP ? p.scale * s.qNorm[row] : s.kNorm[row]);
        const bool kept = ofP ? tokenOf(j, n) <= row : j < row;
        products[c][x][e] = kept ? products[c][x][e] * factor : 0.0f;
      }
    }
  }
  simt::syncthreads();  // the tiles change their meaning
  const bool ofFactors = ofP && warp == 3;
  if (blocks == 0 && !ofFactors) return;

  float* G = s.G[thread >> 5];
  float* beta = s.beta[warp];
  SIMT_NOUNROLL for (int hv = h * group; hv < (h + 1) * group; ++hv) {
    InverseTiles& tiles = reinterpret_cast<InverseTiles*>(s.tiles)[hv & 1];
    char* workspace = p.workspace + (slot * p.HV + hv) * layout.bytes;
    if (hv > h * group) fetch(hv);
    simt::syncwarp();  // all lanes have read G and beta of the head before
    const bool reset = gates[0] < kResetLog2 || gates[1] < kResetLog2;
    const bool anyReset = simt::ballot(reset) != 0, firstIsReset = simt::shfl(gates[0], 0) < kResetLog2;
    {
      const float second = summand(gates[1]);
      float sum = summand(gates[0]) + second;
      SIMT_UNROLL for (int d = 1; d < 32; d *= 2) {
        const float before = simt::shfl(sum, (lane - d) & 31);
        if (lane >= d) sum += before;
      }
      simt::st2(G + 2 * lane, sum - second, sum);
    }
    if (DELTA && !ofP) simt::st2(beta + 2 * lane, betas[0], betas[1]);
    if (DELTA && ofFactors) simt::st2(reinterpret_cast<float*>(workspace + layout.beta) + 2 * lane, betas[0], betas[1]);
    simt::syncwarp();

    if (ofP) {
      if (ofFactors) {
        const float last = G[kChunkRows - 1];
        const int i = 2 * lane, t0 = tokenOf(i, n), t1 = tokenOf(i + 1, n);
        float* kIn = reinterpret_cast<float*>(workspace + layout.kIn);
        float* kOut = reinterpret_cast<float*>(workspace + layout.kOut);
        float* qIn = reinterpret_cast<float*>(workspace + layout.qIn);
        simt::st2(kIn + i, decayOf(G[t0]) * s.kNorm[i], decayOf(G[t1]) * s.kNorm[i + 1]);
        simt::st2(kOut + i, decayOf(last - G[t0]) * s.kNorm[i], decayOf(last - G[t1]) * s.kNorm[i + 1]);
        simt::st2(qIn + i, p.scale * s.qNorm[i] * decayOf(G[i]), p.scale * s.qNorm[i + 1] * decayOf(G[i + 1]));
        if (lane < kDecayBytes / 16)
          simt::st4(workspace + layout.decay + lane * 16, simt::f32_bits(chunkDecay(last, anyReset, firstIsReset)), 0,
                    0, 0);
      }
      SIMT_UNROLL for (int c = 0; c < 4; ++c) {
        if (c >= blocks) continue;
        float x[2][4];
        SIMT_UNROLL for (int e = 0; e < 8; ++e) {
          const int row = warp * 16 + row0 + ((e >> 1) & 1) * 8, j = c * 16 + (e >> 2) * 8 + column0 + (e & 1);
          x[e >> 2][e & 3] = products[c][e >> 2][e & 3] * decayOf(G[row] - G[tokenOf(j, n)]);
        }
        storeP(layout, workspace, warp, c, lane, x);
      }
      continue;
    }

    if constexpr (DELTA) {
      SIMT_UNROLL for (int c = 0; c < 4; ++c) {
        if (c >= blocks) continue;
        float a[2][4];
        SIMT_UNROLL for (int e = 0; e < 8; ++e) {
          const int row = warp * 16 + row0 + ((e >> 1) & 1) * 8, j = c * 16 + (e >> 2) * 8 + column0 + (e & 1);
          a[e >> 2][e & 3] = products[c][e >> 2][e & 3] * beta[row] * decayOf(G[tokenOf(row, n)] - G[tokenOf(j, n)]);
        }
        if (c < warp) {
          storeBelow(tiles, warp, c, lane, a);
        } else {
          SIMT_UNROLL for (int x = 0; x < 2; ++x) {
            float* at = &s.diagonal.a[warp][row0 * kDiagonalStride + x * 8 + column0];
            simt::st2(at, a[x][0], a[x][1]);
            simt::st2(at + 8 * kDiagonalStride, a[x][2], a[x][3]);
          }
        }
      }
      simt::syncwarp();
      invert(tiles, s.diagonal, workspace, warp, lane);
    }
  }
}

}  // namespace rankone::cuda

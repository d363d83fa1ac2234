// The tile of matmul_tile.cuh on Hopper: C[m, n] = sum over k of X[m, k] W[n, k], 16-bit operands by wgmma, sums in
// float32 over ascending k, sixteen at a time. What an element is does not depend on the tile's size nor on its place
// in it: every schedule gives it the same chain of products.
#pragma once
#include "matmul_tile_weights.cuh"

// Last, as everywhere.
#include "simt/simt.cuh"

namespace rankone::cuda {

// Of GROUPS warpgroups, each with MI times 64 rows and all BN columns. They meet at BARRIER, a named one.
template <class Element_, int GROUPS, int MI, int BN_, int BARRIER>
struct WgmmaTile {
  using Element = Element_;
  static constexpr int BM = GROUPS * MI * 64, BN = BN_, BK = 64, THREADS = 128 * GROUPS, WARPS = THREADS / 32;
  static constexpr int ROW_BYTES = 128;                  // of BK elements, one swizzled row
  static constexpr int NI = BN / 8;                      // of m16n8 fragments, of a warp's 16 rows
  static constexpr int ROWS = 2 * MI, COLUMNS = 2 * NI;  // of a thread's elements
  static constexpr int PAIRS = 1;                        // columns j and j + 1 are neighbours, j even
  static constexpr int AHEAD = 1;
  struct Ranks {};

  float acc[MI][NI][4];

  static SIMT_DEV int warpRow(int mi) {
    const int warp = static_cast<int>(threadIdx.x) / 32;
    return (warp / 4 * MI + mi) * 64 + warp % 4 * 16;
  }
  // Of a thread's elements; columns come in neighbouring pairs.
  static SIMT_DEV int row(int i) { return warpRow(i / 2) + i % 2 * 8 + static_cast<int>(threadIdx.x) % 32 / 4; }
  static SIMT_DEV int column(int j) { return j / 2 * 8 + static_cast<int>(threadIdx.x) % 4 * 2 + j % 2; }
  SIMT_DEV float& at(int i, int j) { return acc[i / 2][j / 2][i % 2 * 2 + j % 2]; }

  static SIMT_DEV void sync() { simt::bar_sync(BARRIER, THREADS); }
  SIMT_DEV void clear() {
    SIMT_UNROLL for (int i = 0; i < ROWS; ++i) SIMT_UNROLL for (int j = 0; j < COLUMNS; ++j) at(i, j) = 0;
  }

  // Begins to add the products of BK of k. x, w: of [BM, BK] and [BN, BK] in shared memory, 1024-byte aligned, under a
  // swizzle of 128 bytes.
  SIMT_DEV void multiply(const uint8_t* x, const uint8_t* w) {
    const uint64_t b = simt::wgmma_desc(w, 16, 8 * ROW_BYTES);
    SIMT_UNROLL for (int mi = 0; mi < MI; ++mi) {
      const int first = (static_cast<int>(threadIdx.x) / 128 * MI + mi) * 64;
      const uint64_t a = simt::wgmma_desc(x + first * ROW_BYTES, 16, 8 * ROW_BYTES);
      float(&sum)[BN / 2] = reinterpret_cast<float(&)[BN / 2]>(acc[mi]);
      // 32 bytes on for each sixteen of k
      SIMT_UNROLL for (int k = 0; k < BK / 16; ++k) {
        if constexpr (Element::kFormat == RANKONE_WEIGHT_BF16) {
          simt::wgmma_bf16<BN>(sum, a + 2 * k, b + 2 * k);
        } else {
          simt::wgmma_f16<BN>(sum, a + 2 * k, b + 2 * k);
        }
      }
    }
  }

  // Adds u v^T over 16 ranks: u [BM][16] and v [BN][16] in shared memory, tf32. Bit b of `blocks`: whether one of the
  // rows from 16 b on takes part. A row i without has[i] keeps its bits.
  SIMT_DEV void addRanks(const float* u, const float* v, uint32_t blocks, const bool (&has)[ROWS]) {
    const int lane = threadIdx.x % 32, first = lane % 4 * 4;
    bool any = false;
    uint32_t a[MI][2][4];
    SIMT_UNROLL for (int mi = 0; mi < MI; ++mi) {
      any = any || (blocks >> (warpRow(mi) / 16) & 1);
      // Which of the sixteen is which k of the two products is the same everywhere.
      float low[4], high[4];
      simt::ld4(low, u + row(2 * mi) * 16 + first);
      simt::ld4(high, u + row(2 * mi + 1) * 16 + first);
      SIMT_UNROLL for (int e = 0; e < 8; ++e) a[mi][e / 4][e % 4] =
          simt::f32_bits((e % 2 ? high : low)[e / 4 * 2 + e % 4 / 2]);
    }
    if (!any) return;
    SIMT_UNROLL for (int ni = 0; ni < NI; ++ni) {
      uint32_t b[4];
      simt::ld4(b, v + (ni * 8 + lane / 4) * 16 + first);
      SIMT_UNROLL for (int mi = 0; mi < MI; ++mi) {
        float sum[4] = {acc[mi][ni][0], acc[mi][ni][1], acc[mi][ni][2], acc[mi][ni][3]};
        SIMT_UNROLL for (int s = 0; s < 2; ++s) simt::mma_tf32(sum, a[mi][s], b[2 * s], b[2 * s + 1]);
        SIMT_UNROLL for (int e = 0; e < 4; ++e) acc[mi][ni][e] = has[2 * mi + e / 2] ? sum[e] : acc[mi][ni][e];
      }
    }
  }
};

}  // namespace rankone::cuda

// Tiles of C[m, n] = sum over k of X[m, k] W[n, k], both matrices with k along their rows: 16-bit operands on the
// tensor cores, sums in float32 over ascending k. What an element of C is does not depend on the tile's size nor on its
// place in it, so that every schedule gives the same bits.
#pragma once
#include "matmul_tile_weights.cuh"

// Last, as everywhere.
#include "simt/simt.cuh"

namespace rankone::cuda {

// WARPS_M x WARPS_N warps share a tile of BM x BN; BK of k at a time pass through shared memory. They meet at BARRIER,
// a named one where the block has other threads behind them; 0: they are the block.
template <class Element_, int BM_, int BN_, int BK_, int WARPS_M, int WARPS_N, int BARRIER = 0>
struct MmaTile {
  using Element = Element_;
  static constexpr int BM = BM_, BN = BN_, BK = BK_, THREADS = 32 * WARPS_M * WARPS_N;
  static constexpr int PIECES = BK / 8;                                // of 16 bytes, of a row
  static constexpr int MI = BM / WARPS_M / 16, NI = BN / WARPS_N / 8;  // of m16n8 products, of a warp
  static constexpr int ROWS = 2 * MI, COLUMNS = 2 * NI;                // of a thread's elements
  static constexpr int PAIRS = 1;                                      // columns j and j + 1 are neighbours, j even
  static_assert(NI == 1 || NI % 2 == 0);

  float acc[MI][NI][4];

  static SIMT_DEV int warpRow() { return threadIdx.x / 32 / WARPS_N * (MI * 16); }
  static SIMT_DEV int warpColumn() { return threadIdx.x / 32 % WARPS_N * (NI * 8); }
  // Of a thread's elements; columns come in neighbouring pairs.
  static SIMT_DEV int row(int i) { return warpRow() + i / 2 * 16 + i % 2 * 8 + threadIdx.x % 32 / 4; }
  static SIMT_DEV int column(int j) { return warpColumn() + j / 2 * 8 + threadIdx.x % 4 * 2 + j % 2; }
  SIMT_DEV float& at(int i, int j) { return acc[i / 2][j / 2][i % 2 * 2 + j % 2]; }

  static SIMT_DEV void sync() {
    if constexpr (BARRIER) {
      simt::bar_sync(BARRIER, THREADS);
    } else {
      simt::syncthreads();
    }
  }
  SIMT_DEV void clear() {
    SIMT_UNROLL for (int i = 0; i < ROWS; ++i) SIMT_UNROLL for (int j = 0; j < COLUMNS; ++j) at(i, j) = 0;
  }

  // Adds the products of BK of k; only the first `columns` of W's rows count.
  SIMT_DEV void multiply(const uint8_t* x, const uint8_t* w, int columns) {
    const int lane = threadIdx.x % 32, quarter = lane / 8, r = lane % 8;
    if constexpr (NI == 1) {
      if (warpColumn() >= columns) return;
      SIMT_UNROLL for (int k = 0; k < PIECES; k += 4) {
        uint32_t b[4];
        simt::ldmatrix_x4(b, w + pieceAt<PIECES>(warpColumn() + r, k + quarter));
        SIMT_UNROLL for (int half = 0; half < 2; ++half) {
          SIMT_UNROLL for (int mi = 0; mi < MI; ++mi) {
            uint32_t a[4];
            loadRows(a, x, mi, k + 2 * half);
            Element::mma(acc[mi][0], a, b[2 * half], b[2 * half + 1]);
          }
        }
      }
    } else {
      SIMT_UNROLL for (int k = 0; k < PIECES; k += 2) {
        uint32_t a[MI][4];
        SIMT_UNROLL for (int mi = 0; mi < MI; ++mi) loadRows(a[mi], x, mi, k);
        SIMT_UNROLL for (int ni = 0; ni < NI; ni += 2) {
          if (warpColumn() + ni * 8 >= columns) continue;
          uint32_t b[4];
          simt::ldmatrix_x4(b, w + pieceAt<PIECES>(warpColumn() + (ni + quarter / 2) * 8 + r, k + quarter % 2));
          SIMT_UNROLL for (int mi = 0; mi < MI; ++mi) {
            Element::mma(acc[mi][ni], a[mi], b[0], b[1]);
            Element::mma(acc[mi][ni + 1], a[mi], b[2], b[3]);
          }
        }
      }
    }
  }

  // A thread's part of 16 ranks that is loaded ahead: as they come, four of its row of V. Where a warp has many columns
  // registers are short, and nothing is.
  static constexpr int AHEAD = NI == 1 ? 4 : 1;
  struct Ranks {
    uint32_t word[NI == 1 ? 4 : 1];
  };
  // load(column, first rank, words)
  template <class Load>
  SIMT_DEV static void loadRanks(Ranks& ranks, const Load& load) {
    const int lane = threadIdx.x % 32;
    if constexpr (NI == 1) load(warpColumn() + lane / 4, lane % 4 * 4, ranks.word);
  }
  // Adds u v^T over 16 ranks, with operands in tf32. u(i, first rank, part) gives four ranks of this thread's row i,
  // v(words, part) what words stand for; bit b of `blocks`: whether one of the rows from 16 b on takes part. A row i
  // without has[i] keeps its bits.
  template <class Load, class U, class V>
  SIMT_DEV void addRanks(const Ranks& ranks, int, const Load& load, const U& u, const V& v, uint32_t blocks,
                         const bool (&has)[ROWS]) {
    const int lane = threadIdx.x % 32, first = lane % 4 * 4;
    // Which of the sixteen is which k of the two products is the same everywhere.
    uint32_t a[MI][2][4];
    SIMT_UNROLL for (int mi = 0; mi < MI; ++mi) {
      float low[4] = {}, high[4] = {};
      if (blocks >> (warpRow() / 16 + mi) & 1) {
        u(2 * mi, first, low);
        u(2 * mi + 1, first, high);
      }
      SIMT_UNROLL for (int e = 0; e < 8; ++e) a[mi][e / 4][e % 4] =
          simt::to_tf32((e % 2 ? high : low)[e / 4 * 2 + e % 4 / 2]);
    }
    SIMT_UNROLL for (int ni = 0; ni < NI; ++ni) {
      float part[4];
      if constexpr (NI == 1) {
        v(ranks.word, part);
      } else {
        uint32_t word[4];
        load(warpColumn() + ni * 8 + lane / 4, first, word);
        v(word, part);
      }
      uint32_t b[4];
      SIMT_UNROLL for (int e = 0; e < 4; ++e) b[e] = simt::to_tf32(part[e]);
      SIMT_UNROLL for (int mi = 0; mi < MI; ++mi) {
        if (!(blocks >> (warpRow() / 16 + mi) & 1)) continue;
        float sum[4] = {acc[mi][ni][0], acc[mi][ni][1], acc[mi][ni][2], acc[mi][ni][3]};
        SIMT_UNROLL for (int s = 0; s < 2; ++s) simt::mma_tf32(sum, a[mi][s], b[2 * s], b[2 * s + 1]);
        SIMT_UNROLL for (int e = 0; e < 4; ++e) acc[mi][ni][e] = has[2 * mi + e / 2] ? sum[e] : acc[mi][ni][e];
      }
    }
  }

 private:
  SIMT_DEV void loadRows(uint32_t (&a)[4], const uint8_t* x, int mi, int piece) const {
    const int lane = threadIdx.x % 32, quarter = lane / 8;
    simt::ldmatrix_x4(a, x + pieceAt<PIECES>(warpRow() + mi * 16 + quarter % 2 * 8 + lane % 8, piece + quarter / 2));
  }
};

// A thread's pieces of a tile of ROWS rows.
template <class Tile, int ROWS>
struct TilePieces {
  static constexpr int COUNT = ROWS * Tile::PIECES / Tile::THREADS, STEP = Tile::THREADS / Tile::PIECES;
  static_assert(COUNT * Tile::THREADS == ROWS * Tile::PIECES && STEP > 0);
  static SIMT_DEV int row(int i) { return static_cast<int>(threadIdx.x) / Tile::PIECES + i * STEP; }
  static SIMT_DEV int piece() { return static_cast<int>(threadIdx.x) % Tile::PIECES; }
};

// Copies them, `step` BKs of k on. Beginnings of the rows stand in shared memory, as registers are short; null: zeros,
// as what lies beyond a row's `bytes`. somewhere: any global address.
template <class Tile, int ROWS>
SIMT_DEV void copyRows(uint8_t* to, const uint8_t* const* rows, int64_t step, int64_t bytes, const void* somewhere) {
  using Pieces = TilePieces<Tile, ROWS>;
  const int64_t at = (step * Tile::PIECES + Pieces::piece()) * 16, left = bytes - at;
  const int count = left >= 16 ? 16 : left > 0 ? static_cast<int>(left) : 0;
  SIMT_UNROLL for (int i = 0; i < Pieces::COUNT; ++i) {
    const uint8_t* from = rows[Pieces::row(i)];
    const bool there = from && count > 0;
    simt::cp_async16_zfill(to + pieceAt<Tile::PIECES>(Pieces::row(i), Pieces::piece()), there ? from + at : somewhere,
                           there ? count : 0);
  }
}

// Nothing is done to X in shared memory.
struct AsItIs {
  SIMT_DEV void operator()(uint8_t*, int64_t) const {}
};

// Shared memory of sumTile().
template <bool DIRECT, int STAGES, int WIDTH, class Tile>
SIMT_HOST_DEV size_t tileBytes(const WeightFormat& format) {
  const size_t x = sizeof(typename Tile::Element::Word) * Tile::BM * Tile::BK;
  const size_t w = sizeof(typename Tile::Element::Word) * Tile::BN * Tile::BK;
  return DIRECT ? STAGES * (x + w) : 2 * w + STAGES * (x + rawBytes(WIDTH, Tile::BK, format));
}

// Adds to `tile` the products of all k: X's rows, xBytes long, stand in `x`, and W's first `columns`, WIDTH at most, in
// `rows`, both in shared memory. DIRECT: W is made of elements as they are multiplied. STAGES: pieces of k that are on
// their way or in use. change(x, step) may alter the thread's pieces of X before they are used. `memory`: tileBytes()
// of it, which no thread uses any more; nor does one after the next barrier.
template <bool DIRECT, int STAGES, int WIDTH, class Tile, class Change>
SIMT_DEV void sumTile(Tile& tile, const uint8_t* const* x, int64_t xBytes, const WeightRows& rows,
                      const WeightFormat& format, int columns, int64_t k, uint8_t* memory, const void* somewhere,
                      const Change& change) {
  using Element = typename Tile::Element;
  constexpr int X = sizeof(typename Element::Word) * Tile::BM * Tile::BK;
  constexpr int W = sizeof(typename Element::Word) * Tile::BN * Tile::BK;
  const int64_t steps = (k + Tile::BK - 1) / Tile::BK;
  uint8_t* ring = DIRECT ? memory : memory + 2 * W;
  const int stride = DIRECT ? X + W : X + rawBytes(WIDTH, Tile::BK, format);
  const auto copy = [&](int64_t step, int slot) {
    if (step < steps) {
      copyRows<Tile, Tile::BM>(ring + slot * stride, x, step, xBytes, somewhere);
      if constexpr (DIRECT) {
        copyRows<Tile, Tile::BN>(ring + slot * stride + X, rows.codes, step, format.rowBytes, somewhere);
      } else {
        copyRaw<Tile::BK, Tile::THREADS>(ring + slot * stride + X, rows, format, columns, step, somewhere);
      }
    }
    simt::cp_async_commit();
  };
  SIMT_UNROLL for (int s = 0; s < STAGES - 1; ++s) copy(s, s);
  int slot = 0;
  SIMT_NOUNROLL for (int64_t step = 0; step < steps; ++step) {
    simt::cp_async_wait<STAGES - 2>();
    uint8_t* stage = ring + slot * stride;
    // Each thread has its own pieces now; what it makes of them, the others see after the barrier.
    change(stage, step);
    const uint8_t* operand = stage + X;
    if constexpr (!DIRECT) {
      uint8_t* made = memory + step % 2 * W;
      expandRaw<Element, Tile::BK, Tile::THREADS>(made, stage + X, rows, format, columns);
      operand = made;
    }
    Tile::sync();
    copy(step + STAGES - 1, slot ? slot - 1 : STAGES - 1);
    tile.multiply(stage, operand, columns);
    if (++slot == STAGES) slot = 0;
  }
  simt::cp_async_wait<0>();
}

}  // namespace rankone::cuda

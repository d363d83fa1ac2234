// What the warps of a scan that hold the state do with it, whichever instructions multiply: a warp has 16 columns of S
// for KW of its rows, transposed, as accumulators of mma.sync and of wgmma lie: element (i, e) is row
// 8 i + 2 (lane % 4) + e % 2 of the warp's part, column lane / 4 + 8 (e / 2).
#pragma once
#include <cstdint>

#include "recurrence_scan.h"
#include "recurrence_scan_stores.cuh"
#include "recurrence_tiles.cuh"

namespace rankone::cuda {

// Where lanes of ldmatrix_x4 point to for the 16x16 block at (row, column) of a tile: `columnsFirst` counts its 8x8
// matrices along columns before rows.
SIMT_DEV const uint16_t* blockRow(const uint16_t* tile, int row, int column, int width, int lane, bool columnsFirst) {
  const int matrix = lane >> 3, r = lane & 7, low = matrix & 1, high = matrix >> 1;
  return tile + swizzled(row + (columnsFirst ? high : low) * 8 + r, column + (columnsFirst ? low : high) * 8, width);
}

// Shared has state[warp][KD / 16][32][4] and u[warp][4][32][4]: S and U in bf16 as operands. v is a tile of VB columns,
// `head` what PrepLayout has before the rows.
template <class Shared, int KW, int VB, bool DELTA, bool CHANNEL>
struct ScanColumns {
  const ScanArgs& p;
  Shared& s;
  Segment segment;
  int hv, h, v0;

  // Address of element (k, v) of a state of the segment's head, v counted from the CTA's first column.
  SIMT_DEV int64_t stateAt(int64_t row, int k, int v) const { return ((row * p.HV + hv) * p.K + k) * p.V + v0 + v; }
  SIMT_DEV const float* readFrom(int64_t& row) const {
    row = segment.from >= 0 ? segment.from : p.stateRows ? p.stateRows[segment.sequence] : segment.sequence;
    return segment.from >= 0 ? p.carry : segment.from == Segment::ARGUMENT ? p.initialState : nullptr;
  }
  SIMT_DEV float* writeTo(int64_t& row) const {
    row = segment.to >= 0 ? segment.to : p.stateRows ? p.stateRows[segment.sequence] : segment.sequence;
    return segment.to >= 0 ? p.carry : segment.to == Segment::ARGUMENT ? p.finalState : nullptr;
  }
  SIMT_DEV const float* floats(const char* head, int32_t at) const { return reinterpret_cast<const float*>(head + at); }

  SIMT_DEV void loadState(float (&S)[KW / 8][4], int w, int part, int lane) const {
    int64_t row;
    const float* from = readFrom(row);
    SIMT_UNROLL for (int i = 0; i < KW / 8; ++i) {
      SIMT_UNROLL for (int e = 0; e < 4; ++e) {
        const int k = part * KW + i * 8 + (lane & 3) * 2 + (e & 1), v = w * 16 + (lane >> 2) + (e >> 1) * 8;
        const bool inside = k < p.K && v0 + v < p.V;
        S[i][e] = inside && from ? from[stateAt(row, k, v)] : segment.from == Segment::IDENTITY && k == v0 + v;
      }
    }
  }

  SIMT_DEV void storeState(const float (&S)[KW / 8][4], int w, int part, int lane) const {
    int64_t row;
    float* to = writeTo(row);
    if (!to) return;
    SIMT_UNROLL for (int i = 0; i < KW / 8; ++i) {
      SIMT_UNROLL for (int e = 0; e < 4; ++e) {
        const int k = part * KW + i * 8 + (lane & 3) * 2 + (e & 1), v = w * 16 + (lane >> 2) + (e >> 1) * 8;
        if (k < p.K && v0 + v < p.V) to[stateAt(row, k, v)] = S[i][e];
      }
    }
  }

  // A factor of element (i, e) of S from what PrepLayout calls decay.
  SIMT_DEV void loadDecay(float (&d)[2], const float* decay, int part, int i, int lane) const {
    if (CHANNEL) {
      simt::ld2(d, decay + part * KW + i * 8 + (lane & 3) * 2);
    } else {
      d[0] = d[1] = decay[0];
    }
  }

  // Zeros to what the chunk's first token clears.
  SIMT_DEV void clearState(float (&S)[KW / 8][4], const float* decay, int part, int lane) const {
    if (!CHANNEL && !(decay[0] < 0)) return;
    SIMT_UNROLL for (int i = 0; i < KW / 8; ++i) {
      float d[2];
      loadDecay(d, decay, part, i, lane);
      SIMT_UNROLL for (int e = 0; e < 4; ++e) S[i][e] = d[e & 1] < 0 ? 0 : S[i][e];
    }
  }

  SIMT_DEV void decayState(float (&S)[KW / 8][4], const float* decay, int part, int lane) const {
    SIMT_UNROLL for (int i = 0; i < KW / 8; ++i) {
      float d[2];
      loadDecay(d, decay, part, i, lane);
      SIMT_UNROLL for (int e = 0; e < 4; ++e) S[i][e] = d[e & 1] <= 0 ? 0 : S[i][e] * d[e & 1];
    }
  }

  // S as handed over. Each lane reads again what it has stored: a loop that is rolled up leaves the registers alone.
  SIMT_DEV void traceState(int64_t c, int w, int part, int lane) const {
    SIMT_NOUNROLL for (int i = 0; i < KW / 16; ++i) {
      uint32_t x[4];
      simt::ld4(x, s.state[w][part * (KW / 16) + i][lane]);
      SIMT_UNROLL for (int half = 0; half < 2; ++half) {
        const int k = part * KW + i * 16 + half * 8;
        storeTransposed(p.traceStates + stateAt(segment.chunk + c, k, w * 16), p.V, p.K - k, p.V - v0 - w * 16,
                        p.V % 4 == 0, x[half * 2], x[half * 2 + 1], lane);
      }
    }
  }

  // U as handed over.
  SIMT_DEV void traceU(int64_t c, int w, int lane) const {
    const Chunk chunk = p.chunks[segment.chunk + c];
    const int64_t stride = static_cast<int64_t>(p.HV) * p.V;
    SIMT_NOUNROLL for (int r = 0; r < 4; ++r) {
      uint32_t u[4];
      simt::ld4(u, s.u[w][r][lane]);
      SIMT_UNROLL for (int half = 0; half < 2; ++half) {
        const int row = r * 16 + half * 8, v = v0 + w * 16;
        storeTransposed(p.traceRows + ((chunk.token * p.layout.n + row) * p.HV + hv) * p.V + v, stride,
                        chunk.tokens * p.layout.n - row, p.V - v, p.V % 4 == 0, u[half * 2], u[half * 2 + 1], lane);
      }
    }
  }

  // Of x = (K S)^T: X^T in bf16 as operands, and into u what rounding took from it: T's diagonal is 1, so that part
  // goes past the product.
  SIMT_DEV void correct(uint32_t (&rows)[4][4], float (&u)[8][4], const float (&x)[8][4], const uint16_t* v,
                        const char* head, int w, int lane) const {
    const float *beta = floats(head, p.layout.beta), *kIn = floats(head, p.layout.kIn);
    SIMT_UNROLL for (int r = 0; r < 4; ++r) {
      uint32_t pairs[4];
      simt::ldmatrix_x4_trans(pairs, blockRow(v, r * 16, w * 16, VB, lane, true));
      SIMT_UNROLL for (int half = 0; half < 2; ++half) {
        const int row = r * 16 + half * 8 + (lane & 3) * 2;
        float f[2] = {1, 1}, by[2];
        if (!CHANNEL) simt::ld2(f, kIn + row);
        simt::ld2(by, beta + row);
        SIMT_UNROLL for (int e = 0; e < 2; ++e) {
          const float* ks = &x[2 * r + half][2 * e];
          const float x0 = by[0] * (lowBf16(pairs[half * 2 + e]) - f[0] * ks[0]);
          const float x1 = by[1] * (highBf16(pairs[half * 2 + e]) - f[1] * ks[1]);
          const uint32_t pair = rows[r][half * 2 + e] = simt::pack_bf16(x0, x1);
          u[2 * r + half][2 * e] = x0 - lowBf16(pair);
          u[2 * r + half][2 * e + 1] = x1 - highBf16(pair);
        }
      }
    }
  }

  // Rows 16 r .. of U^T as operands, handed over by the first part's warps, and times kOut.
  SIMT_DEV void finishRows(uint32_t (&rows)[4], const float (&x)[4], const float (&y)[4], const float* kOut, int r,
                           int w, int part, int lane) const {
    packOperand(rows, x, y);
    if (part == 0 && (p.o || p.traceRows)) simt::st4(s.u[w][r][lane], rows[0], rows[1], rows[2], rows[3]);
    if constexpr (!CHANNEL) {
      SIMT_UNROLL for (int half = 0; half < 2; ++half) {
        float f[2];
        simt::ld2(f, kOut + r * 16 + half * 8 + (lane & 3) * 2);
        const float(&u)[4] = half ? y : x;
        SIMT_UNROLL for (int e = 0; e < 2; ++e) rows[half * 2 + e] =
            simt::pack_bf16(f[0] * u[2 * e], f[1] * u[2 * e + 1]);
      }
    }
  }

  // The same where U is V.
  SIMT_DEV void takeRows(uint32_t (&rows)[4], const uint16_t* v, const float* kOut, int r, int w, int part,
                         int lane) const {
    simt::ldmatrix_x4_trans(rows, blockRow(v, r * 16, w * 16, VB, lane, true));
    if (part == 0 && p.o) simt::st4(s.u[w][r][lane], rows[0], rows[1], rows[2], rows[3]);
    if constexpr (!CHANNEL) {
      SIMT_UNROLL for (int half = 0; half < 2; ++half) {
        float f[2];
        simt::ld2(f, kOut + r * 16 + half * 8 + (lane & 3) * 2);
        SIMT_UNROLL for (int e = 0; e < 2; ++e) {
          uint32_t& pair = rows[half * 2 + e];
          pair = simt::pack_bf16(f[0] * lowBf16(pair), f[1] * highBf16(pair));
        }
      }
    }
  }
};

}  // namespace rankone::cuda

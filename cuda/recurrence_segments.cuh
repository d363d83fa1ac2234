// The kernel of recurrence_segments.h: S <- M S + N for piece after piece of a sequence, in float32.
#pragma once
#include <cstdint>

#include "simt/simt.cuh"

namespace rankone::cuda {

constexpr int kCarryThreads = 256, kCarryColumns = 8, kCarryTile = 32;

struct CarryArgs {
  float* carry;          // [slots,HV,K,V]
  const float* M;        // [slots,HV,K,K]
  const int32_t* first;  // [runs] slots of pieces 0; those of the others follow
  const int32_t* count;  // [runs] pieces
  int32_t HV, K, V;
};

struct CarryShared {
  float S[256 * kCarryColumns];
  float M[256 * (kCarryTile + 1)];
};

// A CTA for each run, value head and 8 columns; a thread for each row.
static __global__ void __launch_bounds__(kCarryThreads) carryPieces(const CarryArgs p) {
  CarryShared& s = simt::shared<CarryShared>();
  const int thread = static_cast<int>(threadIdx.x), blocks = (p.V + kCarryColumns - 1) / kCarryColumns;
  const int v0 = static_cast<int>(blockIdx.x % blocks) * kCarryColumns;
  const int64_t head = blockIdx.x / blocks;
  const int64_t run = head / p.HV, hv = head % p.HV;
  const int first = p.first[run], count = p.count[run];
  const auto at = [&](int piece, int column) {
    return (((first + piece) * p.HV + hv) * p.K + thread) * p.V + v0 + column;
  };
  for (int c = 0; c < kCarryColumns; ++c)
    s.S[thread * kCarryColumns + c] = thread < p.K && v0 + c < p.V ? p.carry[at(0, c)] : 0.0f;
  SIMT_NOUNROLL for (int piece = 1; piece < count; ++piece) {
    float next[kCarryColumns];
    SIMT_UNROLL for (int c = 0; c < kCarryColumns; ++c) {
      const bool inside = thread < p.K && v0 + c < p.V;
      next[c] = inside && piece + 1 < count ? p.carry[at(piece, c)] : 0.0f;
      if (inside) p.carry[at(piece, c)] = s.S[thread * kCarryColumns + c];
    }
    if (piece + 1 == count) break;
    const float* M = p.M + ((first + piece) * p.HV + hv) * p.K * p.K;
    SIMT_NOUNROLL for (int j0 = 0; j0 < p.K; j0 += kCarryTile) {
      const int width = p.K - j0 < kCarryTile ? p.K - j0 : kCarryTile;
      simt::syncthreads();  // S is whole; the tile before is read
      for (int i = thread; i < p.K * kCarryTile; i += kCarryThreads) {
        const int row = i / kCarryTile, j = i % kCarryTile;
        if (j < width) s.M[row * (kCarryTile + 1) + j] = M[static_cast<int64_t>(row) * p.K + j0 + j];
      }
      simt::syncthreads();
      if (thread >= p.K) continue;
      SIMT_NOUNROLL for (int j = 0; j < width; ++j) {
        const float m = s.M[thread * (kCarryTile + 1) + j];
        SIMT_UNROLL for (int c = 0; c < kCarryColumns; ++c) {
          const float x = s.S[(j0 + j) * kCarryColumns + c];
          // Of what was cleared nothing is left, whatever it was; and of zeros nothing comes.
          next[c] = m != 0 && x != 0 ? next[c] + m * x : next[c];
        }
      }
    }
    simt::syncthreads();
    SIMT_UNROLL for (int c = 0; c < kCarryColumns; ++c) s.S[thread * kCarryColumns + c] = next[c];
  }
}

struct DeliverArgs {
  const float* carry;        // [slots,HV,K,V]
  const int32_t* slots;      // [cut sequences] of their last pieces
  const int32_t* sequences;  // [cut sequences]
  const int32_t* stateRows;  // [N] or null
  float* finalState;         // [rows,HV,K,V]
  int64_t size, count;       // floats of a sequence, and of all
};

static __global__ void __launch_bounds__(kCarryThreads) deliverPieces(const DeliverArgs p) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kCarryThreads + threadIdx.x;
  if (i >= p.count) return;
  const int64_t cut = i / p.size, at = i % p.size;
  const int64_t sequence = p.sequences[cut];
  p.finalState[(p.stateRows ? p.stateRows[sequence] : sequence) * p.size + at] = p.carry[p.slots[cut] * p.size + at];
}

}  // namespace rankone::cuda

// What the chunk forms compute from q, k, gates and beta alone, ahead of any state: the first of two kernels of the
// forward, and of the reverse scan. Of one chunk and value head, with rows i, j = 0..63 of which row i belongs to token
// i / n, G the cumulative log2 decay inside the chunk up to and with a token (of a row: its token's), q^ and k^ the
// rows after their norms:
//
//   A_ij = beta_i 2^(G_i - G_j) k^_i . k^_j, j < i        T = (I + A)^-1, so that U = T diag(beta) (V - 2^G K^ S)
//   P_tj = scale 2^(G_t - G_j) q^_t . k^_j, j up to token t's last row
//
// and the factors of the rows of K and Q where they meet the state. bf16, for mma operands; rows behind the chunk's
// last are as if q, k and beta were zeros there and the gate 1.
#pragma once
#include "recurrence.h"

namespace rankone::cuda {

// Log2 gates below it are resets.
constexpr float kResetLog2 = -104.0f * 1.44269504f;

constexpr int kBlockBytes = 512;  // of a 16x16 block
constexpr int kTriangleBlocks = 10;
constexpr int kDecayBytes = 128;  // of a chunk's decay, so that all before the rows comes in lines of 128 bytes

// Where things of a chunk and value head lie, in bytes from its first. Of a matrix, 16x16 blocks as four 8x8 tiles,
// every tile eight rows of 16 bytes, so that ldmatrix_x4 at block + 16 lane loads a block, and with _trans each tile of
// it transposed.
//
//   T   block (i, j), i >= j, at (i (i + 1) / 2 + j) kBlockBytes; delta only. Tiles [j half][i half], in them rows j,
//       elements along i: the transposed of T.
//   P   block (m, c) of 16 tokens and 16 rows, c < rowBlocks(m), at p + (firstBlock(m) + c) kBlockBytes. Tiles
//       [t half][j half], in them rows t, elements along j.
//   beta   float[64]; delta only
//   decay  2^G of the last token: float[32], of which the first counts, or with a gate per channel float[KD]. It is at
//          least 2^-126, but 0 where a reset clears what the chunk begins with, and -1 where its first token does, and
//          in channels behind K.
//   kIn, kOut, qIn   factors, float[64] each: of a row of K in K S, of a row of K in K^T U and of a token of Q in Q S,
//          2^G / |k|, 2^(G_last - G) / |k| and scale 2^G / |q|. Not with a gate per channel, but
//   kInRows, kOutRows, qInRows   bf16 [64][Kp] (q: [tokens][Kp]), the rows times these; only those in use are written.
//          kInRows: delta only
struct PrepLayout {
  int32_t n, tokens;  // of a full chunk
  int32_t tiles;      // of 16 tokens
  int32_t KD;         // K rounded up to the scan's width: 64, 128 or 256
  int32_t p, beta, decay, kIn, kOut, qIn;
  int32_t head;  // bytes up to the rows
  int32_t kInRows, kOutRows, qInRows;
  int64_t bytes;

  SIMT_HOST_DEV int rowBlocks(int m) const { return (m + 1) * n < 4 ? (m + 1) * n : 4; }
  SIMT_HOST_DEV int firstBlock(int m) const { return m == 0 ? 0 : m * rowBlocks(0) + (n == 1 ? m * (m - 1) / 2 : 0); }
};
PrepLayout prepLayout(const RankoneRecurrence& problem, const Prepared& prepared);

// Of chunks first .. first + count, of every value head: slot (chunk - first) HV + head.
struct ChunkPrep {
  PrepLayout layout;
  int64_t first, count;
  Scratch<char> memory;
};
ChunkPrep recurrencePrep(Stream& stream, const RankoneRecurrence& problem, const Sequences& sequences,
                         const Prepared& prepared, int64_t first, int64_t count);

// How many chunks of a problem to prepare at once: as many as a gibibyte holds, or RANKONE_CUDA_WORKSPACE bytes, at
// least one. Results do not depend on it.
int64_t chunksAtOnce(const PrepLayout& layout, int64_t HV);

}  // namespace rankone::cuda

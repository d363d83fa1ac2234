// Rows that pass through the backward together, and what its parts leave for each other. Part of lora_backward.inl.
#include "kernels/lora_transpose.inl"
//
#include "kernels/lora_rank.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

struct LoraBlock {
  const LoraArgs& p;
  const LoraGradients& g;
  const LoraGroups& groups;
  int64_t row0, rows;

  // dY of outputs [chunk, chunk + steps) as packed tiles of rows, `stride` floats each; sums over outputs are added up
  // in blocks of `depth`.
  float* packed = nullptr;
  int64_t stride = 0, depth = 0, chunk = 0, steps = 0;
  // The base's part of dx over earlier chunks, [rows, whole panels of in]; null where there is one chunk.
  float* partial = nullptr;

  float *t = nullptr, *u = nullptr;   // of items, by groups: A x', then its gradient; B^T dY, then w
  float *h = nullptr, *du = nullptr;  // M's input and the gradient at its output, where M's gradient is wanted
  float* units = nullptr;             // the gradient at t, ldT / kUnitSteps units of an item
  float* packedT = nullptr;           // with items as the steps of K: the gradient at t,
  float* packedW = nullptr;           // and w,
  float* packedMid = nullptr;         // and du, as w lies
  float* scaleOf = nullptr;           // of items: what they add to the gradient of their adapter's scale
  float kept = 0;                     // what dropout multiplies by
  uint8_t* keep = nullptr;  // one bit for every element of x that stays, keepStride bytes a row; null: no dropout
  int64_t keepStride = 0;
  const float* product = nullptr;  // W x [rows, out], where a gradient of d is wanted

  bool lastChunk() const { return chunk + steps >= p.out; }
  const LoraAdapter& adapter(const LoraGroup& group) const { return *p.adapters[group.adapter]; }
  // An item's row of the batch.
  int64_t row(const LoraGroup& group, int64_t item) const { return row0 + groups.rows[group.first + item]; }
  const float* baseScale(int64_t row) const {
    const int32_t slot = p.slots ? p.slots[row * p.perRow] : -1;
    return slot < 0 ? nullptr : p.adapters[slot]->baseScale;
  }
};

// Bits of kLanes elements from a column on, a multiple of as many.
RANKONE_INLINE uint32_t keepBits(const uint8_t* keep, int64_t column) {
  if constexpr (kLanes == 16) {
    uint16_t bits;
    std::memcpy(&bits, keep + column / 8, sizeof bits);
    return bits;
  } else {
    return keep[column / 8] >> (column % 8);
  }
}

// All ones in the lanes whose bits are set.
RANKONE_INLINE UVec keepLanes(uint32_t bits) {
#if RANKONE_LEVEL == 2
  return (UVec)_mm512_movm_epi32(static_cast<__mmask16>(bits));
#else
  UVec bit;
  for (int i = 0; i < kLanes; ++i) bit[i] = 1u << i;
  return (UVec)(((UVec{} + bits) & bit) != 0u);
#endif
}

void keepRow(const LoraBlock& b, int64_t row, uint32_t* words) {
  uint8_t* to = b.keep + row * b.keepStride;
  keepMask(b.p.dropout, b.p.seed, b.row0 + row, b.p.in, words);
  for (int64_t i = 0; i < b.keepStride; ++i) {
    uint32_t bits = 0;
    for (int64_t k = 0; k < 8; ++k) bits |= words[8 * i + k] & (1u << k);
    to[i] = static_cast<uint8_t>(bits);
  }
}

}  // namespace
}  // namespace RANKONE_ISA_NS
}  // namespace rankone

// Packing for matmul: either operand as panels [steps, W] that the micro kernel reads in order. Part of matmul.inl.
namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

// A matrix with a long side (rows of a, columns of b) and K. One of the two lies contiguous.
struct Operand {
  const float* data;
  int64_t ld;   // floats from one line to the next
  bool alongK;  // a line runs along K
  const float* at(int64_t side, int64_t k) const { return data + (alongK ? side * ld + k : k * ld + side); }
};

// Vectors are stored whole where the next step's values overwrite the excess: W need not be a multiple of the lanes.
template <int W>
RANKONE_INLINE void putStep(float* out, int64_t k, int64_t steps, int width, Vec v) {
  if (width == kLanes || k + 1 < steps)
    store(out + k * W, v);
  else
    storePart(out + k * W, v, width);
}

// Writes dst[k * W + i] = x(side + i, k0 + k) for k < steps and i < W; lines i >= count read as zero.
template <int W>
void packPanel(const Operand& x, int64_t side, int count, int64_t k0, int64_t steps, float* dst) {
  constexpr int kGroups = (W + kLanes - 1) / kLanes;
  static_assert(kGroups == 1 || W % kLanes == 0, "the excess of a last group would land in the next step's first");
  for (int group = 0; group < kGroups; ++group) {
    const int first = group * kLanes, width = W - first < kLanes ? W - first : kLanes;
    const int valid = count - first < width ? count - first : width;
    float* out = dst + first;
    if (valid <= 0) {
      for (int64_t k = 0; k < steps; ++k) putStep<W>(out, k, steps, width, zero());
    } else if (!x.alongK) {
      const float* in = x.at(side + first, k0);
      if (valid == kLanes) {
        for (int64_t k = 0; k < steps; ++k) putStep<W>(out, k, steps, width, load(in + k * x.ld));
      } else {
        for (int64_t k = 0; k < steps; ++k) putStep<W>(out, k, steps, width, loadPart(in + k * x.ld, valid));
      }
    } else {
      const float* in = x.at(side + first, k0);
      for (int64_t k = 0; k < steps; k += kLanes) {
        const int depth = steps - k < kLanes ? static_cast<int>(steps - k) : kLanes;
        Vec rows[kLanes];
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i)
          rows[i] = i >= valid ? zero() : depth == kLanes ? load(in + i * x.ld + k) : loadPart(in + i * x.ld + k, depth);
        transpose(rows);
        for (int i = 0; i < depth; ++i) putStep<W>(out, k + i, steps, width, rows[i]);
      }
    }
  }
}

}  // namespace
}  // namespace RANKONE_ISA_NS
}  // namespace rankone

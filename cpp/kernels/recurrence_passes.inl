// What the passes over a column block of the state, [K][kBlock], share: forward in recurrence_scan_passes.inl, backward
// in recurrence_reverse_pass.inl.
#include "kernels/recurrence_common.inl"

namespace rankone {
namespace RANKONE_ISA_NS {

// A multiplier of exactly zero is a reset: it clears what a product would keep (Inf, NaN).
RANKONE_INLINE Vec rescaled(Vec s, float by) { return by == 0.0f ? zero() : s * by; }

// Sums over K run in stretches of this many rows: a longer chain of float32 additions loses digits (K = 512).
constexpr int64_t kSumRows = 128;

template <class F>
RANKONE_INLINE void inStretches(int64_t K, F&& f) {
  for (int64_t i = 0; i < K; i += kSumRows) f(i, K - i < kSumRows ? K : i + kSumRows);
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone

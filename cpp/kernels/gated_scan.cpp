#include "kernels/gated_scan.h"

#include "kernels/split.h"

namespace rankone {
namespace {

// n elements from `at` on, closer: rows lie too far apart for the hardware to foresee.
__attribute__((noinline)) void fetchRow(const FloatView& x, int64_t at, int64_t n) {
  if (!x) return;
  for (const char *p = x.at(at), *end = x.at(at + n); p < end; p += 64) __builtin_prefetch(p, 0, 2);
}
__attribute__((noinline)) void fetchRow(float* to, int64_t at, int64_t n) {
  for (int64_t i = 0; to && i < n; i += 16) __builtin_prefetch(to + at + i, 1, 2);
}

}  // namespace
}  // namespace rankone

#define RANKONE_KERNEL "kernels/gated_scan.inl"
#include "core/foreach_isa.h"

namespace rankone {

void gatedScan(const GatedScanForward& args) { RANKONE_PICK(gatedScan)(args); }
void gatedScanBackward(const GatedScanBackward& args) { RANKONE_PICK(gatedScanBackward)(args); }

}  // namespace rankone

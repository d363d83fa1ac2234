#include "kernels/panels.h"

#include "kernels/split.h"

#define RANKONE_KERNEL "kernels/panels.inl"
#include "core/foreach_isa.h"

namespace rankone {

const float kNf4Values[16] = {-1.0f,
                              -0.6961928009986877f,
                              -0.5250730514526367f,
                              -0.39491748809814453f,
                              -0.28444138169288635f,
                              -0.18477343022823334f,
                              -0.09105003625154495f,
                              0.0f,
                              0.07958029955625534f,
                              0.16093020141124725f,
                              0.24611230194568634f,
                              0.33791524171829224f,
                              0.44070982933044434f,
                              0.5626170039176941f,
                              0.7229568362236023f,
                              1.0f};

int panelWidth() { return RANKONE_PICK(panelLanes)(); }

void packDense(const void* data, DType dtype, int64_t ld, bool transposed, const Panels& to, uint32_t* words,
               float* scales, const CancelFlag* cancel) {
  RANKONE_PICK(packDense)(data, dtype, ld, transposed, to, words, scales, cancel);
}

void packCodes(const uint8_t* codes, const float* scaleOf, const Panels& to, uint32_t* words, float* scales,
               const CancelFlag* cancel) {
  RANKONE_PICK(packCodes)(codes, scaleOf, to, words, scales, cancel);
}

void unpackRow(const Panels& from, int64_t row, float* to) { RANKONE_PICK(unpackRow)(from, row, to); }

}  // namespace rankone

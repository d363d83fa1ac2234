// The elementwise parts of RandLoRA. See rand_lora.inl.
#pragma once
#include <cstdint>

#include "core/parallel.h"
#include "core/tensor.h"

namespace rankone {

// to[i, r, c] = from[i, r, c] factor[i, c] scale; a `shared` from has no i.
struct ScaleColumnsArgs {
  FloatView from;       // [count, rows, columns] or [rows, columns]
  const float* factor;  // [count, columns]
  float* to;            // [count, rows, columns]
  bool shared;
  double scale;
  int64_t count, rows, columns;
  const CancelFlag* cancel = nullptr;
};

// With P_i = g_i * a_i, element by element: dLambda[i, k] = scale sum_c P_i[k, c] gamma[i, c] and dGamma[i, c] = scale
// sum_k lambda[i, k] P_i[k, c].
struct DiagonalGradientsArgs {
  const float* g;               // [count, rank, in]
  FloatView a;                  // [count, rank, in] or [rank, in]
  bool shared;                  // a
  const float *lambda, *gamma;  // [count, rank], [count, in]
  float *dLambda, *dGamma;
  double scale;
  int64_t count, rank, in;
  const CancelFlag* cancel = nullptr;
};

void scaleColumns(const ScaleColumnsArgs& args);
void diagonalGradients(const DiagonalGradientsArgs& args);

}  // namespace rankone

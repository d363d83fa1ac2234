// What Liger puts around a gated linear attention: features and gates made of queries and keys, and their gradients.
// See liger.inl.
#pragma once
#include <cstdint>

#include "core/parallel.h"
#include "core/tensor.h"

namespace rankone {

struct LigerArgs {
  FloatView q, k, v;  // [rows,H,K], [rows,HKV,K], [rows,HKV,V]
  int64_t rows, H, HKV, K, V;
  float normalizer;
  float *phiQ, *phiK, *g;  // [rows,H,K]
  float* values;           // [rows,H,V]
  const CancelFlag* cancel;
};

struct LigerBackwardArgs {
  LigerArgs forward;                // and what it left
  const float *dPhiQ, *dPhiK, *dG;  // [rows,H,K]
  const float* dValues;             // [rows,H,V]
  float *dq, *dk, *dv;              // [rows,H,K], [rows,HKV,K], [rows,HKV,V]: added to
};

// y = a * first + b * second, [size].
struct LigerMixArgs {
  const float *first, *second;
  float a, b;
  void* y;
  DType dtype;
  int64_t size;
  const CancelFlag* cancel;
};

// y = by * x in float32, [size].
struct LigerScaleArgs {
  FloatView x;
  float by;
  float* y;
  int64_t size;
  const CancelFlag* cancel;
};

void ligerPrepare(const LigerArgs& args);
void ligerGradients(const LigerBackwardArgs& args);
void ligerMix(const LigerMixArgs& args);
void ligerScale(const LigerScaleArgs& args);

}  // namespace rankone

// Products with a sparse matrix S [out, in] and its gradients. See sparse.inl.
#pragma once
#include <cstdint>

#include "core/parallel.h"
#include "core/tensor.h"
#include "kernels/sparse_pattern.h"

namespace rankone {

// y = addend + scale x S^T, where `pattern` is S. With the pattern of S^T it is y = addend + scale x S.
struct SpmmArgs {
  const void* x;  // [M, pattern.columns]
  void* y;        // [M, pattern.rows]
  DType xDType, yDType;
  FloatView addend;  // [M, pattern.rows], or none
  FloatView values;  // [count], in the caller's order
  SparsePattern pattern;
  double scale;
  int64_t M;
  const CancelFlag* cancel = nullptr;
};

// values_p = scale * the sum over m of a[m, row_p] b[m, column_p].
struct SddmmArgs {
  FloatView a;   // [M, pattern.rows]
  FloatView b;   // [M, pattern.columns]
  void* values;  // [count], in the caller's order
  DType dtype;   // of values
  SparsePattern pattern;
  double scale;
  int64_t M;
  const CancelFlag* cancel = nullptr;
};

// w += scale S.
struct ScatterAddArgs {
  void* w;  // [pattern.rows, pattern.columns]
  DType dtype;
  FloatView values;  // [count], in the caller's order
  SparsePattern pattern;
  double scale;
  const CancelFlag* cancel = nullptr;
};

void spmm(const SpmmArgs& args);
void sddmm(const SddmmArgs& args);
void scatterAdd(const ScatterAddArgs& args);

}  // namespace rankone

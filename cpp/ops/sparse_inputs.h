// What the sparse ops share: a matrix S [out, in] as values and positions, COO (rows, columns) or CSR (indptr,
// columns).
#pragma once
#include "kernels/sparse_pattern.h"
#include "ops/op.h"

namespace rankone {

// Where in a call's inputs S stands; values: -1 where there are none.
struct SparsePlaces {
  int values, rows, indptr, columns;
};

// Shapes, and that every index is in range; duplicates are allowed and mean a sum. out: -1 where only indptr tells it.
SparseIndices sparseIndices(const Call& call, const SparsePlaces& places, int64_t out, int64_t in);

// The same once plan() has checked it.
SparseIndices plannedIndices(const Call& call, const SparsePlaces& places, int64_t out, int64_t in);

}  // namespace rankone

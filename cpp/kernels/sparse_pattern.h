// The positions of a sparse matrix, in the caller's form and in the one that kernels read.
#pragma once
#include <cstdint>
#include <vector>

#include "core/tensor.h"
#include "core/workspace.h"

namespace rankone {

// As it comes: COO (rows and columns) or CSR (indptr and columns). Checked by whoever fills it in. Sizes are below
// 2^31, the count is not bounded.
struct SparseIndices {
  IndexView rows;     // [count], or
  IndexView indptr;   // [out + 1]
  IndexView columns;  // [count]
  int64_t count = 0, out = 0, in = 0;
};

// Positions in order of their rows, within a row in the caller's order. Duplicates stay, as values that are added up.
struct SparsePattern {
  int64_t rows = 0, columns = 0, count = 0;
  const int64_t* first = nullptr;     // [rows + 1]
  const int32_t* column = nullptr;    // [count]
  const int64_t* position = nullptr;  // [count]: place in the caller's order; null: the same
  int64_t at(int64_t p) const { return position ? position[p] : p; }
};

// A pattern and the memory that it needs beside the caller's.
class SparseOrder {
 public:
  // Of the matrix, or of its transpose.
  SparseOrder(const SparseIndices& indices, bool transposed);
  const SparsePattern& pattern() const { return pattern_; }

 private:
  template <class T>
  T* take(int64_t count);
  void adopt(const SparseIndices& indices);  // which are in order
  void sort(const SparseIndices& indices, bool transposed);

  SparsePattern pattern_;
  std::vector<AlignedBuffer> buffers_;
};

}  // namespace rankone

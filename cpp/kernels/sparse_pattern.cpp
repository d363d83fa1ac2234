#include "kernels/sparse_pattern.h"

#include <cstring>

namespace rankone {
namespace {

// The row of every position in turn.
class RowReader {
 public:
  explicit RowReader(const SparseIndices& s) : s_(s) {}
  int64_t operator()(int64_t p) {  // for ascending p
    if (s_.rows) return s_.rows[p];
    while (s_.indptr[row_ + 1] <= p) ++row_;
    return row_;
  }

 private:
  const SparseIndices& s_;
  int64_t row_ = 0;
};

bool ascends(const SparseIndices& s) {
  if (!s.rows) return true;
  for (int64_t p = 1; p < s.count; ++p)
    if (s.rows[p] < s.rows[p - 1]) return false;
  return true;
}

}  // namespace

template <class T>
T* SparseOrder::take(int64_t count) {
  buffers_.emplace_back(static_cast<size_t>(count) * sizeof(T));
  return static_cast<T*>(buffers_.back().data());
}

SparseOrder::SparseOrder(const SparseIndices& s, bool transposed) {
  pattern_.rows = transposed ? s.in : s.out;
  pattern_.columns = transposed ? s.out : s.in;
  pattern_.count = s.count;
  if (transposed || !ascends(s))
    sort(s, transposed);
  else
    adopt(s);
}

void SparseOrder::adopt(const SparseIndices& s) {
  if (s.indptr && s.indptr.dtype == DType::I64) {
    pattern_.first = static_cast<const int64_t*>(s.indptr.data);
  } else {
    int64_t* first = take<int64_t>(s.out + 1);
    if (s.indptr) {
      for (int64_t i = 0; i <= s.out; ++i) first[i] = s.indptr[i];
    } else {
      std::memset(first, 0, static_cast<size_t>(s.out + 1) * sizeof(int64_t));
      for (int64_t p = 0; p < s.count; ++p) ++first[s.rows[p] + 1];
      for (int64_t i = 0; i < s.out; ++i) first[i + 1] += first[i];
    }
    pattern_.first = first;
  }
  if (s.columns.dtype == DType::I32) {
    pattern_.column = static_cast<const int32_t*>(s.columns.data);
  } else {
    int32_t* column = take<int32_t>(s.count);
    for (int64_t p = 0; p < s.count; ++p) column[p] = static_cast<int32_t>(s.columns[p]);
    pattern_.column = column;
  }
}

// Counting, stable.
void SparseOrder::sort(const SparseIndices& s, bool transposed) {
  int64_t* first = take<int64_t>(pattern_.rows + 2);
  int32_t* column = take<int32_t>(s.count);
  int64_t* position = take<int64_t>(s.count);
  // first[i + 2] counts, then first[i + 1] runs from the beginning of row i to its end
  std::memset(first, 0, static_cast<size_t>(pattern_.rows + 2) * sizeof(int64_t));
  for (int64_t p = 0; p < s.count; ++p) ++first[(transposed ? s.columns[p] : s.rows[p]) + 2];
  for (int64_t i = 2; i <= pattern_.rows + 1; ++i) first[i] += first[i - 1];
  RowReader rowOf(s);
  for (int64_t p = 0; p < s.count; ++p) {
    const int64_t row = rowOf(p), c = s.columns[p], to = first[(transposed ? c : row) + 1]++;
    column[to] = static_cast<int32_t>(transposed ? row : c);
    position[to] = p;
  }
  pattern_.first = first;
  pattern_.column = column;
  pattern_.position = position;
}

}  // namespace rankone

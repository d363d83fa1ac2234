#include "ops/sparse_inputs.h"

#include "ops/shapes.h"

namespace rankone {
namespace {

constexpr int64_t kMostFeatures = (int64_t{1} << 31) - 1;

void expectRange(const Call& call, int input, int64_t bound) {
  const Tensor& t = call.input(input);
  const IndexView index(t);
  const int64_t count = t.size();
  for (int64_t p = 0; p < count; ++p)
    if (index[p] < 0 || index[p] >= bound)
      fail(ErrorKind::Range, "%s: expected indices from 0 to %lld, got %lld at position %lld",
           call.spec->inputs[input].name, static_cast<long long>(bound - 1), static_cast<long long>(index[p]),
           static_cast<long long>(p));
}

void expectStarts(const Call& call, int input, int64_t count) {
  const Tensor& t = call.input(input);
  const IndexView indptr(t);
  const char* name = call.spec->inputs[input].name;
  if (indptr[0] != 0)
    fail(ErrorKind::Range, "%s: expected to start at 0, got %lld", name, static_cast<long long>(indptr[0]));
  for (int64_t i = 1; i < t.shape[0]; ++i)
    if (indptr[i] < indptr[i - 1])
      fail(ErrorKind::Range, "%s: expected values that do not fall, got %lld after %lld at position %lld", name,
           static_cast<long long>(indptr[i]), static_cast<long long>(indptr[i - 1]), static_cast<long long>(i));
  if (indptr[t.shape[0] - 1] != count)
    fail(ErrorKind::Range, "%s: expected to end at the number of columns, %lld, got %lld", name,
         static_cast<long long>(count), static_cast<long long>(indptr[t.shape[0] - 1]));
}

void expectFeatures(const char* what, int64_t count) {
  if (count > kMostFeatures)
    fail(ErrorKind::Range, "%s: expected at most 2^31 - 1 features, got %lld", what, static_cast<long long>(count));
}

}  // namespace

SparseIndices plannedIndices(const Call& call, const SparsePlaces& at, int64_t out, int64_t in) {
  SparseIndices s;
  const Tensor &rows = call.input(at.rows), &indptr = call.input(at.indptr), &columns = call.input(at.columns);
  if (rows.present()) s.rows = IndexView(rows);
  if (indptr.present()) s.indptr = IndexView(indptr);
  s.columns = IndexView(columns);
  s.count = columns.size();
  s.out = out < 0 ? indptr.shape[0] - 1 : out;
  s.in = in;
  return s;
}

SparseIndices sparseIndices(const Call& call, const SparsePlaces& at, int64_t out, int64_t in) {
  const Tensor &rows = call.input(at.rows), &indptr = call.input(at.indptr);
  if (rows.present() && indptr.present())
    fail(ErrorKind::Type, "indptr: expected none beside rows: positions are either COO or CSR");
  if (!rows.present() && !indptr.present())
    fail(ErrorKind::Type, "rows: expected rows (COO) or indptr (CSR), got neither");
  expectRank(call, at.columns, 1, "[count]");
  const int64_t count = call.input(at.columns).shape[0];
  if (at.values >= 0) expectShape(call, at.values, {count}, "[count]");
  if (rows.present()) {
    expectShape(call, at.rows, {count}, "[count]");
  } else {
    expectRank(call, at.indptr, 1, "[out + 1]");
    if (indptr.shape[0] == 0) fail(ErrorKind::Range, "indptr: expected shape [out + 1], got [0]");
    if (out >= 0) expectShape(call, at.indptr, {out + 1}, "[out + 1]");
  }
  SparseIndices s = plannedIndices(call, at, out, in);
  expectFeatures("out", s.out);
  expectFeatures("in", in);
  expectRange(call, at.columns, in);
  if (rows.present())
    expectRange(call, at.rows, s.out);
  else
    expectStarts(call, at.indptr, count);
  return s;
}

}  // namespace rankone

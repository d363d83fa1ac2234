// out = sum_i c_i Basis_i: a task has a piece of all bases, so that each is read, or drawn, once and none is stored.
// Sums are float64 in ascending i and rounded once. dc_i = <Basis_i, dOut>, in float64 over pieces of fixed size.
#include "kernels/elementwise.inl"
#include "kernels/random_normals.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

constexpr int64_t kBasisPiece = 1024;       // elements, a multiple of four
constexpr int64_t kLeastPiece = 16 * 1024;  // of a gradient's sum
constexpr int64_t kMostPieces = 64;

void readBasis(const Bases& b, int64_t index, int64_t begin, int64_t count, float* to) {
  if (b.values) return widen(b.values.data, b.values.dtype, index * b.size + begin, count, to);
  drawNormals({b.seed, static_cast<uint32_t>(b.stream + static_cast<uint64_t>(index)), b.deviation}, begin, count, to);
}

// f(head, begin, end) for what each head has of [begin, end), in ascending order.
template <class F>
RANKONE_INLINE void eachRun(const Bases& b, int64_t begin, int64_t end, F&& f) {
  while (begin < end) {
    const int64_t stop = std::min(end, (begin / b.run + 1) * b.run);
    f(begin / b.run % b.heads, begin, stop);
    begin = stop;
  }
}

bool isUnused(const Bases& b, const float* coefficients, int64_t index) {
  if (b.values) return false;  // a zero times infinity counts
  for (int64_t h = 0; h < b.heads; ++h)
    if (coefficients[h * b.count + index] != 0) return false;
  return true;
}

void combinePiece(const BasisCombinationArgs& p, const float* coefficients, int64_t begin, int64_t end) {
  const Bases& b = p.bases;
  double total[kBasisPiece] = {};
  float basis[kBasisPiece];
  for (int64_t i = 0; i < b.count; ++i) {
    if (isUnused(b, coefficients, i)) continue;
    readBasis(b, i, begin, end - begin, basis);
    eachRun(b, begin, end, [&](int64_t head, int64_t from, int64_t to) {
      const double c = coefficients[head * b.count + i];
      int64_t e = from - begin;
      const DVec cs = splatDouble(c);
      for (; e + kDoubles <= to - begin; e += kDoubles)
        storeDoubles(total + e, fmaDoubles(cs, widenFloats(basis + e), loadDoubles(total + e)));
      for (; e < to - begin; ++e) total[e] += c * basis[e];
    });
  }
  for (int64_t e = 0; e < end - begin; ++e) basis[e] = static_cast<float>(total[e]);
  narrow(basis, end - begin, p.out, p.dtype, begin);
}

double dotOf(const float* a, const float* b, int64_t n) {
  DVec sum = {};
  int64_t i = 0;
  for (; i + kDoubles <= n; i += kDoubles) sum = fmaDoubles(widenFloats(a + i), widenFloats(b + i), sum);
  double total = sumDoubles(sum);
  for (; i < n; ++i) total += static_cast<double>(a[i]) * b[i];
  return total;
}

// <Basis_i, dOut> over [begin, end), by heads.
void dotPiece(const BasisCombinationBackwardArgs& p, int64_t i, int64_t begin, int64_t end, double* sums) {
  float basis[kBasisPiece], dOut[kBasisPiece];
  for (int64_t h = 0; h < p.bases.heads; ++h) sums[h] = 0;
  for (; begin < end; begin += kBasisPiece) {
    const int64_t count = std::min(kBasisPiece, end - begin);
    readBasis(p.bases, i, begin, count, basis);
    widen(p.dOut.data, p.dOut.dtype, begin, count, dOut);
    eachRun(p.bases, begin, begin + count, [&](int64_t head, int64_t from, int64_t to) {
      sums[head] += dotOf(basis + from - begin, dOut + from - begin, to - from);
    });
  }
}

void scalePiece(const BasisCombinationBackwardArgs& p, int64_t i, int64_t begin, int64_t end) {
  float dOut[kBasisPiece];
  widen(p.dOut.data, p.dOut.dtype, begin, end - begin, dOut);
  eachRun(p.bases, begin, end, [&](int64_t head, int64_t from, int64_t to) {
    const float c = element(p.coefficients, head * p.bases.count + i);
    for (int64_t e = from - begin; e < to - begin; ++e) dOut[e] *= c;
  });
  narrow(dOut, end - begin, p.dBases, p.basesDType, i * p.bases.size + begin);
}

}  // namespace

void basisCombination(const BasisCombinationArgs& p) {
  const Bases& b = p.bases;
  if (b.size == 0) return;
  const int64_t pieces = (b.size + kBasisPiece - 1) / kBasisPiece;
  Scratch scratch(b.heads * b.count);
  float* coefficients = scratch.take(b.heads * b.count);
  widen(p.coefficients.data, p.coefficients.dtype, 0, b.heads * b.count, coefficients);
  parallelFor(pieces, p.cancel, [&](int64_t piece) {
    combinePiece(p, coefficients, piece * kBasisPiece, std::min(b.size, (piece + 1) * kBasisPiece));
  });
}

void basisCombinationBackward(const BasisCombinationBackwardArgs& p) {
  const Bases& b = p.bases;
  if (b.count == 0) return;
  const int64_t each = roundUp(std::max(kLeastPiece, (b.size + kMostPieces - 1) / kMostPieces), kBasisPiece);
  const int64_t pieces = (b.size + each - 1) / each, sums = b.count * pieces * b.heads;
  Scratch scratch(2 * static_cast<size_t>(sums));
  auto* partial = reinterpret_cast<double*>(scratch.take(2 * static_cast<size_t>(sums)));  // [count, pieces, heads]
  parallelFor(b.count * pieces, p.cancel, [&](int64_t task) {
    const int64_t piece = task % pieces;
    dotPiece(p, task / pieces, piece * each, std::min(b.size, (piece + 1) * each), partial + task * b.heads);
  });
  for (int64_t h = 0; h < b.heads; ++h)
    for (int64_t i = 0; i < b.count; ++i) {
      double total = 0;
      for (int64_t piece = 0; piece < pieces; ++piece) total += partial[(i * pieces + piece) * b.heads + h];
      const float sum = static_cast<float>(total);
      narrow(&sum, 1, p.dCoefficients, p.coefficientsDType, h * b.count + i);
    }
  if (!p.dBases || b.size == 0) return;
  const int64_t cuts = (b.size + kBasisPiece - 1) / kBasisPiece;
  parallelFor(b.count * cuts, p.cancel, [&](int64_t task) {
    const int64_t begin = task % cuts * kBasisPiece;
    scalePiece(p, task / cuts, begin, std::min(b.size, begin + kBasisPiece));
  });
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone

// norm_i = |W_i + scale (B M A)_i|, the sum of four rows at a time formed in registers, 2 kDoubles columns of it, and
// squared there: nothing of W's size is stored. Expanding the square into |W|^2 + 2 s b.(A W) + s^2 b^T (A A^T) b takes
// as many operations, for A W^T is a product of the same size as B A, and cancels where the adapter takes away what W
// has. Elements and sums are float64, so that even there a norm is as exact as its inputs: it is rounded once, at the
// end. Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation" (2024).
#include "kernels/doubles.inl"
#include "kernels/elementwise.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

constexpr int64_t kDoraRows = 4;         // of a tile
constexpr int64_t kDoraBlock = 32;       // rows of a task
constexpr int64_t kDoraStripe = kLanes;  // columns of a tile: two vectors
constexpr int64_t kDoraAhead = 64;       // columns of W that are fetched ahead, for rows are read a stripe at a time

// Rows of scale B M, transposed: factor[k * kDoraBlock + i], zeros from `rows` on.
void foldRows(const DoraNormsArgs& p, int64_t first, int64_t rows, double* factor) {
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t row = (first + i) * p.midRank;
    for (int64_t k = 0; k < p.rank; ++k) {
      double sum = 0;
      if (p.matrix) {
        for (int64_t j = 0; j < p.midRank; ++j)
          sum += static_cast<double>(element(p.b, row + j)) * element(p.mid, j * p.rank + k);
      } else {
        sum = element(p.b, row + k);
        if (p.diagonal) sum *= element(p.mid, k);
      }
      factor[k * kDoraBlock + i] = p.scale * sum;
    }
  }
  for (int64_t k = 0; k < p.rank; ++k)
    for (int64_t i = rows; i < kDoraBlock; ++i) factor[k * kDoraBlock + i] = 0;
}

// Squares of four rows' elements in one stripe, added to `squares`; weight: the rows' elements in the stripe, p.in
// apart.
template <class D>
void addSquares(const DoraNormsArgs& p, const double* factor, const double* stripe, const typename D::Element* weight,
                int64_t rows, int width, DVec* squares) {
  DVec sum[kDoraRows][2];
  for (int64_t i = 0; i < kDoraRows; ++i) {
    float w[kDoraStripe] = {};
    if (i < rows) {
      __builtin_prefetch(weight + i * p.in + kDoraAhead);
      widenElements<D>(weight + i * p.in, width, w);
    }
    sum[i][0] = widenFloats(w);
    sum[i][1] = widenFloats(w + kDoubles);
  }
  for (int64_t k = 0; k < p.rank; ++k) {
    const DVec a0 = loadDoubles(stripe + k * kDoraStripe), a1 = loadDoubles(stripe + k * kDoraStripe + kDoubles);
#pragma GCC unroll 4
    for (int64_t i = 0; i < kDoraRows; ++i) {
      const DVec b = splatDouble(factor[k * kDoraBlock + i]);
      sum[i][0] = fmaDoubles(b, a0, sum[i][0]);
      sum[i][1] = fmaDoubles(b, a1, sum[i][1]);
    }
  }
  for (int64_t i = 0; i < kDoraRows; ++i) {
    const DVec first = fmaDoubles(sum[i][0], sum[i][0], squares[i]);
    squares[i] = fmaDoubles(sum[i][1], sum[i][1], first);
  }
}

// weight: rows first, first + 1, ...
template <class D>
void blockNorms(const DoraNormsArgs& p, const double* panels, const typename D::Element* weight, int64_t first,
                int64_t rows, double* factor) {
  foldRows(p, first, rows, factor);
  DVec squares[kDoraBlock] = {};
  for (int64_t column = 0; column < p.in; column += kDoraStripe)
    for (int64_t i = 0; i < rows; i += kDoraRows)
      addSquares<D>(p, factor + i, panels + column * p.rank, weight + i * p.in + column, std::min(kDoraRows, rows - i),
                    lanesLeft(column, p.in), squares + i);
  for (int64_t i = 0; i < rows; ++i) p.norms[first + i] = static_cast<float>(__builtin_sqrt(sumDoubles(squares[i])));
}

}  // namespace

void doraNorms(const DoraNormsArgs& p) {
  if (p.out == 0) return;
  const auto asFloats = [](int64_t doubles) { return alignFloats(static_cast<size_t>(doubles) * 2); };
  // A in stripes of columns, [stripes, rank, kDoraStripe], the last one filled up with zeros
  const int64_t stripes = (p.in + kDoraStripe - 1) / kDoraStripe;
  Scratch scratch(asFloats(stripes * kDoraStripe * p.rank));
  auto* panels = reinterpret_cast<double*>(scratch.take(asFloats(stripes * kDoraStripe * p.rank)));
  const Split packing = splitWork(stripes, 4 * kDoraStripe * p.rank);
  parallelFor(packing.tasks, p.cancel, [&](int64_t task) {
    for (int64_t s = packing.begin(task); s < packing.end(task); ++s)
      for (int64_t k = 0; k < p.rank; ++k) {
        float row[kDoraStripe] = {};
        widen(p.a.data, p.a.dtype, k * p.in + s * kDoraStripe, lanesLeft(s * kDoraStripe, p.in), row);
        for (int64_t c = 0; c < kDoraStripe; ++c) panels[(s * p.rank + k) * kDoraStripe + c] = row[c];
      }
  });
  const int64_t blocks = (p.out + kDoraBlock - 1) / kDoraBlock;
  parallelFor(blocks, p.cancel, [&](int64_t block) {
    const int64_t first = block * kDoraBlock, rows = std::min(kDoraBlock, p.out - first);
    const size_t unpacked = p.packed ? alignFloats(static_cast<size_t>(rows * p.in)) : 0;
    Scratch own(asFloats(kDoraBlock * p.rank) + unpacked);
    auto* factor = reinterpret_cast<double*>(own.take(asFloats(kDoraBlock * p.rank)));
    if (p.packed) {
      float* weight = own.take(unpacked);
      for (int64_t i = 0; i < rows; ++i) unpackRow(*p.packed, first + i, weight + i * p.in);
      return blockNorms<F32>(p, panels, weight, first, rows, factor);
    }
    withDType(p.weight.dtype, [&](auto d) {
      using D = decltype(d);
      blockNorms<D>(p, panels, elements<D>(p.weight.data, first * p.in), first, rows, factor);
    });
  });
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone

// dWeight_v = the sum of dY_i over all i with ids_i = v, in ascending i. (y_i = weight[ids_i] is a copy.)
//
// The positions are sorted by id (counting, stable), and every task owns a range of the table: no two tasks write the
// same row, and a row's order of addition is that of the positions. float32 within 32 positions, float64 across: error
// <= 33 * 2^-24 * sum |dY|; half-width sums are rounded once, at the end.
#include "kernels/elementwise.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

constexpr int64_t kStripe = 256;    // columns of a task
constexpr int64_t kBlockAdds = 32;  // positions added in float32

struct Sorted {
  const int64_t* first;      // [V+1]: where the positions of an id begin in `positions`
  const int64_t* positions;  // [count]
};

template <class D>
void sumRow(const EmbeddingBackwardArgs& p, const Sorted& sorted, int64_t id, int64_t column, int64_t width) {
  const int64_t begin = sorted.first[id], end = sorted.first[id + 1];
  const int64_t at = id * p.D + column;
  if (begin == end) {
    const size_t size = dtypeSize(p.gradDType);
    std::memset(static_cast<char*>(p.dWeight) + static_cast<size_t>(at) * size, 0, static_cast<size_t>(width) * size);
    return;
  }
  float block[kStripe];
  double total[kStripe];
  const bool single = end - begin <= kBlockAdds;
  for (int64_t i = begin; i < end; i += kBlockAdds) {
    const int64_t stop = std::min(end, i + kBlockAdds);
    widenElements<D>(elements<D>(p.dY, sorted.positions[i] * p.D + column), width, block);
    for (int64_t j = i + 1; j < stop; ++j) {
      const auto* row = elements<D>(p.dY, sorted.positions[j] * p.D + column);
      for (int64_t c = 0; c < width; c += kLanes) {
        const int n = lanesLeft(c, width);
        put(block + c, get(block + c, n) + get<D>(row + c, n), n);
      }
    }
    if (!single)
      for (int64_t c = 0; c < width; ++c) total[c] = (i == begin ? 0.0 : total[c]) + block[c];
  }
  if (!single)
    for (int64_t c = 0; c < width; ++c) block[c] = static_cast<float>(total[c]);
  narrow(block, width, p.dWeight, p.gradDType, at);
}

template <class D>
void sumRows(const EmbeddingBackwardArgs& p, const Sorted& sorted) {
  const int64_t stripes = (p.D + kStripe - 1) / kStripe;
  const Split s = splitWork(p.V, 4 * std::min(p.D, kStripe) * (2 + p.count / p.V));
  parallelFor(s.tasks * stripes, p.cancel, [&](int64_t t) {
    const int64_t column = t % stripes * kStripe, task = t / stripes;
    for (int64_t id = s.begin(task); id < s.end(task); ++id)
      sumRow<D>(p, sorted, id, column, std::min(kStripe, p.D - column));
  });
}

}  // namespace

void embeddingBackward(const EmbeddingBackwardArgs& p) {
  if (p.V == 0 || p.D == 0) return;
  const auto asFloats = [](int64_t n) {
    return alignFloats(static_cast<size_t>(n) * (sizeof(int64_t) / sizeof(float)));
  };
  Scratch scratch(asFloats(p.V + 2) + asFloats(p.count));
  int64_t* first = reinterpret_cast<int64_t*>(scratch.take(asFloats(p.V + 2)));
  int64_t* positions = reinterpret_cast<int64_t*>(scratch.take(asFloats(p.count)));
  // first[id + 2] counts, then first[id + 1] runs from the beginning of id's positions to their end
  std::memset(first, 0, static_cast<size_t>(p.V + 2) * sizeof(int64_t));
  for (int64_t i = 0; i < p.count; ++i) ++first[p.ids[i] + 2];
  for (int64_t id = 2; id <= p.V + 1; ++id) first[id] += first[id - 1];
  for (int64_t i = 0; i < p.count; ++i) positions[first[p.ids[i] + 1]++] = i;
  withDType(p.dtype, [&](auto d) { sumRows<decltype(d)>(p, {first, positions}); });
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone

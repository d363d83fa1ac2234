// y_i = weight[ids_i] and dWeight_v = sum over i with ids_i = v of dY_i, in ascending i.
//
// Bound by memory traffic, so compiled once: wider vectors gain nothing. The gradient sorts the positions by id
// (counting, stable) and lets every task own a range of the table: no two tasks write the same row, and a row's order
// of addition is that of the positions. float32 within 32 positions, float64 across: error <= 33 * 2^-24 * sum |dY|.
#include "kernels/embedding.h"

#include <cstring>

#include "core/workspace.h"
#include "kernels/split.h"

namespace rankone {
namespace {

constexpr int64_t kStripe = 256;    // columns of a task of the gradient
constexpr int64_t kBlockAdds = 32;  // positions added in float32

struct Sorted {
  const int64_t* first;      // [V+1]: where the positions of an id begin in `positions`
  const int64_t* positions;  // [count]
};

void sumRow(const EmbeddingBackwardArgs& p, const Sorted& sorted, int64_t id, int64_t column, int64_t width) {
  const int64_t begin = sorted.first[id], end = sorted.first[id + 1];
  float* out = p.dWeight + id * p.D + column;
  if (begin == end) {
    std::memset(out, 0, static_cast<size_t>(width) * sizeof(float));
    return;
  }
  float block[kStripe];
  double total[kStripe];
  const bool single = end - begin <= kBlockAdds;
  for (int64_t i = begin; i < end; i += kBlockAdds) {
    const int64_t stop = std::min(end, i + kBlockAdds);
    std::memcpy(block, p.dY + sorted.positions[i] * p.D + column, static_cast<size_t>(width) * sizeof(float));
    for (int64_t j = i + 1; j < stop; ++j) {
      const float* row = p.dY + sorted.positions[j] * p.D + column;
      for (int64_t c = 0; c < width; ++c) block[c] += row[c];
    }
    if (!single)
      for (int64_t c = 0; c < width; ++c) total[c] = (i == begin ? 0.0 : total[c]) + block[c];
  }
  for (int64_t c = 0; c < width; ++c) out[c] = single ? block[c] : static_cast<float>(total[c]);
}

}  // namespace

int64_t findBadId(const int32_t* ids, int64_t count, int64_t V) {
  for (int64_t i = 0; i < count; ++i)
    if (ids[i] < 0 || ids[i] >= V) return i;
  return count;
}

void embedding(const EmbeddingArgs& p) {
  if (p.D == 0) return;
  const Split s = splitWork(p.count, 8 * p.D);
  parallelFor(s.tasks, p.cancel, [&](int64_t task) {
    for (int64_t i = s.begin(task); i < s.end(task); ++i)
      std::memcpy(p.y + i * p.D, p.weight + p.ids[i] * p.D, static_cast<size_t>(p.D) * sizeof(float));
  });
}

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

  const Sorted sorted{first, positions};
  const int64_t stripes = (p.D + kStripe - 1) / kStripe;
  const Split s = splitWork(p.V, 4 * std::min(p.D, kStripe) * (2 + p.count / p.V));
  parallelFor(s.tasks * stripes, p.cancel, [&](int64_t t) {
    const int64_t column = t % stripes * kStripe, task = t / stripes;
    for (int64_t id = s.begin(task); id < s.end(task); ++id)
      sumRow(p, sorted, id, column, std::min(kStripe, p.D - column));
  });
}

}  // namespace rankone

#include "kernels/embedding.h"

#include "kernels/split.h"

#define RANKONE_KERNEL "kernels/embedding.inl"
#include "core/foreach_isa.h"

namespace rankone {

int64_t findBadId(const int32_t* ids, int64_t count, int64_t V) {
  for (int64_t i = 0; i < count; ++i)
    if (ids[i] < 0 || ids[i] >= V) return i;
  return count;
}

// Bytes that are copied as they are.
void embedding(const EmbeddingArgs& p) {
  if (p.D == 0) return;
  const size_t row = static_cast<size_t>(p.D) * dtypeSize(p.dtype);
  const auto* weight = static_cast<const char*>(p.weight);
  auto* y = static_cast<char*>(p.y);
  const Split s = splitWork(p.count, 8 * p.D);
  parallelFor(s.tasks, p.cancel, [&](int64_t task) {
    for (int64_t i = s.begin(task); i < s.end(task); ++i)
      std::memcpy(y + static_cast<size_t>(i) * row, weight + static_cast<size_t>(p.ids[i]) * row, row);
  });
}

void embeddingBackward(const EmbeddingBackwardArgs& args) { RANKONE_PICK(embeddingBackward)(args); }

}  // namespace rankone

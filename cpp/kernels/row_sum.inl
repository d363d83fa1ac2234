// y_n = sum_r x_rn, float32 in blocks of 32 rows, eight of those to a chunk, and the chunks in float64, each in
// ascending order: error <= 40 * 2^-24 * sum |x| however many rows there are. Half-width sums are rounded at the end.
namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

constexpr int64_t kBlockRows = 32, kChunkRows = 256;

template <class D, int V>
void chunkColumns(const RowSumArgs& p, int64_t begin, int64_t end, int64_t n, int last, float* out) {
  Vec total[V] = {};
  for (int64_t block = begin; block < end; block += kBlockRows) {
    Vec acc[V] = {};
    for (int64_t r = block; r < end && r < block + kBlockRows; ++r) {
      const auto* row = static_cast<const typename D::Element*>(p.x) + r * p.N + n;
#pragma GCC unroll 4
      for (int v = 0; v < V - 1; ++v) acc[v] += D::load(row + v * kLanes);
      acc[V - 1] += last == kLanes ? D::load(row + (V - 1) * kLanes) : D::loadPart(row + (V - 1) * kLanes, last);
    }
    for (int v = 0; v < V; ++v) total[v] += acc[v];
  }
  for (int v = 0; v < V - 1; ++v) store(out + n + v * kLanes, total[v]);
  storePart(out + n + (V - 1) * kLanes, total[V - 1], last);
}

template <class D>
void chunkRows(const RowSumArgs& p, int64_t chunk, float* out) {
  const int64_t begin = chunk * kChunkRows, end = std::min(p.rows, begin + kChunkRows);
  int64_t n = 0;
  for (; n + 4 * kLanes <= p.N; n += 4 * kLanes) chunkColumns<D, 4>(p, begin, end, n, kLanes, out);
  for (; n < p.N; n += kLanes)
    chunkColumns<D, 1>(p, begin, end, n, static_cast<int>(std::min<int64_t>(kLanes, p.N - n)), out);
}

void chunk(const RowSumArgs& p, int64_t index, float* out) {
  switch (p.dtype) {
    case DType::BF16: return chunkRows<BF16>(p, index, out);
    case DType::F16: return chunkRows<F16>(p, index, out);
    default: return chunkRows<F32>(p, index, out);
  }
}

void chunkTasks(const RowSumArgs& p, float* partial, int64_t begin, int64_t end) {
  for (int64_t c = begin; c < end; ++c) chunk(p, c, partial + c * p.N);
}

void sumRows(const RowSumArgs& p, float* y) {
  const int64_t chunks = (p.rows + kChunkRows - 1) / kChunkRows;
  if (chunks == 1) return chunk(p, 0, y);
  Scratch scratch(chunks * p.N);
  float* partial = scratch.take(chunks * p.N);  // [chunks, N]
  const Split split = splitWork(chunks, 2 * kChunkRows * p.N);
  parallelFor(split.tasks, p.cancel, [&](int64_t t) { chunkTasks(p, partial, split.begin(t), split.end(t)); });
  for (int64_t n = 0; n < p.N; ++n) {
    double total = 0;
    for (int64_t c = 0; c < chunks; ++c) total += partial[c * p.N + n];
    y[n] = static_cast<float>(total);
  }
}

}  // namespace

void rowSum(const RowSumArgs& p) {
  if (p.yDType == DType::F32) return sumRows(p, static_cast<float*>(p.y));
  Scratch scratch(p.N);
  float* y = scratch.take(p.N);
  sumRows(p, y);
  narrow(y, p.N, p.y, p.yDType, 0);
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone

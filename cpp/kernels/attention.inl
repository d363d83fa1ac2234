// o = softmax(scale q k^T) v over the keys that a query sees, with a softmax that goes on from block to block of keys:
// sums relative to the largest score so far, that of the sums being 2^score (scores carry log2 e). Nothing is of size
// T x S. A sink is one more score without a value; it, the division and the gate come last. Scores, weights and sums
// are float32: the error of o is about 2^-23 (1 + |score|), as is that of lse, which is taken in float64.
//
// Blocks of keys begin at fixed positions and are added in ascending order, so a row's bits depend on its own sequence
// alone. Where few rows meet many keys, parts of the keys are summed apart, cut by shape, and joined in ascending
// order. What a query does not see has weight 0 and is left out even where it is NaN.
//
// Milakov and Gimelshein, "Online normalizer calculation for softmax" (2018); Dao et al., "FlashAttention" (2022);
// sinks: Xiao et al., "Efficient streaming language models with attention sinks" (2023); gates: Qiu et al., "Gated
// attention for large language models" (2025).
#include "kernels/attention_few.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

// A row's sums [padded(V)] relative to 2^top, and its weights, to o and lse. `values` has padded(V) floats.
void finishRow(const AttentionArgs& p, int64_t row, int64_t head, const float* sums, float top, float weight,
               float* values) {
  double level = top, total = weight;  // the row's weights add up to total * 2^level
  float factor = 1;
  if (p.sinks && !(p.sinks[head] == kMasked)) {
    const double sink = static_cast<double>(p.sinks[head]) / kLn2;
    if (top == kMasked) {
      level = sink;
      total = 1;
      factor = 0;
    } else if (sink > level) {
      factor = static_cast<float>(std::exp2(level - sink));
      total = total * std::exp2(level - sink) + 1;
      level = sink;
    } else {
      total += std::exp2(sink - level);
    }
  }
  const bool none = total == 0;
  if (p.lse) p.lse[row] = none ? kMasked : static_cast<float>(level * kLn2 + std::log(total));
  const Vec share = splat(none ? 0 : static_cast<float>(factor / total));
  if (p.gate) widenRow(p.gate, p.gateDType, row, p.V, values);
  for (int64_t i = 0; i < p.V; i += kLanes) {
    const Vec x = load(sums + i) * share;
    store(values + i, p.gate ? x * sigmoid(load(values + i)) : x);
  }
  narrow(values, p.V, p.o, p.oDType, row * p.V);
}

struct PartialRows {
  float *sums, *top, *weight;
};
PartialRows partialRows(const AttentionItem& item, int64_t ldV, float* memory) {
  const int64_t rows = item.allRows();
  float* sums = memory + std::max<int64_t>(item.partial, 0);
  return {sums, sums + rows * ldV, sums + rows * (ldV + 8)};
}

void finishRows(const AttentionArgs& p, const AttentionItem& item, int64_t first, int64_t rows, const float* sums,
                const float* top, const float* weight) {
  const int64_t ldV = padded(p.V);
  Scratch scratch(ldV);
  float* values = scratch.take(ldV);
  for (int64_t r = 0; r < rows; ++r) {
    const QueryRows at = queryRows(p, *item.sequence, item.head + (first + r) / item.rows);
    const int64_t row = item.row + (first + r) % item.rows;
    finishRow(p, at.at(row), at.first + row % at.group, sums + r * ldV, top[r], weight[r], values);
  }
}

void fewRows(const AttentionArgs& p, const AttentionItem& item, float* memory) {
  const int64_t ldV = padded(p.V);
  const bool part = item.partial >= 0;
  const int64_t floats = part ? 0 : item.allRows() * (ldV + 16);
  Scratch scratch(floats);
  const PartialRows out = partialRows(item, ldV, part ? memory : scratch.take(floats));
  const bool done =
      withDType(p.keyDType, [&](auto d) { return FewTask<decltype(d)>(p, item, out.sums, out.top, out.weight).run(); });
  if (done && !part) finishRows(p, item, 0, item.allRows(), out.sums, out.top, out.weight);
}

void manyRows(const AttentionArgs& p, const AttentionItem& item, float* memory) {
  PanelTask task(p, item);
  if (!task.run()) return;
  const int64_t ldV = padded(p.V);
  for (int64_t i = 0; i < task.panels(); ++i) {
    const Panel panel = task.panel(i);
    const int64_t first = i * kQueries, rows = task.rowsOf(i);
    if (item.partial < 0) {
      finishRows(p, item, first, rows, panel.sums, panel.top, panel.weight);
      continue;
    }
    const PartialRows out = partialRows(item, ldV, memory);
    std::memcpy(out.sums + first * ldV, panel.sums, static_cast<size_t>(rows * ldV) * sizeof(float));
    std::memcpy(out.top + first, panel.top, static_cast<size_t>(rows) * sizeof(float));
    std::memcpy(out.weight + first, panel.weight, static_cast<size_t>(rows) * sizeof(float));
  }
}

// The parts of some rows, one after the other onto the first.
void joinParts(const AttentionArgs& p, const AttentionPlan& plan, const AttentionSplit& split, float* memory) {
  const int64_t ldV = padded(p.V);
  const AttentionItem& first = plan.items[static_cast<size_t>(split.item)];
  const PartialRows to = partialRows(first, ldV, memory);
  for (int64_t i = 1; i < split.parts; ++i) {
    const PartialRows from = partialRows(plan.items[static_cast<size_t>(split.item + i)], ldV, memory);
    for (int64_t r = 0; r < first.allRows(); ++r) {
      const float top = larger(splat(from.top[r]), splat(to.top[r]))[0], base = top == kMasked ? 0 : top;
      const Vec here = exp2(splat(to.top[r] - base)), there = exp2(splat(from.top[r] - base));
      for (int64_t c = 0; c < ldV; c += kLanes)
        store(to.sums + r * ldV + c, fma(there, load(from.sums + r * ldV + c), here * load(to.sums + r * ldV + c)));
      to.weight[r] = to.weight[r] * here[0] + from.weight[r] * there[0];
      to.top[r] = top;
    }
  }
  finishRows(p, first, 0, first.allRows(), to.sums, to.top, to.weight);
}

}  // namespace

void attention(const AttentionArgs& p) {
  const AttentionPlan plan = planAttention(p, padded(p.V));
  Scratch scratch(plan.partialFloats);
  float* memory = plan.partialFloats ? scratch.take(plan.partialFloats) : nullptr;
  const Split work = splitWork(static_cast<int64_t>(plan.items.size()), plan.cost);
  parallelFor(work.tasks, p.cancel, [&](int64_t t) {
    for (int64_t i = work.begin(t); i < work.end(t); ++i) {
      const AttentionItem& item = plan.items[static_cast<size_t>(i)];
      const int64_t rows = item.sequence->T * (p.H / p.HKV);
      rows <= kAttentionFewRows ? fewRows(p, item, memory) : manyRows(p, item, memory);
    }
  });
  const Split joins = splitWork(static_cast<int64_t>(plan.splits.size()), 4096);
  parallelFor(joins.tasks, p.cancel, [&](int64_t t) {
    for (int64_t i = joins.begin(t); i < joins.end(t); ++i)
      joinParts(p, plan, plan.splits[static_cast<size_t>(i)], memory);
  });
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone

// o_t = scale phi(q_t)^T M / (phi(q_t).z + eps) * modulate_t of M = sum_s alpha_s phi(k_s) v_s^T and z = sum_s alpha_s
// phi(k_s), over all keys of the sequence. Two passes of products: one over the keys, one over the queries, by tiles
// whose features live in cache and nowhere else. Sums over keys are float32 within 256 tokens, then within a part of
// the sequence, then over the parts, in order: relative error of o about 1e-6 where terms do not cancel.
//
// Katharopoulos et al., "Transformers are RNNs" (2020); weights of keys and modulation: Fan et al., "Breaking the
// low-rank dilemma of linear attention" (2024).
#include "kernels/bidirectional_common.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

void attendTo(const BidirectionalArgs& p, const Widths& w, const SideMap& map, const BidirectionalItem& item,
              const float* M, const float* z) {
  FeatureRows queries(p, w, p.q, p.H);
  Scratch scratch(alignFloats(w.rows * w.ldV) + alignFloats(w.rows * w.ldV));
  float *out = scratch.take(w.rows * w.ldV), *modulate = scratch.take(w.rows * w.ldV);
  for (int64_t at = item.begin; at < item.end; at += w.rows) {
    if (isCancelled(p)) return;
    const int64_t count = std::min(w.rows, item.end - at), row = item.sequence->q + at;
    queries.read(map.of(item.head), row, count, item.head);
    queries.times(M, count, out);
    if (p.modulate) HeadSlice{p.modulate.dtype, p.H, w.V}.read(p.modulate.data, row, count, item.head, modulate);
    for (int64_t r = 0; r < count; ++r) {
      const Vec factor = splat(rowFactor(p, w, queries.row(r), z).factor);
      float* o = out + r * w.ldV;
      for (int64_t i = 0; i < w.ldV; i += kLanes) {
        const Vec y = load(o + i) * factor;
        store(o + i, p.modulate ? y * load(modulate + r * w.ldV + i) : y);
      }
    }
    HeadSlice{p.oDType, p.H, w.V}.write(out, row, count, item.head, p.o);
  }
}

}  // namespace

void bidirectionalAttention(const BidirectionalArgs& p, const std::vector<BidirectionalWave>& waves) {
  const Widths w(p);
  const SideMap queries(p, p.qWeight, p.H, false), keys(p, p.kWeight, p.HKV, false);
  const int64_t weights = p.rankAugmented ? p.HKV * p.keyTokens : 0;
  Scratch own(alignFloats(weights));
  float* alpha = weights ? own.take(weights) : nullptr;
  for (const BidirectionalWave& wave : waves) {
    const int64_t slots = wave.keys.slots(), means = p.rankAugmented ? wave.queries.slots() * w.ldF : 0;
    Scratch scratch(alignFloats(slots * w.sums()) + alignFloats(slots * w.ldF) + alignFloats(means));
    SlotSums sums;
    sums.outer = scratch.take(slots * w.sums());
    sums.plain = scratch.take(slots * w.ldF);
    if (p.rankAugmented) weighKeys(p, w, queries, keys, wave, scratch.take(means), alpha);
    sumWave(p, w, keys, {p.alpha, alpha, p.HKV, p.keyTokens}, wave, sums);
    forItems(p, wave.queries, [&](const BidirectionalTask&, const BidirectionalItem& item) {
      const int64_t slot = wave.keys.first[static_cast<size_t>(item.place)];
      attendTo(p, w, queries, item, sums.outer + slot * w.sums(), sums.plain + slot * w.ldF);
    });
  }
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone

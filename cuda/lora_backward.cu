#include <algorithm>

#include "lora_backward_call.h"
#include "lora_backward_dx.cuh"
#include "lora_backward_ranks.cuh"

namespace rankone::cuda {

int32_t arithmeticOf(const RankoneLora& problem) {
  if (problem.compute == RANKONE_COMPUTE_F32) return RANKONE_F32;
  return problem.compute == RANKONE_COMPUTE_BF16 ? int32_t{RANKONE_BF16} : problem.x.dtype;
}

namespace {

class Backward {
 public:
  Backward(Stream& stream, const RankoneLoraBackward& args);
  void run();

 private:
  // Lists that ranks and dx are made from.
  struct Plan {
    Lists lists;
    Lists::Place<LoraUse> uses;
    Lists::Place<LoraItem> items;
    Lists::Place<int64_t> itemRows;
    Lists::Place<LoraItemTile> tilesU, tilesT;
    Lists::Place<const float*> scales;
    Lists::Place<AdapterStep> steps, indexSteps;
    Lists::Place<int64_t> firstSteps, firstIndexSteps;
    Lists::Place<int32_t> tileItems;
    Lists::Place<AdapterCopy> copies;
    int64_t largestCopy = 0;
  };
  void plan();
  void planInputGradient();
  template <RankSide kSide>
  int64_t multiplyRanks(const Lists::Place<LoraItemTile>& tiles, const Lines& rows, int64_t depth,
                        Scratch<float>& partial);
  void turnRanks();
  void makeInputGradient();
  void sumOverRows();
  Scratch<float> floats(int64_t count) { return {stream_, static_cast<size_t>(count)}; }
  // dt or w of an adapter's items, as products over them read it.
  Lines turned(const Scratch<float>& exact, const Scratch<uint16_t>& half, int64_t at, int64_t ld) const {
    if (half.data()) return linesOf({half.data() + at, RANKONE_BF16}, ld);
    return linesOf(exact.data() ? exact.data() + at : nullptr, ld);
  }

  Stream& stream_;
  const RankoneLoraBackward& args_;
  const RankoneLora& p_;
  const int32_t arithmetic_;
  const LoraItems items_;
  const Lines x_, dY_;
  Plan plan_;
  KeptBits kept_{};
  Scratch<uint32_t> keptWords_;
  Scratch<float> t_, h_, u_, w_, factors_, scales_;
  Scratch<uint16_t> dtHalf_, wHalf_;  // for the tensor cores
  std::vector<Scratch<uint16_t>> copies_;
};

Backward::Backward(Stream& stream, const RankoneLoraBackward& args)
    : stream_(stream),
      args_(args),
      p_(args.problem),
      arithmetic_(arithmeticOf(args.problem)),
      items_(args.problem),
      x_(linesOf(p_.x, p_.in)),
      dY_(linesOf(args.dY, p_.out)) {}

// What each tile of dx takes from adapters.
void Backward::planInputGradient() {
  std::vector<const float*> scales;
  for (const LoraUse& use : items_.uses)
    if (use.adapter.baseScale) scales.resize(p_.rows);
  for (const LoraItem& item : items_.items)
    if (!scales.empty()) scales[item.row] = items_.uses[item.use].adapter.baseScale;
  plan_.scales = plan_.lists.add(scales);

  std::vector<int64_t> firstParts, firstSteps{0}, firstIndexSteps{0};
  std::vector<AdapterStep> steps, indexSteps;
  std::vector<int32_t> tileItems;
  std::vector<AdapterCopy> copies;
  std::vector<Lines> matrices;  // of the uses, as products read them
  for (const LoraUse& use : items_.uses) {
    const RankoneAdapter& a = use.adapter;
    Lines lines = linesOf(a.a, a.aStride);
    if (!a.aIndex && arithmetic_ != RANKONE_F32 && !cuda::copies<Bf16Arithmetic>(lines)) {
      const int64_t ld = (p_.in + 7) / 8 * 8;
      copies_.emplace_back(stream_, static_cast<size_t>(a.rank * ld));
      copies.push_back({lines, a.rank, p_.in, ld, copies_.back().data()});
      plan_.largestCopy = std::max(plan_.largestCopy, a.rank * ld);
      lines = linesOf({copies_.back().data(), RANKONE_BF16}, ld);
    }
    matrices.push_back(lines);
  }
  const std::vector<LoraTilePart> parts = items_.parts(p_, firstParts);
  const int64_t depth =
      arithmetic_ == RANKONE_F32 ? kInputGradientDepth<F32Arithmetic> : kInputGradientDepth<Bf16Arithmetic>;
  for (size_t tile = 0; tile + 1 < firstParts.size(); ++tile) {
    for (int64_t k = firstParts[tile]; k < firstParts[tile + 1]; ++k) {
      const LoraUse& use = items_.uses[parts[k].use];
      const RankoneAdapter& a = use.adapter;
      AdapterStep step{
          linesOf(t_.data() + use.t, use.ldT), {}, a.aIndex, a.rank, static_cast<int64_t>(tileItems.size())};
      tileItems.insert(tileItems.end(), parts[k].items.begin(), parts[k].items.end());
      if (a.aIndex) {
        indexSteps.push_back(step);
        continue;
      }
      for (int64_t r = 0; r < a.rank; r += depth) {
        step.dt = turned(t_, dtHalf_, use.t + r, use.ldT);
        step.a = linesFrom(matrices[parts[k].use], r);
        step.ranks = a.rank - r;
        steps.push_back(step);
      }
    }
    firstSteps.push_back(static_cast<int64_t>(steps.size()));
    firstIndexSteps.push_back(static_cast<int64_t>(indexSteps.size()));
  }
  plan_.steps = plan_.lists.add(steps);
  plan_.indexSteps = plan_.lists.add(indexSteps);
  plan_.firstSteps = plan_.lists.add(firstSteps);
  plan_.firstIndexSteps = plan_.lists.add(firstIndexSteps);
  plan_.tileItems = plan_.lists.add(tileItems);
  plan_.copies = plan_.lists.add(copies);
}

void Backward::plan() {
  const auto count = static_cast<int64_t>(items_.items.size());
  t_ = floats(items_.t);
  h_ = floats(items_.t);
  u_ = floats(items_.w);
  w_ = floats(items_.w);
  if (arithmetic_ != RANKONE_F32) {
    dtHalf_ = Scratch<uint16_t>(stream_, static_cast<size_t>(items_.t));
    wHalf_ = Scratch<uint16_t>(stream_, static_cast<size_t>(items_.w));
  }
  factors_ = floats(count);
  if (args_.adapters) scales_ = floats(count);
  std::vector<int64_t> rows;
  for (const LoraItem& item : items_.items) rows.push_back(item.row);
  plan_.uses = plan_.lists.add(items_.uses);
  plan_.items = plan_.lists.add(items_.items);
  plan_.itemRows = plan_.lists.add(rows);
  plan_.tilesU = plan_.lists.add(items_.tiles(kItemTile, [](const LoraUse& use) { return !use.adapter.bIndex; }));
  plan_.tilesT = plan_.lists.add(items_.tiles(kItemTile, [](const LoraUse& use) { return !use.adapter.aIndex; }));
  if (args_.dx) planInputGradient();
  plan_.lists.send(stream_);

  if (!(p_.dropout > 0)) return;
  const int64_t words = (p_.in + 31) / 32;
  const Dropout dropout = dropoutOf(p_.dropout, p_.seed);
  keptWords_ = Scratch<uint32_t>(stream_, static_cast<size_t>(p_.rows * words));
  kept_ = {reinterpret_cast<const uint8_t*>(keptWords_.data()), words * 4, dropout.kept};
  stream_.launch("dropout", keepBits, blocksOf(p_.rows * words, kKeepThreads), kKeepThreads, 0, dropout, p_.rows, words,
                 keptWords_.data());
}

// How many pieces of the depth there are.
template <RankSide kSide>
int64_t Backward::multiplyRanks(const Lists::Place<LoraItemTile>& tiles, const Lines& rows, int64_t depth,
                                Scratch<float>& partial) {
  constexpr bool kB = kSide == RankSide::U;
  const int64_t count = kB ? items_.w : items_.t, pieces = (depth + kDepthOfSums - 1) / kDepthOfSums;
  partial = floats(pieces * count);
  const RankProducts args{rows,         depth, kB ? KeptBits{} : kept_, plan_.uses.data(), plan_.items.data(),
                          tiles.data(), count, partial.data()};
  const dim3 grid(static_cast<unsigned>(tiles.count), blocksOf(kB ? items_.mostMidRank : items_.mostRank, 64),
                  static_cast<unsigned>(pieces));
  const auto launch = [&](auto of, auto kernel) {
    stream_.launch(kB ? "B^T dY" : "A x", kernel, grid, kTileThreads, sizeof(typename decltype(of)::Shared), args);
  };
  withArithmetic(arithmetic_, [&](auto math) {
    using Math = decltype(math);
    if constexpr (!isF32<Math>)
      if (copies<Math>(rows) && !args.kept.bits)
        return launch(RankTile<Math, kSide, Way::COPIED>{}, rankProducts<Math, kSide, Way::COPIED>);
    launch(RankTile<Math, kSide, Way::FETCHED>{}, rankProducts<Math, kSide, Way::FETCHED>);
  });
  return pieces;
}

void Backward::turnRanks() {
  Scratch<float> partialT, partialU, weights, dh;
  RankTurn g{};
  g.uses = plan_.uses.data();
  g.items = plan_.items.data();
  g.count = static_cast<int64_t>(items_.items.size());
  g.x = x_;
  g.dY = dY_;
  g.out = p_.out;
  g.kept = kept_;
  if (!kept_.bits) g.kept.factor = 1;
  g.given = p_.t;
  g.tRanks = p_.tRanks;
  g.gates = p_.gates;
  g.floatsT = items_.t;
  g.floatsU = items_.w;
  bool selfGated = false;
  g.wantsT = args_.adapters || args_.dGates;
  for (const LoraUse& use : items_.uses) {
    selfGated = selfGated || use.adapter.activation == RANKONE_ACT_SELF_TOP_K;
    g.wantsT = g.wantsT || use.adapter.activation != RANKONE_ACT_NONE;
  }
  g.piecesU = multiplyRanks<RankSide::U>(plan_.tilesU, dY_, p_.out, partialU);
  if (g.wantsT && !p_.t) g.piecesT = multiplyRanks<RankSide::T>(plan_.tilesT, x_, p_.in, partialT);
  g.partialU = partialU.data();
  g.partialT = partialT.data();
  if (selfGated) {
    weights = floats(items_.t);
    dh = floats(items_.t);
  }
  g.t = t_.data();
  g.h = h_.data();
  g.u = u_.data();
  g.w = w_.data();
  g.weights = weights.data();
  g.dh = dh.data();
  g.factors = factors_.data();
  g.scales = scales_.data();
  g.dGates = args_.dGates;
  g.dtHalf = dtHalf_.data();
  g.wHalf = wHalf_.data();
  stream_.launch("ranks", cuda::turnRanks, blocksOf(g.count, kTurnWarps), 32 * kTurnWarps, 0, g);
}

void Backward::makeInputGradient() {
  InputGradient g{};
  g.rows = p_.rows;
  g.in = p_.in;
  g.out = p_.out;
  g.dY = dY_;
  if (p_.base && p_.out > 0) g.base = *p_.base;
  g.identity = p_.identity;
  if (!items_.items.empty()) {
    g.scales = plan_.scales.data();
    g.steps = plan_.steps.data();
    g.indexSteps = plan_.indexSteps.data();
    g.firstSteps = plan_.firstSteps.data();
    g.firstIndexSteps = plan_.firstIndexSteps.data();
    g.items = plan_.tileItems.data();
    g.kept = kept_;
    const dim3 grid(static_cast<unsigned>(plan_.copies.count),
                    std::min<unsigned>(256, blocksOf(plan_.largestCopy, 4 * kCopyThreads)));
    stream_.launch("adapters in bf16", copyAdapters, grid, kCopyThreads, 0, plan_.copies.data());
  }
  g.dx = args_.dx;
  g.dtype = args_.dxDType;
  const auto launch = [&](auto of, auto kernel) {
    using Tiles = decltype(of);
    const unsigned tiles = blocksOf(p_.rows, kRowTile) * blocksOf(p_.in, Tiles::Base::kColumns);
    stream_.launch("dx", kernel, tiles, kTileThreads, sizeof(typename Tiles::Shared), g);
  };
  withArithmetic(arithmetic_, [&](auto math) {
    using Math = decltype(math);
    constexpr Way C = Way::COPIED, F = Way::FETCHED, M = Way::MOVED;
    const bool same = g.base.codes && g.base.format == Math::kDType, codes = g.base.format > RANKONE_WEIGHT_F16;
    if constexpr (isF32<Math>) {
      if (same) return launch(InputGradientTiles<Math, F, C>{}, inputGradient<Math, F, C>);
      launch(InputGradientTiles<Math, F, M>{}, inputGradient<Math, F, M>);
    } else if (copies<Math>(dY_) && !g.scales) {
      if (same) return launch(InputGradientTiles<Math, C, C>{}, inputGradient<Math, C, C>);
      if (codes) return launch(InputGradientTiles<Math, C, F>{}, inputGradient<Math, C, F>);
      launch(InputGradientTiles<Math, C, M>{}, inputGradient<Math, C, M>);
    } else {
      if (same) return launch(InputGradientTiles<Math, M, C>{}, inputGradient<Math, M, C>);
      launch(InputGradientTiles<Math, M, M>{}, inputGradient<Math, M, M>);
    }
  });
}

void Backward::sumOverRows() {
  LoraRowSums sums(stream_, arithmetic_);
  if (args_.dBias) sums.add(LoraRowSums::Columns{dY_, {}, nullptr, nullptr, nullptr, p_.rows, p_.out}, args_.dBias);
  std::vector<LoraRowSums::BaseScale> baseScales;
  for (int64_t e = 0; args_.adapters && e < p_.adapterCount; ++e) {
    const RankoneAdapterGradient& to = args_.adapters[e];
    const RankoneAdapter& a = p_.adapters[e];
    const LoraUse none{};
    const LoraUse& use = items_.useOf[e] < 0 ? none : items_.uses[items_.useOf[e]];
    const bool used = use.count > 0;
    const int64_t ldT = use.ldT, ldW = use.ldW, n = use.count;
    const int64_t* rows = used ? plan_.itemRows.data() + use.first : nullptr;
    const auto own = [&](const Scratch<float>& of, int64_t at, int64_t ld) {
      return linesOf(used ? of.data() + at : nullptr, ld);
    };
    const Lines dt = own(t_, use.t, ldT), h = own(h_, use.t, ldT), du = own(u_, use.w, ldW);
    const float* factors = used ? factors_.data() + use.first : nullptr;
    const auto columns = [&](const Lines& x, const Lines& y, bool gathered, const float* factors, int64_t count,
                             float* sum) {
      const int64_t* of = gathered ? rows : nullptr;
      sums.add(LoraRowSums::Columns{x, y, of, of, factors, n, count}, sum);
    };
    if (to.a) sums.add({turned(t_, dtHalf_, use.t, ldT), a.rank, n, x_, rows, p_.in, kept_, to.a, p_.in, false, false});
    if (to.b)
      sums.add({turned(w_, wHalf_, use.w, ldW), a.midRank, n, dY_, rows, p_.out, {}, to.b, to.bRanks, true, false});
    if (to.mid && a.mid) sums.add({du, a.midRank, n, h, nullptr, a.rank, {}, to.mid, to.midRanks, false, true});
    if (to.mid && !a.mid) columns(du, h, false, nullptr, a.rank, to.mid);
    if (to.rankBias) columns(dt, {}, false, nullptr, a.rank, to.rankBias);
    if (to.scale) columns(own(scales_, use.first, 1), {}, false, nullptr, 1, to.scale);
    if (to.outBias) columns(dY_, {}, true, factors, p_.out, to.outBias);
    if (!to.baseScale) continue;
    if (p_.identity)
      columns(dY_, x_, true, nullptr, p_.out, to.baseScale);
    else if (used && p_.base && a.baseScale)
      baseScales.push_back({items_.useOf[e], n, to.baseScale});
    else
      sums.addZeros(to.baseScale, p_.out);
  }
  if (!baseScales.empty()) sums.addBaseScales(baseScales, x_, dY_, *p_.base, plan_.uses.data(), plan_.itemRows.data());
  sums.launch();
}

void Backward::run() {
  if (args_.dGates) stream_.fill(args_.dGates, 0, static_cast<size_t>(p_.rows * p_.perRow) * sizeof(float));
  if (!items_.items.empty() && (args_.dx || args_.dGates || args_.adapters)) {
    plan();
    turnRanks();
  }
  // First the sums, as dY has just been read.
  if (args_.dBias || args_.adapters) sumOverRows();
  if (args_.dx && p_.rows > 0 && p_.in > 0) makeInputGradient();
}

}  // namespace

void loraBackward(Stream& stream, const RankoneLoraBackward& args) { Backward(stream, args).run(); }

}  // namespace rankone::cuda

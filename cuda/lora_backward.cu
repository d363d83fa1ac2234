#include <algorithm>
#include <cmath>

#include "lora.h"
#include "lora_backward.h"
#include "lora_backward_dx.cuh"
#include "lora_backward_ranks.cuh"
#include "lora_backward_sums.cuh"

namespace rankone::cuda {

namespace {

unsigned blocksOf(int64_t size, int64_t of) { return static_cast<unsigned>((size + of - 1) / of); }

// The arithmetic of a call: float32, or that of the tensor cores that the tensors' dtype names.
int32_t arithmeticOf(const RankoneLora& p) {
  if (p.compute == RANKONE_COMPUTE_F32) return RANKONE_F32;
  if (p.compute == RANKONE_COMPUTE_BF16) return RANKONE_BF16;
  return p.x.dtype;
}

template <class F>
void withArithmetic(int32_t dtype, F&& f) {
  switch (dtype) {
    case RANKONE_BF16: return f(Bf16Arithmetic{});
    case RANKONE_F16: return f(F16Arithmetic{});
    default: return f(F32Arithmetic{});
  }
}

class Backward {
 public:
  Backward(Stream& stream, const RankoneLoraBackward& args);
  void run();

 private:
  template <RankSide kSide>
  int64_t multiplyRanks(const Lines& rows, int64_t depth, Scratch<float>& partial);
  void turn();
  void makeInputGradient();
  void sumOverRows();
  void addMatrix(const LoraUse& use, const float* ranks, int64_t ld, int64_t count, const Lines& rows, bool gathered,
                 int64_t columns, Dropout dropout, float* to, int64_t toColumns, bool turned, bool exact);
  void addColumns(ColumnSum sum, float* to);
  void addBaseScales();
  void addPieces(const PieceSum& sum);
  void launchSums();

  // Workspace whose address is needed before anything is launched.
  float* take(int64_t floats);

  Stream& stream_;
  const RankoneLoraBackward& args_;
  const RankoneLora& p_;
  const int32_t arithmetic_;
  const LoraItems items_;
  Dropout dropout_{};
  float kept_ = 1;
  Lines x_, dY_;
  Scratch<LoraUse> uses_;
  Scratch<LoraItem> deviceItems_;
  Scratch<int64_t> itemRows_;
  Scratch<float> t_, h_, u_, w_, factors_, scales_;
  std::vector<Scratch<float>> taken_;
  std::vector<MatrixSum> matrices_, exactMatrices_;
  std::vector<ColumnSum> columns_;
  std::vector<PieceSum> pieces_;
};

Backward::Backward(Stream& stream, const RankoneLoraBackward& args)
    : stream_(stream),
      args_(args),
      p_(args.problem),
      arithmetic_(arithmeticOf(args.problem)),
      items_(args.problem),
      x_(linesOf(p_.x, p_.in)),
      dY_(linesOf(args.dY, p_.out)),
      uses_(stream, items_.uses),
      deviceItems_(stream, items_.items) {
  if (p_.dropout > 0) {
    dropout_ = {static_cast<uint64_t>(std::ceil(p_.dropout * 4294967296.0)), p_.seed};
    kept_ = static_cast<float>(1 / (1 - p_.dropout));
  }
}

float* Backward::take(int64_t floats) {
  taken_.emplace_back(stream_, static_cast<size_t>(floats));
  return taken_.back().data();
}

// How many pieces of the depth there are.
template <RankSide kSide>
int64_t Backward::multiplyRanks(const Lines& rows, int64_t depth, Scratch<float>& partial) {
  constexpr bool kB = kSide == RankSide::U;
  const std::vector<LoraItemTile> tiles =
      items_.tiles(kItemTile, [](const LoraUse& use) { return kB ? !use.adapter.bIndex : !use.adapter.aIndex; });
  const int64_t floats = kB ? items_.w : items_.t, pieces = (depth + kDepthOfSums - 1) / kDepthOfSums;
  partial = Scratch<float>(stream_, static_cast<size_t>(pieces * floats));
  const Scratch<LoraItemTile> deviceTiles(stream_, tiles);
  const RankProducts args{
      rows,   depth,         kB ? Dropout{} : dropout_, uses_.data(), deviceItems_.data(), deviceTiles.data(),
      floats, partial.data()};
  const dim3 grid(static_cast<unsigned>(tiles.size()), blocksOf(kB ? items_.mostMidRank : items_.mostRank, 64),
                  static_cast<unsigned>(pieces));
  withArithmetic(arithmetic_, [&](auto math) {
    using Math = decltype(math);
    stream_.launch(kB ? "ranks of dY" : "ranks of x", rankProducts<Math, kSide>, grid, kTileThreads,
                   sizeof(typename RankTile<Math, kSide>::Shared), args);
  });
  return pieces;
}

void Backward::turn() {
  const auto count = items_.items.size();
  Scratch<float> partialT, partialU, weights, dh;
  RankTurn g{};
  g.uses = uses_.data();
  g.items = deviceItems_.data();
  g.count = static_cast<int64_t>(count);
  g.x = x_;
  g.dY = dY_;
  g.out = p_.out;
  g.dropout = dropout_;
  g.kept = kept_;
  g.given = p_.t;
  g.tRanks = p_.tRanks;
  g.gates = p_.gates;
  g.floatsT = items_.t;
  g.floatsU = items_.w;
  const bool sums = args_.adapters || args_.dGates;
  bool selfGated = false, wantsT = sums;
  for (const LoraUse& use : items_.uses) {
    selfGated = selfGated || use.adapter.activation == RANKONE_ACT_SELF_TOP_K;
    wantsT = wantsT || use.adapter.activation != RANKONE_ACT_NONE;
  }
  g.wantsT = wantsT;
  g.piecesU = multiplyRanks<RankSide::U>(dY_, p_.out, partialU);
  if (wantsT && !p_.t) g.piecesT = multiplyRanks<RankSide::T>(x_, p_.in, partialT);
  g.partialU = partialU.data();
  g.partialT = partialT.data();
  const auto floats = [&](int64_t n) { return Scratch<float>(stream_, static_cast<size_t>(n)); };
  t_ = floats(items_.t);
  h_ = floats(items_.t);
  u_ = floats(items_.w);
  w_ = floats(items_.w);
  factors_ = floats(static_cast<int64_t>(count));
  if (args_.adapters) scales_ = floats(static_cast<int64_t>(count));
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
  stream_.launch("ranks", turnRanks, blocksOf(static_cast<int64_t>(count), kTurnWarps), 32 * kTurnWarps, 0, g);
}

void Backward::makeInputGradient() {
  std::vector<int64_t> firstSteps;
  std::vector<LoraTileStep> steps;
  std::vector<LoraTileEntry> entries;
  std::vector<const float*> scales;
  if (!items_.items.empty()) {
    items_.place(p_, firstSteps, steps, entries);
    for (const LoraUse& use : items_.uses)
      if (use.adapter.baseScale) scales.resize(p_.rows);
    for (const LoraItem& item : items_.items)
      if (!scales.empty()) scales[item.row] = p_.adapters[item.adapter].baseScale;
  }
  const Scratch<int64_t> deviceFirst(stream_, firstSteps);
  const Scratch<LoraTileStep> deviceSteps(stream_, steps);
  const Scratch<LoraTileEntry> deviceEntries(stream_, entries);
  const Scratch<const float*> deviceScales(stream_, scales);
  InputGradient g{};
  g.rows = p_.rows;
  g.in = p_.in;
  g.out = p_.out;
  g.dY = dY_;
  if (p_.base && p_.out > 0) g.base = *p_.base;
  g.identity = p_.identity;
  g.scales = deviceScales.data();
  g.uses = uses_.data();
  g.firstSteps = deviceFirst.data();
  g.steps = deviceSteps.data();
  g.entries = deviceEntries.data();
  g.dt = t_.data();
  g.dropout = dropout_;
  g.kept = kept_;
  g.dx = args_.dx;
  g.dtype = args_.dxDType;
  withArithmetic(arithmetic_, [&](auto math) {
    using Tiles = InputGradientTiles<decltype(math)>;
    const dim3 grid(blocksOf(p_.rows, kRowTile), blocksOf(p_.in, Tiles::Base::kColumns));
    stream_.launch("dx", inputGradient<decltype(math)>, grid, kTileThreads, sizeof(typename Tiles::Shared), g);
  });
}

void Backward::addPieces(const PieceSum& sum) {
  if (sum.lines * sum.toColumns > 0) pieces_.push_back(sum);
}

// Sums of ranks and rows to [ranks, toColumns], or turned to [columns, toColumns]. exact: in float32.
void Backward::addMatrix(const LoraUse& use, const float* ranks, int64_t ld, int64_t count, const Lines& rows,
                         bool gathered, int64_t columns, Dropout dropout, float* to, int64_t toColumns, bool turned,
                         bool exact) {
  const int64_t lines = turned ? columns : count, width = turned ? count : columns;
  const int64_t chains = (use.count + kItemsOfSums - 1) / kItemsOfSums;
  const bool direct = chains == 1 && width == toColumns;
  float* partial = direct ? to : take(chains * lines * width);
  std::vector<MatrixSum>& jobs = exact ? exactMatrices_ : matrices_;
  for (int64_t c = 0; c < chains; ++c) {
    const int64_t first = c * kItemsOfSums;
    MatrixSum j{};
    j.ranks = ranks + first * ld;
    j.ldRanks = ld;
    j.rankCount = count;
    j.rows = rows;
    if (gathered)
      j.gathered = itemRows_.data() + use.first + first;
    else
      j.rows.data = static_cast<const float*>(rows.data) + first * rows.ld;
    j.count = std::min(kItemsOfSums, use.count - first);
    j.columns = columns;
    j.dropout = dropout;
    j.to = partial + c * lines * width;
    j.ldR = turned ? 1 : width;
    j.ldN = turned ? width : 1;
    j.factor = dropout.least ? kept_ : 1.0f;
    for (j.firstRank = 0; j.firstRank < count; j.firstRank += kSumRanks) jobs.push_back(j);
  }
  if (!direct) addPieces({partial, chains, lines * width, lines, width, toColumns, to});
}

// `sum` of all its items, which are cut into chains.
void Backward::addColumns(ColumnSum sum, float* to) {
  const int64_t count = sum.count, chains = (count + kItemsOfSums - 1) / kItemsOfSums;
  float* partial = chains == 1 ? to : take(chains * sum.columns);
  for (int64_t c = 0; c < chains; ++c) {
    const int64_t first = c * kItemsOfSums;
    ColumnSum j = sum;
    const auto move = [&](Lines& lines, const int64_t*& rows) {
      if (rows)
        rows += first;
      else if (lines.data)
        lines.data = static_cast<const char*>(lines.data) + first * lines.ld * (lines.dtype == RANKONE_F32 ? 4 : 2);
    };
    move(j.x, j.xRows);
    move(j.y, j.yRows);
    if (j.factors) j.factors += first;
    j.count = std::min(kItemsOfSums, count - first);
    j.to = partial + c * sum.columns;
    columns_.push_back(j);
  }
  if (chains != 1) addPieces({partial, chains, sum.columns, 1, sum.columns, sum.columns, to});
}

// Gradients of d, of the adapters that want one.
void Backward::addBaseScales() {
  std::vector<LoraItemTile> tiles;
  struct Wanted {
    int64_t first, count;  // tiles
    float* to;
  };
  std::vector<Wanted> wanted;
  for (size_t u = 0; u < items_.uses.size(); ++u) {
    const LoraUse& use = items_.uses[u];
    float* to = args_.adapters[items_.items[use.first].adapter].baseScale;
    if (!to) continue;
    const int64_t* rows = itemRows_.data() + use.first;
    if (p_.identity) {
      addColumns({dY_, x_, rows, rows, nullptr, use.count, p_.out, nullptr}, to);
    } else if (!p_.base || !use.adapter.baseScale) {
      addPieces({nullptr, 0, 0, 1, p_.out, p_.out, to});
    } else {
      wanted.push_back({static_cast<int64_t>(tiles.size()), 0, to});
      for (int64_t i = 0; i < use.count; i += kRowTile)
        tiles.push_back({static_cast<int32_t>(u), static_cast<int32_t>(std::min<int64_t>(kRowTile, use.count - i)), i});
      wanted.back().count = static_cast<int64_t>(tiles.size()) - wanted.back().first;
    }
  }
  if (tiles.empty() || p_.out == 0) return;
  float* sums = take(static_cast<int64_t>(tiles.size()) * p_.out);
  const Scratch<LoraItemTile> deviceTiles(stream_, tiles);
  const BaseScaleSums g{x_, dY_, *p_.base, uses_.data(), itemRows_.data(), deviceTiles.data(), sums};
  withArithmetic(arithmetic_, [&](auto math) {
    using Of = BaseScaleTile<decltype(math)>;
    const dim3 grid(static_cast<unsigned>(tiles.size()), blocksOf(p_.out, Of::T::kColumns));
    stream_.launch("base scales", sumBaseScales<decltype(math)>, grid, kTileThreads, sizeof(typename Of::Shared), g);
  });
  for (const Wanted& w : wanted) addPieces({sums + w.first * p_.out, w.count, p_.out, 1, p_.out, p_.out, w.to});
}

void Backward::sumOverRows() {
  if (args_.dBias) addColumns({dY_, {}, nullptr, nullptr, nullptr, p_.rows, p_.out, nullptr}, args_.dBias);
  if (!args_.adapters) return launchSums();
  if (!items_.items.empty()) {
    std::vector<int64_t> rows;
    for (const LoraItem& item : items_.items) rows.push_back(item.row);
    itemRows_ = Scratch<int64_t>(stream_, rows);
  }
  for (int64_t e = 0; e < p_.adapterCount; ++e) {
    const RankoneAdapterGradient& to = args_.adapters[e];
    const RankoneAdapter& a = p_.adapters[e];
    const LoraUse none{};
    const LoraUse& use = items_.useOf[e] < 0 ? none : items_.uses[items_.useOf[e]];
    const float *dt = t_.data() + use.t, *h = h_.data() + use.t, *du = u_.data() + use.w, *w = w_.data() + use.w;
    const int64_t ldT = use.ldT, ldW = use.ldW, count = use.count;
    if (to.a) addMatrix(use, dt, ldT, a.rank, x_, true, p_.in, dropout_, to.a, p_.in, false, false);
    if (to.b) addMatrix(use, w, ldW, a.midRank, dY_, true, p_.out, {}, to.b, to.bRanks, true, false);
    if (to.mid && a.mid)
      addMatrix(use, du, ldW, a.midRank, linesOf(h, ldT), false, a.rank, {}, to.mid, to.midRanks, false, true);
    if (to.mid && !a.mid)
      addColumns({linesOf(du, ldW), linesOf(h, ldT), nullptr, nullptr, nullptr, count, a.rank, nullptr}, to.mid);
    if (to.rankBias) addColumns({linesOf(dt, ldT), {}, nullptr, nullptr, nullptr, count, a.rank, nullptr}, to.rankBias);
    if (to.scale)
      addColumns({linesOf(scales_.data() + use.first, 1), {}, nullptr, nullptr, nullptr, count, 1, nullptr}, to.scale);
    if (to.outBias)
      addColumns({dY_, {}, itemRows_.data() + use.first, nullptr, factors_.data() + use.first, count, p_.out, nullptr},
                 to.outBias);
    if (to.baseScale && count == 0) addPieces({nullptr, 0, 0, 1, p_.out, p_.out, to.baseScale});
  }
  addBaseScales();
  launchSums();
}

void Backward::launchSums() {
  const auto multiplySums = [&](const char* name, auto math, const std::vector<MatrixSum>& list) {
    int64_t columns = 0;
    for (const MatrixSum& j : list) columns = std::max(columns, j.columns);
    const Scratch<MatrixSum> jobs(stream_, list);
    const dim3 grid(static_cast<unsigned>(list.size()), blocksOf(columns, kSumColumns));
    stream_.launch(name, sumMatrices<decltype(math)>, grid, kTileThreads,
                   sizeof(typename MatrixSumTile<decltype(math)>::Shared), jobs.data());
  };
  if (arithmetic_ == RANKONE_F32)
    multiplySums("dA and dB", F32Arithmetic{}, matrices_);
  else
    multiplySums("dA and dB", Bf16Arithmetic{}, matrices_);
  multiplySums("dM", F32Arithmetic{}, exactMatrices_);
  int64_t widest = 0, largest = 0;
  for (const ColumnSum& j : columns_) widest = std::max(widest, j.columns);
  const Scratch<ColumnSum> sums(stream_, columns_);
  stream_.launch("sums of columns", sumColumns,
                 dim3(static_cast<unsigned>(columns_.size()), blocksOf(widest, kColumnThreads)), kColumnThreads, 0,
                 sums.data());
  for (const PieceSum& j : pieces_) largest = std::max(largest, j.lines * j.toColumns);
  const Scratch<PieceSum> jobs(stream_, pieces_);
  stream_.launch(
      "sums of pieces", sumPieces,
      dim3(static_cast<unsigned>(pieces_.size()), std::min<unsigned>(256, blocksOf(largest, 4 * kPieceThreads))),
      kPieceThreads, 0, jobs.data());
}

void Backward::run() {
  if (args_.dGates) stream_.fill(args_.dGates, 0, static_cast<size_t>(p_.rows * p_.perRow) * sizeof(float));
  const bool ranks = args_.dx || args_.dGates || args_.adapters;
  if (ranks && !items_.items.empty()) turn();
  if (args_.dx && p_.rows > 0) makeInputGradient();
  if (args_.dBias || args_.adapters) sumOverRows();
}

}  // namespace

void loraBackward(Stream& stream, const RankoneLoraBackward& args) { Backward(stream, args).run(); }

}  // namespace rankone::cuda

#include <algorithm>

#include "lora_backward_call.h"
#include "lora_backward_sums.cuh"

namespace rankone::cuda {

struct LoraRowSums::Jobs {
  std::vector<MatrixSum> matrices, copied, exact;
  std::vector<ColumnSum> columns;
  std::vector<PieceSum> pieces;
};

LoraRowSums::LoraRowSums(Stream& stream, int32_t arithmetic)
    : stream_(stream), arithmetic_(arithmetic), jobs_(std::make_unique<Jobs>()) {}

LoraRowSums::~LoraRowSums() = default;

float* LoraRowSums::take(int64_t floats) {
  taken_.emplace_back(stream_, static_cast<size_t>(floats));
  return taken_.back().data();
}

void LoraRowSums::addZeros(float* to, int64_t count) {
  if (count > 0) jobs_->pieces.push_back({nullptr, 0, 0, 1, count, count, to});
}

void LoraRowSums::add(const Matrix& m) {
  const int64_t lines = m.turned ? m.columns : m.rankCount, width = m.turned ? m.rankCount : m.columns;
  if (lines * m.toColumns == 0) return;
  const int64_t chains = (m.count + kItemsOfSums - 1) / kItemsOfSums;
  const bool direct = chains == 1 && width == m.toColumns;
  float* partial = direct ? m.to : take(chains * lines * width);
  const bool copied = copies<Bf16Arithmetic>(m.rows) && copies<Bf16Arithmetic>(m.ranks) && !m.kept.bits;
  std::vector<MatrixSum>& jobs = m.exact ? jobs_->exact : copied ? jobs_->copied : jobs_->matrices;
  for (int64_t c = 0; c < chains; ++c) {
    const int64_t first = c * kItemsOfSums;
    MatrixSum j{};
    j.ranks = linesFrom(m.ranks, first);
    j.rankCount = m.rankCount;
    j.rows = m.rows;
    j.gathered = m.gathered ? m.gathered + first : nullptr;
    j.firstRow = m.gathered ? 0 : first;
    j.count = std::min(kItemsOfSums, m.count - first);
    j.columns = m.columns;
    j.kept = m.kept;
    j.to = partial + c * lines * width;
    j.ldR = m.turned ? 1 : width;
    j.ldN = m.turned ? width : 1;
    j.factor = m.kept.bits ? m.kept.factor : 1.0f;
    for (j.firstRank = 0; j.firstRank < m.rankCount; j.firstRank += kSumRanks) jobs.push_back(j);
  }
  if (!direct) jobs_->pieces.push_back({partial, chains, lines * width, lines, width, m.toColumns, m.to});
}

void LoraRowSums::add(const Columns& sum, float* to) {
  if (sum.columns == 0) return;
  const int64_t chains = (sum.count + kItemsOfSums - 1) / kItemsOfSums;
  float* partial = chains == 1 ? to : take(chains * sum.columns);
  for (int64_t c = 0; c < chains; ++c) {
    const int64_t first = c * kItemsOfSums;
    jobs_->columns.push_back({sum.x, sum.y, sum.xRows, sum.yRows, sum.factors, first,
                              std::min(kItemsOfSums, sum.count - first), sum.columns, partial + c * sum.columns});
  }
  if (chains != 1) jobs_->pieces.push_back({partial, chains, sum.columns, 1, sum.columns, sum.columns, to});
}

void LoraRowSums::addBaseScales(const std::vector<BaseScale>& sums, const Lines& x, const Lines& dY,
                                const RankoneWeight& base, const LoraUse* uses, const int64_t* itemRows) {
  if (base.out == 0) return;
  std::vector<LoraItemTile> tiles;
  std::vector<size_t> firstTiles;
  for (const BaseScale& s : sums) {
    firstTiles.push_back(tiles.size());
    for (int64_t i = 0; i < s.count; i += kRowTile)
      tiles.push_back({s.use, static_cast<int32_t>(std::min<int64_t>(kRowTile, s.count - i)), i});
  }
  if (tiles.empty()) return;
  firstTiles.push_back(tiles.size());
  float* to = take(static_cast<int64_t>(tiles.size()) * base.out);
  const Scratch<LoraItemTile> deviceTiles(stream_, tiles);
  const BaseScaleSums g{x, dY, base, uses, itemRows, deviceTiles.data(), to};
  withArithmetic(arithmetic_, [&](auto math) {
    using Of = BaseScaleTile<decltype(math)>;
    const dim3 grid(static_cast<unsigned>(tiles.size()), blocksOf(base.out, Of::T::kColumns));
    stream_.launch("base scales", sumBaseScales<decltype(math)>, grid, kTileThreads, sizeof(typename Of::Shared), g);
  });
  for (size_t i = 0; i < sums.size(); ++i) {
    const auto count = static_cast<int64_t>(firstTiles[i + 1] - firstTiles[i]);
    jobs_->pieces.push_back(
        {to + static_cast<int64_t>(firstTiles[i]) * base.out, count, base.out, 1, base.out, base.out, sums[i].to});
  }
}

void LoraRowSums::launch() {
  Lists lists;
  const auto matrices = lists.add(jobs_->matrices), copied = lists.add(jobs_->copied), exact = lists.add(jobs_->exact);
  const auto columns = lists.add(jobs_->columns);
  const auto pieces = lists.add(jobs_->pieces);
  lists.send(stream_);
  const auto multiply = [&](const char* name, auto of, auto kernel, const std::vector<MatrixSum>& jobs,
                            const MatrixSum* list) {
    int64_t widest = 0;
    for (const MatrixSum& j : jobs) widest = std::max(widest, j.columns);
    const dim3 grid(static_cast<unsigned>(jobs.size()), blocksOf(widest, kSumColumns));
    stream_.launch(name, kernel, grid, kTileThreads, sizeof(typename decltype(of)::Shared), list);
  };
  const auto inFloats = [&](const char* name, const std::vector<MatrixSum>& jobs, const MatrixSum* list) {
    multiply(name, MatrixSumTile<F32Arithmetic, Way::FETCHED>{}, sumMatrices<F32Arithmetic, Way::FETCHED>, jobs, list);
  };
  if (arithmetic_ == RANKONE_F32) {
    inFloats("dA and dB", jobs_->matrices, matrices.data());
  } else {
    multiply("dA and dB", MatrixSumTile<Bf16Arithmetic, Way::FETCHED>{}, sumMatrices<Bf16Arithmetic, Way::FETCHED>,
             jobs_->matrices, matrices.data());
    multiply("dA and dB", MatrixSumTile<Bf16Arithmetic, Way::COPIED>{}, sumMatrices<Bf16Arithmetic, Way::COPIED>,
             jobs_->copied, copied.data());
  }
  inFloats("dM", jobs_->exact, exact.data());
  int64_t widest = 0, largest = 0;
  for (const ColumnSum& j : jobs_->columns) widest = std::max(widest, j.columns);
  stream_.launch("sums of columns", sumColumns,
                 dim3(static_cast<unsigned>(jobs_->columns.size()), blocksOf(widest, kColumnThreads)), kColumnThreads,
                 0, columns.data());
  for (const PieceSum& j : jobs_->pieces) largest = std::max(largest, j.lines * j.toColumns);
  stream_.launch(
      "sums of pieces", sumPieces,
      dim3(static_cast<unsigned>(jobs_->pieces.size()), std::min<unsigned>(256, blocksOf(largest, 4 * kPieceThreads))),
      kPieceThreads, 0, pieces.data());
}

}  // namespace rankone::cuda

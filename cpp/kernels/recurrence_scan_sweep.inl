// The column blocks of one head's state through the packed passes, and their values and outputs in between.
#include "kernels/recurrence_scan_pack.inl"

namespace rankone {
namespace RANKONE_ISA_NS {

// Two column blocks alternate where both stay in the first cache: a delta pass's new u hangs on its sums, and the other
// block's pass fills that wait.
constexpr int64_t kPairedBlockFloats = 2048;

class ScanBlocks {
 public:
  static size_t scratchFloats(const RecurrenceForward& a, int64_t blocks) {
    const size_t P = a.packTokens * a.n;
    return alignFloats(blocks * a.K * kBlock) + alignFloats(blocks * 2 * kBlock) + alignFloats(blocks * kLanes) +
           2 * alignFloats(P * kBlock) + alignFloats(aheadFloats(a)) +
           (stagesOutput(a) ? alignFloats(a.packTokens * blocks * kBlock) : 0) + 8 * 16;
  }

  // Column blocks [block0, block1).
  ScanBlocks(const RecurrenceForward& a, int64_t sequence, int64_t hv, int64_t block0, int64_t block1, Scratch& scratch)
      : a_(a),
        sequence_(sequence),
        T_(a.length(sequence)),
        start_(a.start(sequence)),
        hv_(hv),
        delta_(a.update == UpdateRule::Delta),
        block0_(block0),
        blocks_(block1 - block0) {
    const int64_t P = a.packTokens * a.n;
    overflow_ = reinterpret_cast<Vec*>(scratch.take(blocks_ * kLanes));
    state_ = scratch.take(blocks_ * a.K * kBlock);
    pendingU_ = scratch.take(blocks_ * 2 * kBlock);
    ahead_ = RowsAhead(scratch.take(aheadFloats(a)));
    vTail_ = scratch.take(P * kBlock);
    oTail_ = scratch.take(P * kBlock);
    if (stagesOutput(a))
      oStage_ = scratch.take(a.packTokens * blocks_ * kBlock);
    else if (a.o)
      o_ = static_cast<float*>(a.o) + (start_ * a.HV + hv) * a.V;
    for (int64_t j = 0; j < blocks_; ++j) {
      overflow_[j] = zero();
      if (a_.initialState)
        loadBlock(a_.initialState + a_.stateOffset(sequence_, hv_), a_.K, a_.V, block0_ + j, block(j));
      else
        std::memset(block(j), 0, a_.K * kBlock * sizeof(float));
    }
    clearPending();
  }

  void sweep(ScanRows& pack, int64_t s0, int count) {
    const int64_t together = delta_ && a_.K * kBlock <= kPairedBlockFloats ? 2 : 1;
    lookAhead(pack, pack.tokenOf(s0 + count));
    for (int64_t j = 0; j < blocks_; j += together)
      sweepBlocks(pack, s0, count, j, j + together < blocks_ ? j + together : blocks_);
    if (oStage_) writeOutputs(pack.tokenOf(s0), pack.tokenOf(count));
  }

  // Pending writes and folded decays into the state itself.
  void settle(ScanRows& pack) {
    const float* unfolding = pack.unfolding();
    for (int64_t j = 0; j < blocks_; ++j)
      settleBlock(block(j), a_.K, pack.pending0(), pack.pending1(), delta_ ? pending(j) : nullptr, unfolding,
                  overflow_[j]);
    clearPending();
    pack.clear();
  }

  void saveStates(int64_t chunk) const {
    const SavedGeometry geometry = savedGeometry(a_.n, a_.K, a_.V);
    const int64_t first = a_.savedOneHead ? 0 : geometry.stateAt(a_, sequence_, hv_);
    float* to = a_.savedStates + first + chunk * geometry.stateFloats;
    std::memcpy(to + block0_ * a_.K * kBlock, state_, blocks_ * a_.K * kBlock * sizeof(float));
  }

  void storeFinalState(int64_t j) const {
    storeBlock(block(j), a_.K, a_.V, block0_ + j, a_.finalState + a_.stateOffset(sequence_, hv_));
  }
  bool overflowed(int64_t j) const { return std::isnan(sum(overflow_[j])); }

 private:
  static int64_t aheadFloats(const RecurrenceForward& a) {
    const int64_t P = a.packTokens * a.n;
    return RowsAhead::listFloats(P + 2 * a.packTokens, a.K * 4) + RowsAhead::listFloats(P + a.packTokens, a.V * 4);
  }
  // Outputs of a half-width type are gathered as float32 first, a pack at a time.
  static bool stagesOutput(const RecurrenceForward& a) { return a.o && a.oDType != DType::F32; }

  float* block(int64_t j) const { return state_ + j * a_.K * kBlock; }
  Vec* pending(int64_t j) { return reinterpret_cast<Vec*>(pendingU_ + j * 2 * kBlock); }
  void clearPending() { std::memset(pendingU_, 0, blocks_ * 2 * kBlock * sizeof(float)); }

  void sweepBlocks(ScanRows& pack, int64_t s0, int count, int64_t j0, int64_t j1) {
    const bool tail = (block0_ + j1) * kBlock > a_.V;
    if (tail) copyTailIn(pack.rows(), s0, count, j1 - 1);
    PassBlock blocks[2];
    for (int64_t j = j0; j < j1; ++j) {
      PassBlock& b = blocks[j - j0];
      pack.describe(b);
      b.S = block(j);
      b.u = pending(j);
      b.overflow = &overflow_[j];
      b.vStride = tail && j == j1 - 1 ? kBlock : pack.rows().vStride();
      b.oStride = oStage_ ? blocks_ * kBlock : tail && j == j1 - 1 ? kBlock * a_.n : a_.HV * a_.V;
      b.residualStride = roundUp(a_.V, kBlock);
      b.residual = nullptr;
      b.aheadLines = ahead_.lines();
    }
    for (const PassSteps& x : pack) {
      const Pass pass = passOf(delta_, x.count, x.reads, x.rescale);
      // The token of the first step that is read.
      const int64_t token = x.reads & 1 ? x.token : pack.tokenOf(x.first + 1);
      for (int64_t j = j0; j < j1; ++j) {
        PassBlock& b = blocks[j - j0];
        const int64_t column = (block0_ + j) * kBlock;
        const bool cut = tail && j == j1 - 1;
        b.v = cut ? vTail_ + x.first * kBlock : x.v + column;
        b.o = (oStage_ ? oStage_ + j * kBlock
               : cut   ? oTail_
                       : o_ + pack.tokenOf(s0) * a_.HV * a_.V + column) +
              token * b.oStride;
        if (delta_ && a_.savedResiduals) b.residual = residual(s0 + x.first, column);
        b.decay = pack.decay() + x.first;
        b.inverse = pack.inverse() + x.first;
        b.beta = pack.beta() + x.first;
        b.written = pack.written() + x.first;
        const bool fetches = at_ + aheadStep_ <= ahead_.count();
        b.ahead = ahead_.pieces() + at_;
        b.aheadPieces = fetches ? aheadPieces_ : 0;
        at_ += fetches ? aheadStep_ : 0;
        pass(x, b);
      }
    }
    if (tail && o_) copyTailOut(pack.tokenOf(s0), pack.tokenOf(count), j1 - 1);
  }

  // The next pack's rows, its first token t1, spread over the passes.
  void lookAhead(ScanRows& pack, int64_t t1) {
    const int64_t tokens = T_ - t1 < a_.packTokens ? T_ - t1 : a_.packTokens;
    ahead_.clear();
    at_ = 0;
    const int64_t column = block0_ * kBlock, end = (block0_ + blocks_) * kBlock, row = a_.HV * a_.V;
    pack.rows().addTo(ahead_, t1, tokens);
    if (o_) ahead_.add(o_ + t1 * row + column, ((end < a_.V ? end : a_.V) - column) * 4, row * 4, tokens);
    const int64_t chunks = ((a_.K < kSumRows ? a_.K : kSumRows) + kChunkRows - 1) / kChunkRows,
                  passes = blocks_ * (pack.end() - pack.begin());
    aheadPieces_ = (ahead_.count() + passes * chunks - 1) / (passes * chunks);
    aheadStep_ = aheadPieces_ * chunks;
  }

  float* residual(int64_t s, int64_t column) const {
    const int64_t step = (a_.savedOneHead ? 0 : (start_ * a_.HV + hv_ * T_) * a_.n) + s;
    return a_.savedResiduals + step * roundUp(a_.V, kBlock) + column;
  }

  // The last block's columns beyond V read as zero and are not written.
  void copyTailIn(const HeadRows& rows, int64_t s0, int count, int64_t j) {
    const int64_t column = (block0_ + j) * kBlock, n = a_.V - column;
    for (int s = 0; s < count; ++s) {
      std::memset(vTail_ + s * kBlock, 0, kBlock * sizeof(float));
      std::memcpy(vTail_ + s * kBlock, rows.v(s0 + s) + column, n * sizeof(float));
    }
  }
  void copyTailOut(int64_t t0, int64_t tokens, int64_t j) const {
    const int64_t column = (block0_ + j) * kBlock, n = a_.V - column;
    for (int64_t t = 0; t < tokens; ++t)
      std::memcpy(o_ + (t0 + t) * a_.HV * a_.V + column, oTail_ + t * a_.n * kBlock, n * sizeof(float));
  }

  void writeOutputs(int64_t t0, int64_t tokens) const {
    const int64_t column = block0_ * kBlock, width = blocks_ * kBlock,
                  n = a_.V - column < width ? a_.V - column : width;
    for (int64_t t = 0; t < tokens; ++t)
      narrow(oStage_ + t * width, n, a_.o, a_.oDType, ((start_ + t0 + t) * a_.HV + hv_) * a_.V + column);
  }

  const RecurrenceForward& a_;
  const int64_t sequence_, T_, start_, hv_;
  const bool delta_;
  const int64_t block0_, blocks_;
  float* o_ = nullptr;        // this head's first row, where outputs are written in place
  float* oStage_ = nullptr;   // else [packTokens][blocks x kBlock]
  float *state_, *pendingU_;  // [blocks][K][kBlock], [blocks][2][kBlock]
  float *vTail_, *oTail_;     // [P][kBlock]
  RowsAhead ahead_;
  int64_t aheadPieces_ = 0, aheadStep_ = 0, at_ = 0;
  Vec* overflow_;  // [blocks] NaN in a lane once something in it was not finite
};

}  // namespace RANKONE_ISA_NS
}  // namespace rankone

// The recurrence one update at a time, in float32: what its forward and its reverse share.
//
// A block takes up to 64 columns of one value head's state. Each of its warps holds 16 columns and all rows in
// registers, so that an update needs shuffles and no barrier; one more warp makes the rows of the tokens ahead ready in
// shared memory: converted, normalised, activated. Columns do not depend on each other, and a column's sums over K have
// one order: how the columns are shared out is free of the results' bits.
#pragma once
#include "recurrence_curves.cuh"

namespace rankone::cuda {

constexpr int kTileColumns = 16;  // of a warp
constexpr int kMostTiles = 4, kBlockColumns = kTileColumns * kMostTiles;
// Warps of a block beside the one that reads ahead, and blocks of a multiprocessor: what its registers have room for.
constexpr int mostTiles(int rowBlocks) { return rowBlocks > 4 ? 3 : kMostTiles; }
constexpr int tokenThreads(int rowBlocks) { return 32 * (mostTiles(rowBlocks) + 1); }
constexpr int tokenBlocks(int rowBlocks) { return rowBlocks > 6 ? 2 : rowBlocks > 2 ? 3 : 4; }
constexpr int traceBlocks(int rowBlocks) { return rowBlocks > 2 ? 2 : 3; }
constexpr int kStageSteps = 8;  // updates that are made ready at a time; whole tokens
constexpr int kStageReady = 1;  // the barrier between the warp that reads ahead and the others

struct TokenArgs {
  int64_t T, H, HV;
  int32_t K, V, n;
  int32_t gate;
  const int64_t* starts;       // [N+1] first tokens of sequences, or null: sequence * T
  const int64_t* firstChunks;  // [N+1], with a trace
  const int32_t* list;         // the sequences to take, or null: all
  int32_t tiles, blocks;       // warps with columns in a block, blocks of a head

  const void *q, *k;      // [B,T,H,K], [B,T*n,H,K]
  int32_t dtype, kDType;  // of q and o, and of k, which may be gates
  const void* columns;    // v [B,T*n,HV,V], or in reverse dO [B,T,HV,V]
  int32_t columnsDType;
  int32_t columnsByToken;
  const void *g, *beta;
  int32_t gDType, betaDType;
  const float *valueScale, *outputScale;  // [B*T*n,HV], [B*T,H], or null
  const float *aLog, *dtBias;
  float lowerBound, scale;
  int32_t betaActivation, keysFromGates, qkL2norm;

  const float* firstState;   // [rows,HV,K,V] where the walk begins, or null: zeros
  float* lastState;          // where it ends; may be the same memory
  const int32_t* stateRows;  // [N] or null
  void* o;                   // [B,T,HV,V] in dtype, or null
  float* traceStates;        // [chunks,HV,K,V] or null
  float* traceRows;          // [B,T*n,HV,V] or null
  int32_t chunkTokens;
};

// The block's share: a value head of a sequence and its columns.
struct TokenHead {
  int64_t sequence, hv, h, start, tokens;
  int32_t column0;

  SIMT_DEV explicit TokenHead(const TokenArgs& a) {
    const int64_t block = static_cast<int64_t>(blockIdx.x), head = block / a.blocks;
    column0 = static_cast<int32_t>(block % a.blocks) * a.tiles * kTileColumns;
    sequence = a.list ? a.list[head / a.HV] : head / a.HV;
    hv = head % a.HV;
    h = hv / (a.HV / a.H);
    start = a.starts ? a.starts[sequence] : sequence * a.T;
    tokens = a.starts ? a.starts[sequence + 1] - start : a.T;
  }
};

// Some tokens' rows as the recurrence uses them.
template <int kBlocks>
struct TokenStage {
  float q[kStageSteps][32 * kBlocks], k[kStageSteps][32 * kBlocks];  // zeros behind K
  // Decays of rows: S <- S * gain, plus S where the row's bit of `keep` is set; but 0 where that of `reset` is.
  float gain[kStageSteps][32 * kBlocks];
  uint32_t keep[kStageSteps][kBlocks], reset[kStageSteps][kBlocks];
  int32_t slow[kStageSteps];                  // all rows are kept, as most are
  float columns[kStageSteps][kBlockColumns];  // in the order of lanes
  float beta[kStageSteps], scale[kStageSteps];
};
template <int kBlocks>
struct TokenShared {
  int32_t V[kMostTiles];  // of a warp
  TokenStage<kBlocks> stages[2];
};

// How a slow decay is applied: e^g rounded to float32 would be off by 9e-5 after 8192 tokens of g = -3e-5.
SIMT_DEV float decayGain(float g, bool& keep, bool& reset) {
  reset = g < kResetBelow;
  keep = fabsf(g) <= 0.5f;
  return reset ? 0.0f : keep ? expm1f(g) : expf(g);
}

// Whether lanes hold neighbouring columns, read and written 16 bytes at a time, or every fourth one.
SIMT_DEV bool neighbouringColumns(int32_t V) { return V % 4 == 0; }

// The warp that makes stages ready. Loads of a step are under way while the step before is worked on.
template <int kBlocks>
class TokenReader {
 public:
  SIMT_DEV TokenReader(const TokenArgs& args, const TokenHead& head) : a_(args), head_(head) {
    lane_ = static_cast<int>(threadIdx.x) % 32;
    if (!a_.aLog) return;
    rate_ = gateRate(a_.aLog[head_.hv]);
    if (!a_.dtBias) return;
    if (a_.gate == RANKONE_GATE_CHANNEL)
      readRow(a_.dtBias, RANKONE_F32, head_.hv * a_.K, bias_);
    else
      bias_[0] = a_.dtBias[head_.hv];
  }

  // Starts loading the first step of the token that fill() is called for next.
  SIMT_DEV void begin(int64_t token) { load(token, 0); }

  // Tokens [first, first + count) into a stage; `following` is the first of the next stage, or negative.
  SIMT_DEV void fill(TokenStage<kBlocks>& stage, int64_t first, int count, int64_t following) {
    SIMT_NOUNROLL
    for (int t = 0; t < count; ++t) {
      SIMT_NOUNROLL
      for (int j = 0; j < a_.n; ++j) {
        const Step step = next_;
        const bool within = j + 1 < a_.n;
        const int64_t token = within ? first + t : t + 1 < count ? first + t + 1 : following;
        if (token >= 0) load(token, within ? j + 1 : 0);
        store(stage, t, j, step);
      }
    }
  }

 private:
  struct Step {
    float q[kBlocks], k[kBlocks], g[kBlocks], columns[kBlockColumns / 32], beta, valueScale, outputScale;
  };

  SIMT_DEV void readRow(const void* from, int32_t dtype, int64_t offset, float (&x)[kBlocks]) {
    if (dtype == RANKONE_F32) {
      const float* row = static_cast<const float*>(from) + offset + lane_;
      SIMT_UNROLL
      for (int b = 0; b < kBlocks; ++b) x[b] = 32 * b + lane_ < a_.K ? row[32 * b] : 0.0f;
    } else {
      const uint16_t* row = static_cast<const uint16_t*>(from) + offset + lane_;
      uint16_t u[kBlocks];
      SIMT_UNROLL
      for (int b = 0; b < kBlocks; ++b) u[b] = 32 * b + lane_ < a_.K ? row[32 * b] : 0;
      SIMT_UNROLL
      for (int b = 0; b < kBlocks; ++b) x[b] = dtype == RANKONE_BF16 ? simt::bf16_to_f32(u[b]) : simt::f16_to_f32(u[b]);
    }
  }

  // Step j of a token of the sequence.
  SIMT_DEV void load(int64_t sequenceToken, int j) {
    const int64_t token = head_.start + sequenceToken, update = token * a_.n + j;
    const bool last = j == a_.n - 1;
    Step& x = next_;
    readRow(a_.k, a_.kDType, (update * a_.H + head_.h) * a_.K, x.k);
    if (last) readRow(a_.q, a_.dtype, (token * a_.H + head_.h) * a_.K, x.q);
    if (j == 0 && a_.gate == RANKONE_GATE_CHANNEL)
      readRow(a_.g, a_.gDType, (token * a_.HV + head_.hv) * a_.K, x.g);
    else if (j == 0 && a_.gate != RANKONE_GATE_NONE)
      x.g[0] = elementAt(a_.g, a_.gDType, a_.gate == RANKONE_GATE_HEAD ? head_.hv : token * a_.HV + head_.hv);
    if (last || !a_.columnsByToken) {
      const int64_t row = ((a_.columnsByToken ? token : update) * a_.HV + head_.hv) * a_.V;
      SIMT_UNROLL
      for (int i = 0; i < kBlockColumns / 32; ++i) {
        const int at = 32 * i + lane_, column = head_.column0 + at;
        x.columns[i] =
            at < a_.tiles * kTileColumns && column < a_.V ? elementAt(a_.columns, a_.columnsDType, row + column) : 0.0f;
      }
    }
    x.beta = a_.beta ? elementAt(a_.beta, a_.betaDType, update * a_.HV + head_.hv) : 1.0f;
    x.valueScale = a_.valueScale ? a_.valueScale[update * a_.HV + head_.hv] : 1.0f;
    x.outputScale = a_.outputScale && last ? a_.outputScale[token * a_.H + head_.h] : 1.0f;
  }

  SIMT_DEV void store(TokenStage<kBlocks>& stage, int t, int j, Step x) {
    const int step = t * a_.n + j;
    const bool last = j == a_.n - 1;
    if (a_.keysFromGates) {
      SIMT_UNROLL
      for (int b = 0; b < kBlocks; ++b) x.k[b] = keyOfGate(x.k[b]);
    }
    storeRow(stage.k[step], x.k);
    if (last) storeRow(stage.q[t], x.q);
    if (j == 0 && a_.gate != RANKONE_GATE_NONE) storeGates(stage, t, x.g);
    if (last || !a_.columnsByToken) storeColumns(stage.columns[a_.columnsByToken ? t : step], x);
    if (lane_ == 0) {
      stage.beta[step] = activateBeta(x.beta, a_.betaActivation);
      if (last) stage.scale[t] = a_.scale * x.outputScale;
    }
  }

  SIMT_DEV void storeRow(float* to, const float (&x)[kBlocks]) {
    const float by = a_.qkL2norm ? inverseNorm(x) : 1.0f;
    SIMT_UNROLL
    for (int b = 0; b < kBlocks; ++b) to[32 * b + lane_] = x[b] * by;
  }

  SIMT_DEV float activated(float g, float bias) const {
    return a_.aLog ? activateGate(g + bias, rate_, a_.lowerBound) : g;
  }

  SIMT_DEV void storeGates(TokenStage<kBlocks>& stage, int t, const float (&g)[kBlocks]) {
    const bool channels = a_.gate == RANKONE_GATE_CHANNEL;
    bool keep = false, reset = false;
    float gain = channels ? 0 : decayGain(activated(g[0], bias_[0]), keep, reset);
    bool slow = true;
    SIMT_UNROLL
    for (int b = 0; b < kBlocks; ++b) {
      if (channels) {
        gain = decayGain(activated(g[b], bias_[b]), keep, reset);
        // Rows behind K are cleared wherever others may be: a NaN in their column must not outlive it in them.
        reset = reset || 32 * b + lane_ >= a_.K;
      }
      slow = slow && (keep || 32 * b + lane_ >= a_.K);
      stage.gain[t][32 * b + lane_] = gain;
      const uint32_t keeps = simt::ballot(keep), resets = simt::ballot(reset);
      if (lane_ == 0) {
        stage.keep[t][b] = keeps;
        stage.reset[t][b] = resets;
      }
    }
    const bool allSlow = simt::ballot(!slow) == 0;
    if (lane_ == 0) stage.slow[t] = allSlow;
  }

  SIMT_DEV void storeColumns(float* to, const Step& x) {
    const bool neighbours = neighbouringColumns(a_.V);
    SIMT_UNROLL
    for (int i = 0; i < kBlockColumns / 32; ++i) {
      const int at = 32 * i + lane_, inTile = at % kTileColumns;
      const int place = neighbours ? at : at - inTile + inTile % 4 * 4 + inTile / 4;
      if (at < a_.tiles * kTileColumns) to[place] = a_.valueScale ? x.columns[i] * x.valueScale : x.columns[i];
    }
  }

  const TokenArgs& a_;
  const TokenHead& head_;
  int lane_;
  float rate_ = 0, bias_[kBlocks] = {};
  Step next_;
};

// A warp's 16 columns of a state [K,V]. Lane 4 j + c holds rows 32 b + 4 j + r and four columns of them.
template <int kBlocks>
class StateTile {
 public:
  SIMT_DEV StateTile(const TokenArgs& a, const TokenHead& head) : V_(a.V) {
    const int lane = static_cast<int>(threadIdx.x) % 32, tile = static_cast<int>(threadIdx.x) / 32;
    group_ = lane / 4;
    place_ = tile * kTileColumns + lane % 4 * 4;
    neighbours_ = neighbouringColumns(a.V);
    column_ = head.column0 + tile * kTileColumns + lane % 4 * (neighbours_ ? 4 : 1);
    rows_ = column_ < V_ ? a.K : 0;
  }

  SIMT_DEV void clear() {
    SIMT_UNROLL
    for (int i = 0; i < 4 * kBlocks; ++i) {
      SIMT_UNROLL
      for (int e = 0; e < 4; ++e) s_[i][e] = 0;
    }
  }

  SIMT_DEV void load(const float* state) {
    clear();
    if (neighbours_)
      overRows([&](int i, int row) { simt::ld4(s_[i], state + row * V_ + column_); });
    else
      overRows([&](int i, int row) { loadFourths(state + row * V_, s_[i]); });
  }

  // `V` is V, from where the compiler cannot tell: it would keep the addresses of all rows from load() on.
  SIMT_DEV void store(float* state, int32_t V) const {
    overRows([&](int i, int row) { writeColumns(state + row * V, s_[i]); });
  }

  // The lane's columns of a row [V].
  SIMT_DEV void writeColumns(float* to, const float (&x)[4]) const {
    if (!neighbours_) return storeFourths(to, x);
    if (rows_ > 0) simt::st4(to + column_, x);
  }
  SIMT_DEV void writeColumns(void* to, int32_t dtype, int64_t row, const float (&x)[4]) const {
    if (dtype == RANKONE_F32) return writeColumns(static_cast<float*>(to) + row * V_, x);
    uint16_t* at = static_cast<uint16_t*>(to) + row * V_ + column_;
    if (neighbours_) {
      const bool bf16 = dtype == RANKONE_BF16;
      if (rows_ > 0)
        simt::st2(reinterpret_cast<uint32_t*>(at), bf16 ? simt::pack_bf16(x[0], x[1]) : simt::pack_f16(x[0], x[1]),
                  bf16 ? simt::pack_bf16(x[2], x[3]) : simt::pack_f16(x[2], x[3]));
    } else {
      SIMT_UNROLL
      for (int e = 0; e < 4; ++e)
        if (column_ + 4 * e < V_) setElement(at, dtype, 4 * e, x[e]);
    }
  }
  // Lanes that write what all eight of a column's lanes hold.
  SIMT_DEV bool writes() const { return group_ == 0; }

  // The lane's four values of a row of a stage's columns.
  SIMT_DEV void stagedColumns(const float* row, float (&x)[4]) const { simt::ld4(x, row + place_); }

  // D(g) of a token of a stage.
  SIMT_DEV void decay(const TokenStage<kBlocks>& stage, int t) {
    if (stage.slow[t]) return decaySlowly(stage.gain[t]);
    SIMT_UNROLL
    for (int b = 0; b < kBlocks; ++b) {
      float gain[4];
      simt::ld4(gain, stage.gain[t] + 32 * b + 4 * group_);
      const uint32_t keep = stage.keep[t][b] >> (4 * group_), reset = stage.reset[t][b] >> (4 * group_);
      SIMT_UNROLL
      for (int r = 0; r < 4; ++r) {
        SIMT_UNROLL
        for (int e = 0; e < 4; ++e) {
          float& s = s_[4 * b + r][e];
          if (reset >> r & 1) s = 0;
          s = fmaf(s, gain[r], keep >> r & 1 ? s : 0.0f);
        }
      }
    }
  }

  // S^T x for the lane's columns.
  SIMT_DEV void product(const float* x, float (&sums)[4]) const {
    SIMT_UNROLL
    for (int e = 0; e < 4; ++e) sums[e] = 0;
    SIMT_UNROLL
    for (int b = 0; b < kBlocks; ++b) {
      float by[4];
      simt::ld4(by, x + 32 * b + 4 * group_);
      SIMT_UNROLL
      for (int r = 0; r < 4; ++r) {
        SIMT_UNROLL
        for (int e = 0; e < 4; ++e) sums[e] = fmaf(by[r], s_[4 * b + r][e], sums[e]);
      }
    }
    SIMT_UNROLL
    for (int mask = 4; mask < 32; mask *= 2) {
      SIMT_UNROLL
      for (int e = 0; e < 4; ++e) sums[e] += simt::shfl_xor(sums[e], mask);
    }
  }

  // S += x u^T
  SIMT_DEV void add(const float* x, const float (&u)[4]) {
    SIMT_UNROLL
    for (int b = 0; b < kBlocks; ++b) {
      float by[4];
      simt::ld4(by, x + 32 * b + 4 * group_);
      SIMT_UNROLL
      for (int r = 0; r < 4; ++r) {
        SIMT_UNROLL
        for (int e = 0; e < 4; ++e) s_[4 * b + r][e] = fmaf(by[r], u[e], s_[4 * b + r][e]);
      }
    }
  }

 private:
  SIMT_DEV void decaySlowly(const float* gains) {
    SIMT_UNROLL
    for (int b = 0; b < kBlocks; ++b) {
      float gain[4];
      simt::ld4(gain, gains + 32 * b + 4 * group_);
      SIMT_UNROLL
      for (int r = 0; r < 4; ++r) {
        SIMT_UNROLL
        for (int e = 0; e < 4; ++e) s_[4 * b + r][e] = fmaf(s_[4 * b + r][e], gain[r], s_[4 * b + r][e]);
      }
    }
  }
  // f(index in s_, row) for the lane's rows.
  template <class F>
  SIMT_DEV void overRows(F&& f) const {
    SIMT_UNROLL
    for (int i = 0; i < 4 * kBlocks; ++i) {
      const int row = i / 4 * 32 + 4 * group_ + i % 4;
      if (row < rows_) f(i, row);
    }
  }
  SIMT_DEV void loadFourths(const float* from, float (&x)[4]) const {
    SIMT_UNROLL
    for (int e = 0; e < 4; ++e)
      if (column_ + 4 * e < V_) x[e] = from[column_ + 4 * e];
  }
  SIMT_DEV void storeFourths(float* to, const float (&x)[4]) const {
    SIMT_UNROLL
    for (int e = 0; e < 4; ++e)
      if (column_ + 4 * e < V_) to[column_ + 4 * e] = x[e];
  }

  int32_t V_, rows_;  // rows that the lane reads and writes: K, but none where its columns lie behind V
  int group_, place_, column_;
  bool neighbours_;
  float s_[4 * kBlocks][4];
};

}  // namespace rankone::cuda

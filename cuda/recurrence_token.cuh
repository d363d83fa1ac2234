// The recurrence one update at a time, in float32: what its forward and its reverse share.
//
// A block takes up to 64 columns of one value head's state. Each of its warps holds 16 columns and all rows in
// registers, so that an update needs shuffles and no barrier; one more warp makes the rows of the tokens ahead ready in
// shared memory: converted, normalised, activated. Columns do not depend on each other, and a column's sums over K have
// one order: how the columns are shared out is free of the results' bits.
#pragma once
#include "recurrence_curves.cuh"

namespace rankone::cuda {

constexpr int kTileColumns = 16, kMostTiles = 4;  // of a warp; warps of a block beside the one that reads ahead
constexpr int kBlockColumns = kTileColumns * kMostTiles;
constexpr int kTokenThreads = 32 * (kMostTiles + 1);
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

  const void *q, *k;  // [B,T,H,K], [B,T*n,H,K]
  int32_t dtype;
  const void* columns;  // v [B,T*n,HV,V], or in reverse dO [B,T,HV,V]
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
  // Decays of rows (of all rows: [0] alone). S <- S * gain, plus S where the bit of `keep` is set; 0 where that of
  // `reset` is.
  float gain[kStageSteps][32 * kBlocks];
  uint32_t keep[kStageSteps][kBlocks], reset[kStageSteps][kBlocks];
  int32_t resets[kStageSteps];
  float columns[kStageSteps][kBlockColumns];  // in the order of lanes
  float beta[kStageSteps], scale[kStageSteps];
};
template <int kBlocks>
struct TokenShared {
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
        if (j + 1 < a_.n)
          load(first + t, j + 1);
        else if (t + 1 < count)
          load(first + t + 1, 0);
        else if (following >= 0)
          load(following, 0);
        store(stage, t, j, step);
      }
    }
  }

 private:
  struct Step {
    float q[kBlocks], k[kBlocks], g[kBlocks], columns[kBlockColumns / 32], beta, valueScale, outputScale;
  };

  SIMT_DEV void readRow(const void* from, int32_t dtype, int64_t offset, float (&x)[kBlocks]) {
    SIMT_UNROLL
    for (int b = 0; b < kBlocks; ++b) {
      const int at = 32 * b + lane_;
      x[b] = at < a_.K ? elementAt(from, dtype, offset + at) : 0.0f;
    }
  }

  // Step j of a token of the sequence.
  SIMT_DEV void load(int64_t sequenceToken, int j) {
    const int64_t token = head_.start + sequenceToken, update = token * a_.n + j;
    const bool last = j == a_.n - 1;
    Step& x = next_;
    readRow(a_.k, a_.dtype, (update * a_.H + head_.h) * a_.K, x.k);
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
    if (j == 0 && a_.gate == RANKONE_GATE_CHANNEL)
      storeChannels(stage, t, x.g);
    else if (j == 0 && a_.gate != RANKONE_GATE_NONE)
      storeGate(stage, t, x.g[0]);
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

  SIMT_DEV void storeGate(TokenStage<kBlocks>& stage, int t, float g) {
    bool keep, reset;
    const float gain = decayGain(activated(g, bias_[0]), keep, reset);
    if (lane_ > 0) return;
    stage.gain[t][0] = gain;
    stage.keep[t][0] = keep;
    stage.resets[t] = reset;
  }

  SIMT_DEV void storeChannels(TokenStage<kBlocks>& stage, int t, const float (&g)[kBlocks]) {
    uint32_t any = 0;
    SIMT_UNROLL
    for (int b = 0; b < kBlocks; ++b) {
      const bool inside = 32 * b + lane_ < a_.K;
      bool keep, reset;
      const float gain = decayGain(activated(g[b], bias_[b]), keep, reset);
      stage.gain[t][32 * b + lane_] = inside ? gain : 0.0f;
      const uint32_t keeps = simt::ballot(inside && keep);
      any |= simt::ballot(inside && reset);
      // Rows behind K go with the first reset: a column that a NaN was written to has it there too.
      const uint32_t resets = simt::ballot(!inside || reset);
      if (lane_ == 0) {
        stage.keep[t][b] = keeps;
        stage.reset[t][b] = resets;
      }
    }
    if (lane_ == 0) stage.resets[t] = any != 0;
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
  SIMT_DEV StateTile(const TokenArgs& a, const TokenHead& head) : K_(a.K), V_(a.V) {
    const int lane = static_cast<int>(threadIdx.x) % 32, tile = static_cast<int>(threadIdx.x) / 32;
    group_ = lane / 4;
    place_ = tile * kTileColumns + lane % 4 * 4;
    neighbours_ = neighbouringColumns(a.V);
    column_ = head.column0 + tile * kTileColumns + lane % 4 * (neighbours_ ? 4 : 1);
  }

  SIMT_DEV void clear() {
    SIMT_UNROLL
    for (int i = 0; i < 4 * kBlocks; ++i) {
      SIMT_UNROLL
      for (int e = 0; e < 4; ++e) s_[i][e] = 0;
    }
  }

  SIMT_DEV void load(const float* state) {
    SIMT_UNROLL
    for (int i = 0; i < 4 * kBlocks; ++i) {
      const int row = rowOf(i);
      SIMT_UNROLL
      for (int e = 0; e < 4; ++e) s_[i][e] = 0;
      if (row < K_) readColumns(state + row * V_, s_[i]);
    }
  }

  SIMT_DEV void store(float* state) const {
    SIMT_UNROLL
    for (int i = 0; i < 4 * kBlocks; ++i) {
      const int row = rowOf(i);
      if (row < K_) writeColumns(state + row * V_, s_[i]);
    }
  }

  // The lane's columns of a row [V]; those behind V are left alone.
  SIMT_DEV void readColumns(const float* from, float (&x)[4]) const {
    if (neighbours_) {
      if (column_ < V_) simt::ld4(x, from + column_);
    } else {
      SIMT_UNROLL
      for (int e = 0; e < 4; ++e)
        if (column_ + 4 * e < V_) x[e] = from[column_ + 4 * e];
    }
  }
  SIMT_DEV void writeColumns(float* to, const float (&x)[4]) const {
    if (neighbours_) {
      if (column_ < V_) simt::st4(to + column_, x);
    } else {
      SIMT_UNROLL
      for (int e = 0; e < 4; ++e)
        if (column_ + 4 * e < V_) to[column_ + 4 * e] = x[e];
    }
  }
  SIMT_DEV void writeColumns(void* to, int32_t dtype, int64_t row, const float (&x)[4]) const {
    if (dtype == RANKONE_F32) return writeColumns(static_cast<float*>(to) + row * V_, x);
    uint16_t* at = static_cast<uint16_t*>(to) + row * V_ + column_;
    if (neighbours_) {
      const bool bf16 = dtype == RANKONE_BF16;
      if (column_ < V_)
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

  SIMT_DEV void decayAll(float gain, bool keep) {
    SIMT_UNROLL
    for (int i = 0; i < 4 * kBlocks; ++i) {
      SIMT_UNROLL
      for (int e = 0; e < 4; ++e) s_[i][e] = keep ? fmaf(s_[i][e], gain, s_[i][e]) : s_[i][e] * gain;
    }
  }
  SIMT_DEV void decayRows(const float* gain, const uint32_t* keep) {
    SIMT_UNROLL
    for (int b = 0; b < kBlocks; ++b) {
      float by[4];
      simt::ld4(by, gain + 32 * b + 4 * group_);
      const uint32_t kept = keep[b] >> (4 * group_);
      SIMT_UNROLL
      for (int r = 0; r < 4; ++r) {
        const bool keeps = kept >> r & 1;
        SIMT_UNROLL
        for (int e = 0; e < 4; ++e) {
          float& s = s_[4 * b + r][e];
          s = fmaf(s, by[r], keeps ? s : 0.0f);
        }
      }
    }
  }
  SIMT_DEV void resetRows(const uint32_t* reset) {
    SIMT_UNROLL
    for (int i = 0; i < 4 * kBlocks; ++i) {
      if (reset[i / 4] >> (4 * group_ + i % 4) & 1) {
        SIMT_UNROLL
        for (int e = 0; e < 4; ++e) s_[i][e] = 0;
      }
    }
  }

  // D(g) of a token of a stage.
  SIMT_DEV void decay(const TokenStage<kBlocks>& stage, int t, int32_t gate) {
    if (gate == RANKONE_GATE_NONE) return;
    if (gate == RANKONE_GATE_CHANNEL) {
      if (stage.resets[t]) resetRows(stage.reset[t]);
      decayRows(stage.gain[t], stage.keep[t]);
    } else if (stage.resets[t]) {
      clear();
    } else if (stage.keep[t][0]) {
      decayAll(stage.gain[t][0], true);
    } else {
      decayAll(stage.gain[t][0], false);
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
  SIMT_DEV int rowOf(int i) const { return i / 4 * 32 + 4 * group_ + i % 4; }

  int32_t K_, V_;
  int group_, place_, column_;
  bool neighbours_;
  float s_[4 * kBlocks][4];
};

}  // namespace rankone::cuda

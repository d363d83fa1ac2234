// Softmax attention inside a window and linear attention before it, and their gradients.
#include <cmath>
#include <cstring>

#include "kernels/convert.h"
#include "kernels/window_linear.h"
#include "ops/gradients.h"
#include "ops/kv_cache.h"
#include "ops/sequences.h"
#include "ops/shapes.h"

namespace rankone {
namespace {

enum Input { kQ, kK, kV, kPhiQ, kPhiK, kWindowFactors, kInitialState, kInitialZ, kCuSeqlens };
enum ForwardInput { kStateIndices = kCuSeqlens + 1 };
enum BackwardInput { kDO = kCuSeqlens + 1, kDFinalState, kDFinalZ };
enum Option { kWindow, kTerraced, kAffine, kScale };
enum ForwardOption { kOutputFinalState = kScale + 1 };
enum BackwardOption { kGradDtype = kScale + 1 };
enum Output { kO, kFinalState, kFinalZ };
enum Gradient { kDq, kDk, kDv, kDPhiQ, kDPhiK, kDWindowFactors, kDInitialState, kDInitialZ };

constexpr int64_t kMostFeatures = 4096, kDefaultWindow = 64;

struct Problem {
  WindowLinearArgs args{};
  int64_t B = 0, T = 0, N = 0;
  std::vector<WindowLinearSequence> sequences;
};

long long text(int64_t n) { return static_cast<long long>(n); }

void expectHeads(const Call& call, int input, int64_t heads, int64_t divisor, int64_t multiple, const char* what) {
  if (heads < 1 || divisor % heads != 0 || heads % multiple != 0)
    fail(ErrorKind::Range, "%s: expected %s, got shape %s", call.spec->inputs[input].name, what,
         call.input(input).shapeText().c_str());
}

void bindSizes(const Call& call, Problem& p) {
  const Tensor& q = call.input(kQ);
  WindowLinearArgs& a = p.args;
  expectRank(call, kQ, 4, "[B,T,H,K]");
  expectRank(call, kK, 4, "[B,T,HKV,K]");
  expectRank(call, kV, 4, "[B,T,HKV,V]");
  expectRank(call, kPhiQ, 4, "[B,T,H,F]");
  expectRank(call, kPhiK, 4, "[B,T,HF,F]");
  p.B = q.shape[0];
  p.T = q.shape[1];
  a.H = q.shape[2];
  a.K = q.shape[3];
  a.HKV = call.input(kK).shape[2];
  a.V = call.input(kV).shape[3];
  a.F = call.input(kPhiQ).shape[3];
  a.HF = call.input(kPhiK).shape[2];
  expectShape(call, kK, {p.B, p.T, a.HKV, a.K}, "[B,T,HKV,K]");
  expectShape(call, kV, {p.B, p.T, a.HKV, a.V}, "[B,T,HKV,V]");
  expectShape(call, kPhiQ, {p.B, p.T, a.H, a.F}, "[B,T,H,F]");
  expectShape(call, kPhiK, {p.B, p.T, a.HF, a.F}, "[B,T,HF,F]");
  for (const auto& [input, most] :
       {std::pair{int{kQ}, kMaxHeadDim}, {int{kV}, kMaxHeadDim}, {int{kPhiQ}, kMostFeatures}})
    if (const int64_t width = call.input(input).shape[3]; width < 1 || width > most)
      fail(ErrorKind::Range, "%s: expected a head size from 1 to %lld, got shape %s", call.spec->inputs[input].name,
           text(most), call.input(input).shapeText().c_str());
  if (a.H < 1) fail(ErrorKind::Range, "q: expected at least one head, got shape %s", q.shapeText().c_str());
  expectHeads(call, kK, a.HKV, a.H, 1, "HKV to be a divisor of H");
  expectHeads(call, kPhiK, a.HF, a.H, a.HKV, "HF to be a divisor of H and a multiple of HKV");
  for (int input : {kK, kV}) expectDType(call, input, kQ);
  expectDType(call, kPhiQ, kQ, true);
  expectDType(call, kPhiK, kPhiQ);
  if (call.input(kWindowFactors).present()) expectShape(call, kWindowFactors, {a.H}, "[H]");
  expectCountable("q", {p.B, p.T, a.H, a.F, a.V});
}

void bindOptions(const Call& call, Problem& p) {
  WindowLinearArgs& a = p.args;
  expectFinite(call, kScale);
  expectInteger(call, kWindow, 1, kMostWindow);
  a.scale = static_cast<float>(call.number(kScale, 1 / std::sqrt(static_cast<double>(a.K))));
  a.window = call.integer(kWindow, kDefaultWindow);
  a.terraced = call.flag(kTerraced);
  a.affine = call.flag(kAffine);
  if (a.affine && !call.input(kWindowFactors).present())
    fail(ErrorKind::Type, "affine: expected windowFactors beside it, got none");
}

// A state and its sum of keys come as a pair.
void expectState(const Call& call, const Problem& p, int state, int z, const char* prefix) {
  const WindowLinearArgs& a = p.args;
  if (call.input(state).present() != call.input(z).present())
    fail(ErrorKind::Type, "%s: expected a tensor beside %s, got none",
         call.spec->inputs[call.input(state).present() ? z : state].name,
         call.spec->inputs[call.input(state).present() ? state : z].name);
  if (!call.input(state).present()) return;
  expectShape(call, state, {p.N, a.HF, a.F, a.V}, prefix[0] == 'N' ? "[N,HF,F,V]" : "[B,HF,F,V]");
  expectShape(call, z, {p.N, a.HF, a.F}, prefix[0] == 'N' ? "[N,HF,F]" : "[B,HF,F]");
}

std::shared_ptr<Problem> bind(const Call& call) {
  expectInputs(call);
  auto p = std::make_shared<Problem>();
  bindSizes(call, *p);
  bindOptions(call, *p);
  const Sequences s = sequencesOf(call, kCuSeqlens, p->B, p->T, true);
  p->N = s.N;
  const WindowLinearArgs& a = p->args;
  expectCountable("q", {p->N, a.HF, a.F, a.V});
  expectState(call, *p, kInitialState, kInitialZ, s.name());
  for (int64_t i = 0; i < s.N; ++i) p->sequences.push_back({s.start(i), s.length(i), i});
  return p;
}

void expectStateMemory(const Call& call, const Problem& p) {
  const StateBuffer& state = *call.state;
  const WindowLinearArgs& a = p.args;
  const bool pool = call.input(kStateIndices).present();
  if (call.input(kInitialState).present())
    fail(ErrorKind::Type, "initialState: expected none beside state, got a tensor");
  if (call.flag(kOutputFinalState))
    fail(ErrorKind::Type, "outputFinalState: a call with state advances that state instead");
  if ((!pool && state.batch != p.N) || state.valueHeads != a.HF || state.keyDim != a.F || state.valueDim != a.V ||
      state.keyHeads != a.HF)
    fail(ErrorKind::Range,
         "state: expected batch, valueHeads, keyDim, valueDim, keyHeads = %s%lld, %lld, %lld, %lld, %lld, got %lld, "
         "%lld, %lld, %lld, %lld",
         pool ? "slots, e.g. " : "", text(pool ? state.batch : p.N), text(a.HF), text(a.F), text(a.V), text(a.HF),
         text(state.batch), text(state.valueHeads), text(state.keyDim), text(state.valueDim), text(state.keyHeads));
}

void expectCache(const Call& call, const Problem& p) {
  const KvCache& cache = *call.cache;
  const WindowLinearArgs& a = p.args;
  const int64_t width = a.K + a.HF / a.HKV * a.F;
  if (cache.slots != call.state->batch || cache.kvHeads != a.HKV || cache.keyDim != width || cache.valueDim != a.V)
    fail(ErrorKind::Range,
         "cache: expected batch = %lld, kvHeads = %lld, keyDim = K + HF / HKV * F = %lld, valueDim = %lld, got %lld, "
         "%lld, %lld, %lld",
         text(call.state->batch), text(a.HKV), text(width), text(a.V), text(cache.slots), text(cache.kvHeads),
         text(cache.keyDim), text(cache.valueDim));
  if (cache.dtype != DType::F32 && (cache.dtype != call.input(kQ).dtype || cache.dtype != call.input(kPhiQ).dtype))
    fail(ErrorKind::Type, "cache: expected dtype f32%s, got %s",
         call.input(kQ).dtype == call.input(kPhiQ).dtype ? " or that of q" : "", dtypeName(cache.dtype));
  if (cache.window && cache.window < a.reach())
    fail(ErrorKind::Range, "cache: expected one that keeps the last %lld tokens, got window %lld", text(a.reach()),
         text(cache.window));
}

void bindMemory(const Call& call, Problem& p) {
  const Tensor& indices = call.input(kStateIndices);
  if (!call.state != !call.cache)
    fail(ErrorKind::Type, "%s: expected one beside %s, got none", call.state ? "cache" : "state",
         call.state ? "state" : "cache");
  if (!call.state) {
    if (indices.present()) fail(ErrorKind::Type, "stateIndices: expected a state beside them, got none");
    return;
  }
  expectStateMemory(call, p);
  expectCache(call, p);
  if (indices.present()) expectStateRows(call, kStateIndices, p.N, call.state->batch);
  const KvCache& cache = *call.cache;
  const IndexView slots(indices);
  for (size_t i = 0; i < p.sequences.size(); ++i) {
    WindowLinearSequence& s = p.sequences[i];
    s.slot = s.state = indices.present() ? slots[static_cast<int64_t>(i)] : static_cast<int64_t>(i);
    s.seen = cache.length(s.slot);
    if (!cache.window && s.seen + s.T > cache.capacity)
      fail(ErrorKind::Range, "cache: expected room for %lld tokens more in slot %lld, which has %lld of %lld",
           text(s.T), text(s.slot), text(s.seen), text(cache.capacity));
    if (cache.folded(s.slot) != p.args.begin(s.seen))
      fail(ErrorKind::Range,
           "cache: expected slot %lld of %lld tokens to have %lld of them in the state, as before this window, got "
           "%lld: it "
           "was truncated, or filled with another window",
           text(s.slot), text(s.seen), text(p.args.begin(s.seen)), text(cache.folded(s.slot)));
  }
  p.args.cache = cache.view();
  p.args.cacheDType = cache.dtype;
}

// The tensors, once their memory is known.
template <class Args>
void bindTensors(const Call& call, Args& args) {
  const Problem& p = *static_cast<const Problem*>(call.planned.get());
  static_cast<WindowLinearArgs&>(args) = p.args;
  args.q = call.input(kQ).data;
  args.k = call.input(kK).data;
  args.v = call.input(kV).data;
  args.phiQ = call.input(kPhiQ).data;
  args.phiK = call.input(kPhiK).data;
  args.windowFactors = call.input(kWindowFactors).f32();
  args.initialState = call.input(kInitialState).f32();
  args.initialZ = call.input(kInitialZ).f32();
  args.dtype = call.input(kQ).dtype;
  args.phiDType = call.input(kPhiQ).dtype;
  args.sequences = &p.sequences;
  args.cancel = call.cancel;
}

void plan(Call& call) {
  const auto p = bind(call);
  bindMemory(call, *p);
  const WindowLinearArgs& a = p->args;
  setOutput(call, kO, {p->B, p->T, a.H, a.V}, call.input(kQ).dtype);
  if (call.flag(kOutputFinalState)) {
    setOutput(call, kFinalState, {p->N, a.HF, a.F, a.V});
    setOutput(call, kFinalZ, {p->N, a.HF, a.F});
  }
  call.planned = p;
}

// The last tokens of a sequence, at most as many as the cache keeps, as its rows.
void append(const Call& call, const WindowLinearArgs& a, const WindowLinearSequence& s) {
  KvCache& cache = *call.cache;
  const int64_t width = cache.keyDim, group = a.HF / a.HKV, block = std::min<int64_t>(64, s.T);
  const size_t size = dtypeSize(cache.dtype);
  AlignedBuffer keys(static_cast<size_t>(block * a.HKV * width) * size),
      values(static_cast<size_t>(block * a.HKV * a.V) * size);
  const auto copy = [&](const Tensor& from, int64_t at, int64_t n, AlignedBuffer& to, int64_t offset) {
    char* out = static_cast<char*>(to.data()) + static_cast<size_t>(offset) * size;
    if (cache.dtype == from.dtype)
      std::memcpy(out, static_cast<const char*>(from.data) + static_cast<size_t>(at) * size,
                  static_cast<size_t>(n) * size);
    else
      widenAll(from.data, from.dtype, at, n, reinterpret_cast<float*>(out), nullptr);
  };
  for (int64_t t = 0; t < s.T; t += block) {
    const int64_t n = std::min(block, s.T - t);
    for (int64_t i = 0; i < n; ++i)
      for (int64_t h = 0; h < a.HKV; ++h) {
        const int64_t row = s.row + t + i, at = i * a.HKV + h;
        copy(call.input(kK), (row * a.HKV + h) * a.K, a.K, keys, at * width);
        copy(call.input(kPhiK), (row * a.HF + h * group) * a.F, group * a.F, keys, at * width + a.K);
        copy(call.input(kV), (row * a.HKV + h) * a.V, a.V, values, at * a.V);
      }
    cache.append(s.slot, n, keys.data(), values.data());
  }
}

void run(const Call& call) {
  WindowLinearForward a{};
  bindTensors(call, a);
  a.o = call.outputs[kO].data;
  a.oDType = call.outputs[kO].dtype;
  if (call.state) {
    a.initialState = a.finalState = call.state->data();
    a.initialZ = a.finalZ = call.state->z();
  } else {
    a.finalState = call.outputs[kFinalState].f32();
    a.finalZ = call.outputs[kFinalZ].f32();
    a.foldsAll = true;
  }
  windowLinearAttention(a);
  if (call.state)
    for (const WindowLinearSequence& s : *a.sequences) {
      append(call, a, s);
      call.cache->setFolded(s.slot, a.begin(s.seen + s.T));
    }
}

void planBackward(Call& call) {
  const auto p = bind(call);
  const WindowLinearArgs& a = p->args;
  expectDType(call, kDO, kQ);
  expectShape(call, kDO, {p->B, p->T, a.H, a.V}, "[B,T,H,V]");
  expectState(call, *p, kDFinalState, kDFinalZ, call.input(kCuSeqlens).present() ? "N" : "B");
  for (int i = kQ; i <= kInitialZ; ++i)
    if (call.input(i).present()) setOutputLike(call, i, call.input(i), gradientDType(call, kGradDtype, call.input(i)));
  call.planned = p;
}

void runBackward(const Call& call) {
  WindowLinearBackward a{};
  bindTensors(call, a);
  GradientBuffers gradients(call);
  a.dO = call.input(kDO).data;
  a.dFinalState = call.input(kDFinalState).f32();
  a.dFinalZ = call.input(kDFinalZ).f32();
  float** to[] = {&a.dq, &a.dk, &a.dv, &a.dPhiQ, &a.dPhiK, &a.dWindowFactors, &a.dInitialState, &a.dInitialZ};
  for (int i = kDq; i <= kDInitialZ; ++i) *to[i] = gradients.f32(i);
  windowLinearAttentionBackward(a);
  gradients.finish();
}

#define RANKONE_WINDOW_LINEAR_INPUTS                                                                                  \
  {"q", true, kFloats}, {"k", true, kFloats}, {"v", true, kFloats}, {"phiQ", true, kFloats}, {"phiK", true, kFloats}, \
      {"windowFactors", false}, {"initialState", false}, {"initialZ", false}, {                                       \
    "cuSeqlens", false, kIndices, Access::Read, ""                                                                    \
  }
#define RANKONE_WINDOW_LINEAR_OPTIONS                                                              \
  {"window", OptionKind::Integer}, {"terraced", OptionKind::Flag}, {"affine", OptionKind::Flag}, { \
    "scale", OptionKind::Number                                                                    \
  }
constexpr InputSpec kInputs[] = {RANKONE_WINDOW_LINEAR_INPUTS, {"stateIndices", false, kI32, Access::Read, ""}};
constexpr InputSpec kBackwardInputs[] = {
    RANKONE_WINDOW_LINEAR_INPUTS, {"dO", true, kFloats}, {"dFinalState", false}, {"dFinalZ", false}};
constexpr OptionSpec kOptions[] = {RANKONE_WINDOW_LINEAR_OPTIONS, {"outputFinalState", OptionKind::Flag}};
constexpr OptionSpec kBackwardOptions[] = {RANKONE_WINDOW_LINEAR_OPTIONS,
                                           {"gradDtype", OptionKind::Choice, "f32|input"}};
constexpr OutputSpec kOutputs[] = {{"o"}, {"finalState"}, {"finalZ"}};
constexpr OutputSpec kGradients[] = {
    {"dq"}, {"dk"}, {"dv"}, {"dPhiQ"}, {"dPhiK"}, {"dWindowFactors"}, {"dInitialState"}, {"dInitialZ"}};

}  // namespace

extern const OpSpec windowLinearAttentionOp, windowLinearAttentionBackwardOp;
const OpSpec windowLinearAttentionOp{.name = "windowLinearAttention",
                                     .inputs = kInputs,
                                     .options = kOptions,
                                     .outputs = kOutputs,
                                     .plan = plan,
                                     .run = run,
                                     .takesState = true,
                                     .takesCache = true};
const OpSpec windowLinearAttentionBackwardOp{.name = "windowLinearAttentionBackward",
                                             .inputs = kBackwardInputs,
                                             .options = kBackwardOptions,
                                             .outputs = kGradients,
                                             .plan = planBackward,
                                             .run = runBackward};

}  // namespace rankone

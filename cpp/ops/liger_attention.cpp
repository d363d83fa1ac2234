// Liger: gated linear attention whose features and gates come from the queries and keys of softmax attention, mixed
// with that attention inside a window. Both are other ops' calls. Lan et al. 2025.
#include <algorithm>

#include "core/workspace.h"
#include "kernels/liger.h"
#include "ops/gradients.h"
#include "ops/kv_cache.h"
#include "ops/recurrence.h"
#include "ops/shapes.h"

namespace rankone {

extern const OpSpec attentionOp, attentionBackwardOp;

namespace {

enum Input { kQ, kK, kV, kWindowQ, kWindowK, kInitialState, kCuSeqlens };
enum ForwardInput { kStateIndices = kCuSeqlens + 1 };
enum BackwardInput { kDO = kCuSeqlens + 1, kDFinalState };
enum Option { kWindow, kGateNormalizer, kMix, kMixHigh, kScale };
enum BackwardOption { kGradDtype = kScale + 1 };
enum Output { kO, kFinalState };
enum Gradient { kDq, kDk, kDv, kDWindowQ, kDWindowK, kDInitialState };

// Inputs and options of attention, by its spec.
namespace attention_inputs {
enum { kQ, kK, kV, kCuSeqlens = 5, kStateIndices = 7, kDO = 7 };
enum { kWindow = 1, kWindowRight };
}  // namespace attention_inputs

constexpr int64_t kDefaultWindow = 64;

struct Sizes {
  int64_t B, T, H, HKV, K, V;
  int64_t rows() const { return B * T; }
  int64_t keyFloats() const { return static_cast<int64_t>(alignFloats(static_cast<size_t>(rows() * H * K))); }
  int64_t valueFloats() const { return static_cast<int64_t>(alignFloats(static_cast<size_t>(rows() * H * V))); }
};

Sizes sizesOf(const Call& call) {
  const Tensor &q = call.input(kQ), &k = call.input(kK), &v = call.input(kV);
  return {q.shape[0], q.shape[1], q.shape[2], k.shape[2], q.shape[3], v.shape[3]};
}

Sizes bind(const Call& call) {
  expectInputs(call);
  expectRank(call, kQ, 4, "[B,T,H,K]");
  expectRank(call, kK, 4, "[B,T,HKV,K]");
  expectRank(call, kV, 4, "[B,T,HKV,V]");
  const Sizes s = sizesOf(call);
  expectShape(call, kK, {s.B, s.T, s.HKV, s.K}, "[B,T,HKV,K]");
  expectShape(call, kV, {s.B, s.T, s.HKV, s.V}, "[B,T,HKV,V]");
  for (int input : {kK, kV}) expectDType(call, input, kQ);
  expectDType(call, kWindowQ, kQ);
  expectDType(call, kWindowK, kQ);
  expectSameShape(call, kWindowQ, kQ);
  expectSameShape(call, kWindowK, kK);
  if (call.input(kWindowQ).present() != call.input(kWindowK).present())
    fail(ErrorKind::Type, "%s: expected a tensor beside %s, got none",
         call.input(kWindowQ).present() ? "windowK" : "windowQ",
         call.input(kWindowQ).present() ? "windowQ" : "windowK");
  if (s.HKV < 1 || s.H % s.HKV != 0)
    fail(ErrorKind::Range, "k: expected HKV to be a divisor of H = %lld, got shape %s", static_cast<long long>(s.H),
         call.input(kK).shapeText().c_str());
  expectCountable("q", {s.B, s.T, s.H, s.K});
  expectCountable("q, v", {s.B, s.T, s.H, s.V});
  expectInteger(call, kWindow, 1, int64_t{1} << 40);
  expectFinite(call, kMix);
  expectFinite(call, kMixHigh);
  expectFinite(call, kScale);
  expectFinite(call, kGateNormalizer);
  if (!(call.number(kGateNormalizer, 16) > 0))
    fail(ErrorKind::Range, "gateNormalizer: expected a number above 0, got %g", call.number(kGateNormalizer, 16));
  return s;
}

Tensor floats(std::initializer_list<int64_t> shape, float* data) {
  Tensor t;
  t.setShape(shape);
  t.data = data;
  return t;
}

// What the linear part works on: [rows,H,K] three times, then [rows,H,V].
struct Features {
  float *phiQ, *phiK, *g, *values;
  Features(const Sizes& s, float* memory)
      : phiQ(memory), phiK(memory + s.keyFloats()), g(phiK + s.keyFloats()), values(g + s.keyFloats()) {}
  static int64_t size(const Sizes& s) { return 3 * s.keyFloats() + s.valueFloats(); }
};

Call linearCall(const OpSpec& spec, const Call& call, const Sizes& s, const Features& f) {
  using namespace recurrence_inputs;
  Call inner = innerCall(spec, call);
  inner.inputs[recurrence_inputs::kQ] = floats({s.B, s.T, s.H, s.K}, f.phiQ);
  inner.inputs[recurrence_inputs::kK] = floats({s.B, s.T, s.H, s.K}, f.phiK);
  inner.inputs[recurrence_inputs::kV] = floats({s.B, s.T, s.H, s.V}, f.values);
  inner.inputs[kG] = floats({s.B, s.T, s.H, s.K}, f.g);
  inner.inputs[recurrence_inputs::kInitialState] = call.input(::rankone::kInitialState);
  inner.inputs[recurrence_inputs::kCuSeqlens] = call.input(::rankone::kCuSeqlens);
  inner.options[recurrence_options::kScale] = {true, 1.0};
  return inner;
}
Call linearForward(const Call& call, const Sizes& s, const Features& f) {
  Call inner = linearCall(recurrenceOp, call, s, f);
  inner.inputs[recurrence_inputs::kStateIndices] = call.input(kStateIndices);
  return inner;
}

Call windowCall(const OpSpec& spec, const Call& call) {
  Call inner = innerCall(spec, call);
  inner.state = nullptr;
  const bool turned = call.input(kWindowQ).present();
  inner.inputs[attention_inputs::kQ] = call.input(turned ? kWindowQ : kQ);
  inner.inputs[attention_inputs::kK] = call.input(turned ? kWindowK : kK);
  inner.inputs[attention_inputs::kV] = call.input(kV);
  inner.inputs[attention_inputs::kCuSeqlens] = call.input(kCuSeqlens);
  inner.options[attention_inputs::kWindow] = {true, static_cast<double>(call.integer(kWindow, kDefaultWindow) - 1)};
  inner.options[attention_inputs::kWindowRight] = {true, 0.0};
  return inner;
}
Call windowForward(const Call& call) {
  Call inner = windowCall(attentionOp, call);
  inner.inputs[attention_inputs::kStateIndices] = call.input(kStateIndices);
  inner.cache = call.cache;
  return inner;
}

LigerArgs argsOf(const Call& call, const Sizes& s, const Features& f) {
  return {FloatView(call.input(kQ)),
          FloatView(call.input(kK)),
          FloatView(call.input(kV)),
          s.rows(),
          s.H,
          s.HKV,
          s.K,
          s.V,
          static_cast<float>(call.number(kGateNormalizer, 16)),
          f.phiQ,
          f.phiK,
          f.g,
          f.values,
          call.cancel};
}

float linearShare(const Call& call) { return static_cast<float>(call.number(kMix, 0.5)); }
float windowShare(const Call& call) { return static_cast<float>(call.number(kMixHigh, 0.5)); }

void plan(Call& call) {
  const Sizes s = bind(call);
  if (!call.state != !call.cache)
    fail(ErrorKind::Type, "%s: expected one beside %s, got none", call.state ? "cache" : "state",
         call.state ? "state" : "cache");
  Call linear = linearForward(call, s, Features(s, nullptr));
  recurrenceOp.plan(linear);
  Call window = windowForward(call);
  attentionOp.plan(window);
  call.planned = window.planned;
  setOutput(call, kO, {s.B, s.T, s.H, s.V}, call.input(kQ).dtype);
  call.outputs[kFinalState] = linear.outputs[recurrence_outputs::kFinalState];
}

void run(const Call& call) {
  const Sizes s = sizesOf(call);
  AlignedBuffer memory(static_cast<size_t>(Features::size(s) + 2 * s.valueFloats()) * sizeof(float));
  const Features f(s, memory.f32());
  float *first = memory.f32() + Features::size(s), *second = first + s.valueFloats();
  ligerPrepare(argsOf(call, s, f));
  Call linear = linearForward(call, s, f);
  linear.outputs[recurrence_outputs::kO] = floats({s.B, s.T, s.H, s.V}, first);
  linear.outputs[recurrence_outputs::kFinalState] = call.outputs[kFinalState];
  recurrenceOp.run(linear);
  Call window = windowForward(call);
  window.planned = call.planned;
  window.outputs[0] = floats({s.B, s.T, s.H, s.V}, second);
  attentionOp.run(window);
  ligerMix({first, second, linearShare(call), windowShare(call), call.outputs[kO].data, call.outputs[kO].dtype,
            s.rows() * s.H * s.V, call.cancel});
}

Call linearBackward(const Call& call, const Sizes& s, const Features& f, float* dO) {
  Call inner = linearCall(recurrenceBackwardOp, call, s, f);
  inner.inputs[recurrence_inputs::kDO] = floats({s.B, s.T, s.H, s.V}, dO);
  inner.inputs[recurrence_inputs::kDFinalState] = call.input(kDFinalState);
  return inner;
}

// All of it in float32, whatever the inputs are: what it takes is [rows,...] in `memory`.
Call windowBackward(const Call& call, const Sizes& s, float* q, float* k, float* v, float* dO) {
  Call inner = windowCall(attentionBackwardOp, call);
  inner.inputs[attention_inputs::kQ] = floats({s.B, s.T, s.H, s.K}, q);
  inner.inputs[attention_inputs::kK] = floats({s.B, s.T, s.HKV, s.K}, k);
  inner.inputs[attention_inputs::kV] = floats({s.B, s.T, s.HKV, s.V}, v);
  inner.inputs[attention_inputs::kDO] = floats({s.B, s.T, s.H, s.V}, dO);
  return inner;
}

void planBackward(Call& call) {
  const Sizes s = bind(call);
  expectDType(call, kDO, kQ);
  expectShape(call, kDO, {s.B, s.T, s.H, s.V}, "[B,T,H,V]");
  Call linear = linearBackward(call, s, Features(s, nullptr), nullptr);
  recurrenceBackwardOp.plan(linear);
  Call window = windowBackward(call, s, nullptr, nullptr, nullptr, nullptr);
  attentionBackwardOp.plan(window);
  call.planned = window.planned;
  for (int i : {kQ, kK, kV, kWindowQ, kWindowK})
    if (call.input(i).present()) setOutputLike(call, i, call.input(i), gradientDType(call, kGradDtype, call.input(i)));
  call.outputs[kDInitialState] = linear.outputs[recurrence_gradients::kDInitialState];
}

// The tensor as float32: itself, or its copy in `memory`.
float* widened(const Tensor& x, float* memory, const CancelFlag* cancel) {
  if (x.dtype == DType::F32) return x.f32();
  ligerScale({FloatView(x), 1, memory, x.size(), cancel});
  return memory;
}

void runBackward(const Call& call) {
  using namespace recurrence_gradients;
  const Sizes s = sizesOf(call);
  const int64_t keys = s.keyFloats(), values = s.valueFloats();
  // Features; their gradients; dO twice; q, k and v of the window where they are no float32.
  AlignedBuffer memory(static_cast<size_t>(2 * Features::size(s) + 2 * keys + 3 * values) * sizeof(float));
  const Features f(s, memory.f32()), d(s, memory.f32() + Features::size(s));
  float *firstDO = memory.f32() + 2 * Features::size(s), *secondDO = firstDO + values;
  float *q = secondDO + values, *k = q + keys, *v = k + keys;
  const Tensor& dO = call.input(kDO);
  ligerPrepare(argsOf(call, s, f));
  ligerScale({FloatView(dO), linearShare(call), firstDO, dO.size(), call.cancel});
  ligerScale({FloatView(dO), windowShare(call), secondDO, dO.size(), call.cancel});

  Call linear = linearBackward(call, s, f, firstDO);
  const auto like = [&](int64_t width, float* data) { return floats({s.B, s.T, s.H, width}, data); };
  linear.outputs[recurrence_gradients::kDQ] = like(s.K, d.phiQ);
  linear.outputs[recurrence_gradients::kDK] = like(s.K, d.phiK);
  linear.outputs[recurrence_gradients::kDV] = like(s.V, d.values);
  linear.outputs[recurrence_gradients::kDG] = like(s.K, d.g);
  linear.outputs[recurrence_gradients::kDInitialState] = call.outputs[kDInitialState];
  recurrenceBackwardOp.run(linear);

  GradientBuffers gradients(call);
  const bool turned = call.input(kWindowQ).present();
  float *dq = gradients.f32(kDq), *dk = gradients.f32(kDk), *dv = gradients.f32(kDv);
  Call window = windowBackward(call, s, widened(call.input(turned ? kWindowQ : kQ), q, call.cancel),
                               widened(call.input(turned ? kWindowK : kK), k, call.cancel),
                               widened(call.input(kV), v, call.cancel), secondDO);
  window.planned = call.planned;
  window.outputs[0] = floats({s.B, s.T, s.H, s.K}, turned ? gradients.f32(kDWindowQ) : dq);
  window.outputs[1] = floats({s.B, s.T, s.HKV, s.K}, turned ? gradients.f32(kDWindowK) : dk);
  window.outputs[2] = floats({s.B, s.T, s.HKV, s.V}, dv);
  attentionBackwardOp.run(window);
  if (turned) {
    std::fill_n(dq, call.input(kQ).size(), 0.0f);
    std::fill_n(dk, call.input(kK).size(), 0.0f);
  }
  ligerGradients({argsOf(call, s, f), d.phiQ, d.phiK, d.g, d.values, dq, dk, dv});
  gradients.finish();
}

#define RANKONE_LIGER_INPUTS                                                                     \
  {"q", true, kFloats}, {"k", true, kFloats}, {"v", true, kFloats}, {"windowQ", false, kFloats}, \
      {"windowK", false, kFloats}, {"initialState", false}, {                                    \
    "cuSeqlens", false, kIndices, Access::Read, ""                                               \
  }
#define RANKONE_LIGER_OPTIONS                                                                         \
  {"window", OptionKind::Integer}, {"gateNormalizer", OptionKind::Number}, {"mix", OptionKind::Pair}, \
      {"", OptionKind::PairHigh}, {                                                                   \
    "scale", OptionKind::Number                                                                       \
  }
constexpr InputSpec kInputs[] = {RANKONE_LIGER_INPUTS, {"stateIndices", false, kI32, Access::Read, ""}};
constexpr InputSpec kBackwardInputs[] = {RANKONE_LIGER_INPUTS, {"dO", true, kFloats}, {"dFinalState", false}};
constexpr OptionSpec kOptions[] = {RANKONE_LIGER_OPTIONS, {"outputFinalState", OptionKind::Flag}};
constexpr OptionSpec kBackwardOptions[] = {RANKONE_LIGER_OPTIONS, {"gradDtype", OptionKind::Choice, "f32|input"}};
constexpr OutputSpec kOutputs[] = {{"o"}, {"finalState"}};
constexpr OutputSpec kGradients[] = {{"dq"}, {"dk"}, {"dv"}, {"dWindowQ"}, {"dWindowK"}, {"dInitialState"}};

}  // namespace

extern const OpSpec ligerAttentionOp, ligerAttentionBackwardOp;
const OpSpec ligerAttentionOp{.name = "ligerAttention",
                              .inputs = kInputs,
                              .options = kOptions,
                              .outputs = kOutputs,
                              .plan = plan,
                              .run = run,
                              .takesState = true,
                              .takesCache = true};
const OpSpec ligerAttentionBackwardOp{.name = "ligerAttentionBackward",
                                      .inputs = kBackwardInputs,
                                      .options = kBackwardOptions,
                                      .outputs = kGradients,
                                      .plan = planBackward,
                                      .run = runBackward};

}  // namespace rankone

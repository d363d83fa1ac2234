#include "samples.h"

#include <cmath>
#include <stdexcept>

#include "grid.h"
#include "ops/presets.h"

namespace rankone::test {
namespace {

using Arguments = std::map<std::string, Array>;

const Values kStarts{0, 7, 7, 19};

GridProblem gridSample(const Preset* preset, const SampleForm& form) {
  Sizes s{2, 19, 1, 2, 9, 5, 1, Gate::Channel, true};
  if (preset) {
    s.delta = preset->update == UpdateRule::Delta;
    s.n = preset->householder ? 2 : 1;
    const bool given = preset->fixedGate == FixedGate::No;
    s.gate = !given || preset->gate == GateKind::None ? Gate::None
             : preset->gate == GateKind::Token        ? Gate::Token
                                                      : Gate::Channel;
  }
  if (form.fused) {
    s.fused.qkL2norm = true;
    s.fused.gate = s.fused.dtBias = s.gate >= Gate::Token;
    s.fused.betaMost = s.delta ? 2 : 0;
    s.fused.normalize = preset && preset->gate == GateKind::None && !s.delta;
  }
  return drawProblem(s, Numbers::Mild, true, 41, form.dtype);
}

Invocation presetSample(const Preset* preset, const std::string& function, const SampleForm& form) {
  const GridProblem p = gridSample(preset, form);
  Invocation call = function.ends_with("Backward") ? backwardCall(p, function) : forwardCall(p, function);
  if (preset && preset->fixedGate == FixedGate::Lightning) call.set("layer", 1).set("layers", 3);
  return call;
}

// Every argument that any of the layer parts, of the adapters' ops and of the recurrences with names of their own
// takes.
Arguments argumentsOf(const std::string& function) {
  Random r(42);
  const auto starts = [&](const char* name) { return function.starts_with(name); };
  if (starts("mamba2"))
    return {{"x", r.normals({2, 19, 2, 5})},
            {"dt", r.normals({2, 19, 2})},
            {"A", r.normals({2})},
            {"B", r.normals({2, 19, 1, 9})},
            {"C", r.normals({2, 19, 1, 9})},
            {"D", r.normals({2})},
            {"dtBias", r.normals({2})},
            {"initialState", r.normals({2, 2, 9, 5})},
            {"dY", r.normals({2, 19, 2, 5})},
            {"dFinalState", r.normals({2, 2, 9, 5})}};
  if (starts("hgrn2"))
    return {{"q", r.normals({2, 19, 2, 9})},
            {"v", r.normals({2, 19, 2, 5})},
            {"g", r.fill({2, 19, 2, 9}, [&] { return -r.uniform(); })},
            {"initialState", r.normals({2, 2, 9, 5})},
            {"dO", r.normals({2, 19, 2, 5})},
            {"dFinalState", r.normals({2, 2, 9, 5})}};
  if (starts("hgrn"))
    return {{"x", r.normals({2, 19, 9})},
            {"g", r.fill({2, 19, 9}, [&] { return -r.uniform(); })},
            {"initialState", r.normals({2, 9})},
            {"dO", r.normals({2, 19, 9})},
            {"dFinalState", r.normals({2, 9})}};
  if (starts("tttLinear"))
    return {{"q", r.normals({2, 19, 2, 9})},  {"k", r.normals({2, 19, 2, 9})},
            {"v", r.normals({2, 19, 2, 9})},  {"eta", r.fill({2, 19, 2}, [&] { return r.uniform() / 20; })},
            {"lnWeight", r.normals({2, 9})},  {"lnBias", r.normals({2, 9})},
            {"W", r.normals({2, 9, 9})},      {"b", r.normals({2, 9})},
            {"dO", r.normals({2, 19, 2, 9})}, {"dFinalW", r.normals({2, 2, 9, 9})},
            {"dFinalB", r.normals({2, 2, 9})}};
  if (starts("s4d"))
    return {{"x", r.normals({2, 19, 9})},
            {"logDt", r.fill({9}, [&] { return -3 * r.uniform(); })},
            {"logAReal", r.fill({9, 4}, [&] { return -r.uniform(); })},
            {"AImag", r.normals({9, 4})},
            {"C", r.normals({9, 4, 2})},
            {"D", r.normals({9})},
            {"initialState", r.normals({2, 9, 4, 2})},
            {"dY", r.normals({2, 19, 9})},
            {"dFinalState", r.normals({2, 9, 4, 2})}};
  if (starts("segment"))
    return {{"q", r.normals({2, 19, 1, 9})},
            {"k", r.normals({2, 19, 1, 9})},
            {"v", r.normals({2, 19, 2, 5})},
            {"g", r.fill({2, 19, 2, 9}, [&] { return -r.uniform(); })},
            {"beta", r.fill({2, 19, 2}, [&] { return r.uniform() / 9; })},
            {"aLog", r.normals({2})},
            {"dtBias", r.normals({2, 9})},
            {"dO", r.normals({2, 19, 2, 5})},
            {"dTransition", r.normals({2, 2, 9, 9})},
            {"dState", r.normals({2, 2, 9, 5})}};
  if (starts("composeStates"))
    return {{"transitions", r.fill({3, 1, 2, 9, 9}, [&] { return r.uniform() / 9; })},
            {"states", r.normals({3, 1, 2, 9, 5})},
            {"initialState", r.normals({1, 2, 9, 5})},
            {"initialStates", r.normals({3, 1, 2, 9, 5})},
            {"dInitialStates", r.normals({3, 1, 2, 9, 5})},
            {"dFinalState", r.normals({1, 2, 9, 5})}};
  if (starts("dplr") || starts("rwkv"))
    return {{"q", r.normals({2, 19, 2, 9})},
            {"r", r.normals({2, 19, 2, 9})},
            {"k", r.normals({2, 19, 2, 9})},
            {"v", r.normals({2, 19, 2, 5})},
            {"g", r.fill({2, 19, 2, 9}, [&] { return -r.uniform(); })},
            {"w", r.normals({2, 19, 2, 9})},
            {"a", r.fill({2, 19, 2, 9}, [&] { return r.uniform() / 9; })},
            {"b", r.fill({2, 19, 2, 9}, [&] { return r.uniform() / 9; })},
            {"kappa", r.normals({2, 19, 2, 9})},
            {"u", r.normals({2, 9})},
            {"initialState", r.normals({2, 2, 9, 5})},
            {"dO", r.normals({2, 19, 2, 5})},
            {"dFinalState", r.normals({2, 2, 9, 5})}};
  if (starts("matmul"))
    return {{"a", r.normals({2, 5, 9})},
            {"b", r.normals({2, 9, 19})},
            {"bias", r.normals({19})},
            {"dY", r.normals({2, 5, 19})}};
  if (starts("embedding"))
    return {{"ids", r.indices({2, 5}, 9)}, {"weight", r.normals({9, 19})}, {"dY", r.normals({2, 5, 19})}};
  if (starts("attention"))
    return {{"q", r.normals({2, 19, 2, 9})}, {"k", r.normals({2, 19, 1, 9})},    {"v", r.normals({2, 19, 1, 5})},
            {"sinks", r.normals({2})},       {"gate", r.normals({2, 19, 2, 5})}, {"dO", r.normals({2, 19, 2, 5})},
            {"dLse", r.normals({2, 19, 2})}, {"o", r.normals({2, 19, 2, 5})},    {"lse", r.normals({2, 19, 2})}};
  if (starts("ligerAttention"))
    return {{"q", r.normals({2, 19, 2, 9})},       {"k", r.normals({2, 19, 1, 9})},
            {"v", r.normals({2, 19, 1, 5})},       {"windowQ", r.normals({2, 19, 2, 9})},
            {"windowK", r.normals({2, 19, 1, 9})}, {"initialState", r.normals({2, 2, 9, 5})},
            {"dO", r.normals({2, 19, 2, 5})},      {"dFinalState", r.normals({2, 2, 9, 5})}};
  if (starts("momRoute")) return {{"logits", r.normals({2, 19, 5})}, {"dWeights", r.normals({2, 19, 2})}};
  if (starts("momGather"))
    return {{"x", r.normals({2, 19, 3, 7})},
            {"order", r.indices({76}, 76)},
            {"dY", r.normals({1, 76, 3, 7})},
            {"slots", r.indices({2, 19, 2}, 76)}};
  if (starts("momCombine"))
    return {{"o", r.normals({1, 76, 3, 7})},
            {"weights", r.normals({2, 19, 2})},
            {"slots", r.indices({2, 19, 2}, 76)},
            {"shared", r.normals({2, 19, 3, 7})},
            {"dY", r.normals({2, 19, 3, 7})}};
  if (starts("windowLinearAttention"))
    return {{"q", r.normals({2, 19, 2, 9})},
            {"k", r.normals({2, 19, 1, 9})},
            {"v", r.normals({2, 19, 1, 5})},
            {"phiQ", r.fill({2, 19, 2, 7}, [&] { return r.uniform(); })},
            {"phiK", r.fill({2, 19, 2, 7}, [&] { return r.uniform(); })},
            {"windowFactors", r.normals({2})},
            {"initialState", r.normals({2, 2, 7, 5})},
            {"initialZ", r.fill({2, 2, 7}, [&] { return r.uniform(); })},
            {"dO", r.normals({2, 19, 2, 5})},
            {"dFinalState", r.normals({2, 2, 7, 5})},
            {"dFinalZ", r.normals({2, 2, 7})}};
  if (starts("localLinearAttention"))
    return {{"q", r.normals({2, 19, 2, 9})},
            {"k", r.normals({2, 19, 1, 9})},
            {"v", r.normals({2, 19, 1, 5})},
            {"lambda", r.fill({2, 19, 2}, [&] { return 0.5 + r.uniform(); })},
            {"dO", r.normals({2, 19, 2, 5})}};
  if (starts("shortConv"))
    return {{"x", r.normals({2, 19, 9})},  {"weight", r.normals({9, 4})},
            {"bias", r.normals({9})},      {"initialState", r.normals({2, 9, 3})},
            {"dY", r.normals({2, 19, 9})}, {"dFinalState", r.normals({2, 9, 3})}};
  if (starts("rmsNorm"))
    return {{"x", r.normals({5, 19})},
            {"gate", r.normals({5, 19})},
            {"weight", r.normals({19})},
            {"dY", r.normals({5, 19})}};
  if (starts("l2norm")) return {{"x", r.normals({5, 19})}, {"dY", r.normals({5, 19})}};
  if (starts("bidirectionalLinearAttention"))
    return {{"q", r.normals({2, 19, 4, 9})},        {"k", r.normals({2, 19, 2, 9})},
            {"v", r.normals({2, 19, 2, 5})},        {"alpha", r.fill({2, 19, 2}, [&] { return r.uniform(); })},
            {"modulate", r.normals({2, 19, 4, 5})}, {"dO", r.normals({2, 19, 4, 5})}};
  if (starts("featureMap"))
    return {{"x", r.normals({2, 19, 2, 9})},
            {"weight", r.normals({2, 9, 5})},
            {"bias", r.normals({2, 5})},
            {"dY", r.normals({2, 19, 2, 10})}};
  if (starts("rope"))
    return {{"x", r.normals({2, 19, 2, 10})},
            {"dY", r.normals({2, 19, 2, 10})},
            {"q", r.normals({2, 19, 4, 10})},
            {"k", r.normals({2, 19, 1, 10})},
            {"inverseFrequencies", r.normals({5})}};
  if (starts("swiglu")) return {{"gate", r.normals({5, 19})}, {"up", r.normals({5, 19})}, {"dY", r.normals({5, 19})}};
  if (starts("crossEntropy"))
    return {{"logits", r.normals({5, 19})}, {"targets", r.indices({5}, 19)}, {"dLoss", r.normals({})}};
  if (starts("adamW"))
    return {{"param", r.normals({5, 19})},
            {"grad", r.normals({5, 19})},
            {"m", r.normals({5, 19})},
            {"v", r.fill({5, 19}, [&] { return r.uniform(); })}};
  if (starts("doraNorms"))
    return {{"weight", r.normals({9, 19})},
            {"a", r.normals({2, 19})},
            {"b", r.normals({9, 4})},
            {"mid", r.normals({4, 2})}};
  if (starts("scatterAdd") || starts("spmm") || starts("sddmm"))
    return {{"w", r.normals({9, 19})},        {"x", r.normals({2, 5, 19})}, {"b", r.normals({2, 5, 19})},
            {"values", r.normals({38})},      {"rows", r.indices({38}, 9)}, {"columns", r.indices({38}, 19)},
            {"addend", r.normals({2, 5, 9})}, {"a", r.normals({2, 5, 9})},  {"dY", r.normals({2, 5, 9})}};
  if (starts("kroneckerLinear"))
    return {{"x", r.normals({2, 5, 38})},
            {"a", r.normals({4, 9, 2})},
            {"b", r.normals({4, 5, 19})},
            {"addend", r.normals({2, 5, 45})},
            {"dY", r.normals({2, 5, 45})}};
  if (starts("basisCombination"))
    return {{"coefficients", r.normals({2, 5})}, {"bases", r.normals({5, 4, 19})}, {"dSum", r.normals({4, 19})}};
  if (starts("randLora"))
    return {{"a", r.normals({2, 19})},
            {"b", r.normals({5, 9, 2})},
            {"lambda", r.normals({5, 2})},
            {"gamma", r.normals({5, 19})},
            {"dDelta", r.normals({9, 19})}};
  if (starts("rowSketch"))
    return {{"x", r.normals({2, 5, 19})}, {"dY", r.normals({2, 5, 9})}, {"sketch", r.normals({4, 19})}};
  throw std::logic_error("test/native/samples.cpp has no arguments for " + function);
}

std::shared_ptr<AdapterBank> sampleBank(DType dtype) {
  auto bank = std::make_shared<AdapterBank>(9, 19);
  Random r(44);
  for (const int64_t rank : {3, 1, 40})
    Invocation("AdapterBank.load")
        .in("a", r.normals({rank, 9}).to(dtype))
        .in("b", r.normals({19, rank}))
        .in("rankBias", r.normals({rank}))
        .set("act", static_cast<double>(rank % 4))
        .bank(bank)
        .run();
  Invocation("AdapterBank.load")
      .in("a", r.indices({2}, 9))
      .in("b", r.indices({3}, 19))
      .in("mid", r.normals({3, 2}))
      .bank(bank)
      .run();
  return bank;
}

// Functions that work on packed weights and on adapters. `packed` and `fused` choose other formats and routings.
Invocation loraSample(const std::string& function, const SampleForm& form) {
  Random r(45);
  Invocation call(function);
  const std::string format = form.packed ? form.fused ? "q4" : "nf4" : form.fused ? "int8" : "f32";
  if (function == "packWeight") return call.in("weight", r.normals({19, 9}).to(form.dtype)).choose("format", format);
  if (function == "packQuantised") {
    const bool bytes = !form.packed;
    call.choose("format", bytes ? "int8" : form.fused ? "nf4" : "q4").set("out", 19).set("in", 9);
    call.in("codes", r.indices({bytes ? 171 : 86}, 100).to(bytes ? DType::I8 : DType::U8));
    if (bytes || !form.fused) return call.in("scales", r.normals({19}));
    call.set("absmax.offset", 0.5).set("absmax.blockSize", 2);
    return call.in("absmax.codes", r.indices({3}, 256).to(DType::U8)).in("absmax.absmax", r.normals({2}));
  }
  const auto bank = sampleBank(form.dtype);
  call.bank(bank);
  if (function.starts_with("AdapterBank")) {
    if (function == "AdapterBank.replace") call.set("id", 2);
    call.in("a", form.packed ? r.indices({5}, 9) : r.normals({5, 9}).to(form.dtype));
    call.in("b", r.normals({19, 5})).in("baseScale", r.normals({19})).in("outBias", r.normals({19}));
    return call.in("mid", r.normals(form.fused ? Shape{5} : Shape{5, 5})).set("rank", 4);
  }
  call.base(Invocation("packWeight").in("weight", r.normals({19, 9})).choose("format", format).run().packed);
  if (function == "mergeAdapter" || function == "unmergeAdapter") return call.set("id", 3);
  call.in("x", r.normals({5, 9}).to(form.dtype)).in("bias", r.normals({19}));
  if (form.packed) {
    call.choose("kind", "topK").set("k", 2).in("ids", Array({10}, {0, 1, -1, 2, 3, 3, 1, 0, 2, 1}, DType::I32));
    call.in("gates", r.normals({5, 2}));
  } else {
    call.choose("kind", "segments").in("ids", Array({3}, {1, 2, 0}, DType::I32));
    call.in("indptr", Array({4}, {0, 2, 2, 5}, DType::I64));
  }
  if (form.fused) call.set("dropout.p", 0.25).set("dropout.seed", 7).set("skip.p", 0.5).set("skip.seed", 1);
  if (function == "loraLinearBackward") call.in("dY", r.normals({5, 19}).to(form.dtype));
  return call;
}

bool takes(const Invocation& call, std::string_view name) {
  for (const InputSpec& input : call.spec().inputs)
    if (input.name == name) return true;
  return false;
}

// Of three dimensions, none of them the batch's.
bool isParameter(const Invocation& call, std::string_view name) {
  const std::string_view function = call.spec().name;
  return (function.starts_with("s4d") && name == "C") || (function.starts_with("tttLinear") && name == "W") ||
         (function.starts_with("bidirectionalLinearAttention") && name.ends_with("Weight"));
}

bool isState(std::string_view name) {
  return name == "initialState" || name == "initialZ" || name == "dTransition" || name == "dState" ||
         name.starts_with("dFinal");
}

// Only the first row of a batch stays, cut into sequences with as many states.
Invocation packed(Invocation call) {
  if (!takes(call, "cuSeqlens")) return call;
  for (const InputSpec& input : call.spec().inputs) {
    const std::string_view name = input.name;
    const Array a = call.argument(input.name);
    if (!a.present() || isParameter(call, name)) continue;
    if (isState(name)) {
      Shape shape = a.shape();
      shape[0] = 3;
      call.in(input.name, Random(43).normals(shape));
    } else if (a.shape().size() >= 3) {
      call.in(input.name, rowsOf(a, 0, 1));
    }
  }
  return call.in("cuSeqlens", Array({4}, kStarts, DType::I64));
}

Invocation ofDType(Invocation call, DType dtype) {
  for (const InputSpec& input : call.spec().inputs)
    if (input.dtypes == kFloats) call.in(input.name, call.argument(input.name).to(dtype));
  return call;
}

// Hedgehog, focused and second-order features.
void featureSample(Invocation& call, const SampleForm& form) {
  if (!form.fused && !form.packed) return void(call.choose("kind", "hedgehog"));
  Random r(46);
  call.in("weight", Array()).in("bias", Array()).choose("kind", form.fused ? "focused" : "taylor2");
  if (form.fused) call.in("scale", r.normals({9})).set("power", 4);
  if (takes(call, "dY")) call.in("dY", r.normals({2, 19, 2, form.fused ? 9 : 55}));
}

// A map without order; the fused form has projections and the rank augmentation.
void bidirectionalSample(Invocation& call, const SampleForm& form) {
  call.choose("featureMap", form.fused ? "hedgehog" : "elu1");
  if (!form.fused) return;
  Random r(47);
  call.in("alpha", Array()).set("rankAugmented", 1);
  call.in("qWeight", r.normals({4, 9, 6})).in("kWeight", r.normals({2, 9, 6}));
}

Invocation plainSample(const std::string& function, const SampleForm& form) {
  for (const Preset& p : presets())
    if (function == p.name || function == std::string(p.name) + "Backward") return presetSample(&p, function, form);
  if (function == "recurrence" || function == "recurrenceBackward") return presetSample(nullptr, function, form);
  Invocation call(function);
  Arguments arguments = argumentsOf(function);
  for (const InputSpec& input : call.spec().inputs) call.in(input.name, arguments[input.name]);
  if (function == "embeddingBackward") call.set("numEmbeddings", 9);
  if (function == "matmulBackward") call.set("withBias", 1);
  if (function.starts_with("attention")) {
    if (form.fused) call.setPair("window", 5, 2).set("sinkTokens", 2).set("softcap", 4);
    if (form.fused) call.set("causal", form.packed ? 1 : 0);
    if (function == "attention") call.set("outputLse", 1);
  }
  if (function.starts_with("featureMap")) featureSample(call, form);
  if (function.starts_with("bidirectionalLinearAttention")) bidirectionalSample(call, form);
  if (function.starts_with("windowLinearAttention")) {
    call.set("window", 5);
    if (form.fused) call.set("terraced", 1).set("affine", 1);
  }
  if (function.starts_with("ligerAttention")) {
    call.set("window", 5);
    if (form.fused) call.set("gateNormalizer", 4).setPair("mix", 0.25, 0.75);
  }
  if (function.starts_with("localLinearAttention")) {
    if (form.fused) call.setPair("window", 5, 2).set("sinkTokens", 2).set("causal", form.packed ? 1 : 0);
    call.set("outputResidual", 1);
    if (function == "localLinearAttention") call.set("outputSolution", 1);
  }
  if (function == "adamW") call.set("lr", 1e-3).set("step", 2);
  if (function == "spmm") call.set("outFeatures", 9);
  if (function == "rowSketch") call.set("size", 4);
  if (function.starts_with("basisCombination") && form.fused)  // of a seed in place of those given
    call.in("bases", Array()).set("rows", 4).set("columns", 19).set("seed", 5);
  return ofDType(call, form.dtype);
}

}  // namespace

Invocation sampleCall(const std::string& function, const SampleForm& form) {
  const OpSpec& spec = Invocation(function).spec();
  if (spec.takesBank || spec.makesBase) return loraSample(function, form);
  const Invocation call = plainSample(function, form);
  return form.packed ? packed(call) : call;
}

}  // namespace rankone::test

#include "ops/op.h"

#include <cmath>

#include "core/cpu.h"

namespace rankone {

Call innerCall(const OpSpec& spec, const Call& outer) {
  Call call;
  call.spec = &spec;
  call.state = outer.state;
  call.saved = outer.saved;
  call.cancel = outer.cancel;
  call.device = outer.device;
  call.inner = true;
  for (size_t i = 0; i < spec.options.size(); ++i)
    for (size_t j = 0; j < outer.spec->options.size(); ++j)
      if (std::string_view(spec.options[i].name) == outer.spec->options[j].name) call.options[i] = outer.options[j];
  return call;
}

std::string argumentName(const InputSpec& input) {
  return input.group && *input.group ? std::string(input.group) + "." + input.name : input.name;
}

std::string argumentName(const OptionSpec& option) {
  return option.group && *option.group ? std::string(option.group) + "." + option.name : option.name;
}

void expectRank(const Call& call, int input, int rank, const char* pattern) {
  const Tensor& t = call.inputs[input];
  if (t.rank != rank)
    fail(ErrorKind::Range, "%s: expected shape %s, got %s", argumentName(call.spec->inputs[input]).c_str(), pattern,
         t.shapeText().c_str());
}

void expectShape(const Call& call, int input, std::initializer_list<int64_t> dims, const char* pattern) {
  Tensor expected;
  expected.setShape(dims);
  const Tensor& t = call.inputs[input];
  if (!t.sameShape(expected))
    fail(ErrorKind::Range, "%s: expected shape %s = %s, got %s", argumentName(call.spec->inputs[input]).c_str(),
         pattern, expected.shapeText().c_str(), t.shapeText().c_str());
}

void expectDType(const Call& call, int input, int like, bool orF32) {
  const Tensor &t = call.inputs[input], &other = call.inputs[like];
  if (call.inner || !t.present() || t.dtype == other.dtype || (orF32 && t.dtype == DType::F32)) return;
  fail(ErrorKind::Type, "%s: expected dtype %s (that of %s)%s, got %s", call.spec->inputs[input].name,
       dtypeName(other.dtype), call.spec->inputs[like].name, orF32 && other.dtype != DType::F32 ? " or f32" : "",
       dtypeName(t.dtype));
}

void expectFinite(const Call& call, int option) {
  const OptionValue& v = call.options[option];
  if (v.given && !std::isfinite(static_cast<float>(v.value)))
    fail(ErrorKind::Range, "%s: expected a number that float32 can hold, got %g", call.spec->options[option].name,
         v.value);
}

void expectInteger(const Call& call, int option, int64_t low, int64_t high) {
  const OptionValue& v = call.options[option];
  if (!v.given) return;
  if (!(v.value >= static_cast<double>(low) && v.value <= static_cast<double>(high)) || v.value != std::floor(v.value))
    fail(ErrorKind::Range, "%s: expected an integer from %lld to %lld, got %g",
         argumentName(call.spec->options[option]).c_str(), static_cast<long long>(low), static_cast<long long>(high),
         v.value);
}

void expectGiven(const Call& call, int option, const char* what) {
  if (!call.options[option].given)
    fail(ErrorKind::Type, "%s: expected %s, got undefined", argumentName(call.spec->options[option]).c_str(), what);
}

void expectCompute(const Call& call, int option) {
  if (!call.device && call.integer(option, 0) == 1 && !hasBf16Dot())
    fail(ErrorKind::Range, "%s: expected 'f32' on this instruction set (%s), got 'bf16'",
         call.spec->options[option].name, isaName(activeIsa()));
}

}  // namespace rankone

#include "ops/shapes.h"

#include <algorithm>
#include <vector>

namespace rankone {
namespace {

// Whether products of the sizes can overflow: a size of zero would allow any other, and counts as one here.
bool tooLarge(const Tensor& t) {
  int64_t count = 1;
  for (int i = 0; i < t.rank; ++i)
    if (t.shape[i] && (__builtin_mul_overflow(count, t.shape[i], &count) || count > (int64_t{1} << 50))) return true;
  return false;
}

}  // namespace

void expectInputs(const Call& call) {
  for (size_t i = 0; i < call.spec->inputs.size(); ++i) {
    const InputSpec& spec = call.spec->inputs[i];
    const Tensor& t = call.inputs[i];
    if (!t.present()) {
      if (spec.required) fail(ErrorKind::Type, "%s: expected a tensor, got none", spec.name);
    } else if (!(spec.dtypes & dtypeBit(t.dtype))) {
      fail(ErrorKind::Type, "%s: expected dtype %s, got %s", spec.name, dtypeNames(spec.dtypes).c_str(),
           dtypeName(t.dtype));
    } else if (tooLarge(t)) {
      fail(ErrorKind::Range, "%s: expected sizes that can be counted, got %s", spec.name, t.shapeText().c_str());
    }
  }
}

void expectCountable(const char* name, std::initializer_list<int64_t> sizes) {
  int64_t count = 1;
  for (int64_t size : sizes)
    if (size && (__builtin_mul_overflow(count, size, &count) || count > (int64_t{1} << 50)))
      fail(ErrorKind::Range, "%s: expected sizes that can be counted together, got one of %lld", name,
           static_cast<long long>(size));
}

void expectSameShape(const Call& call, int input, int like) {
  const Tensor &t = call.inputs[input], &other = call.inputs[like];
  if (t.present() && !t.sameShape(other))
    fail(ErrorKind::Range, "%s: expected the shape of %s = %s, got %s", call.spec->inputs[input].name,
         call.spec->inputs[like].name, other.shapeText().c_str(), t.shapeText().c_str());
}

void expectMinRank(const Call& call, int input, int rank, const char* pattern) {
  const Tensor& t = call.inputs[input];
  if (t.rank < rank)
    fail(ErrorKind::Range, "%s: expected shape %s, got %s", call.spec->inputs[input].name, pattern,
         t.shapeText().c_str());
}

void expectNotNegative(const Call& call, int option) {
  const OptionValue& v = call.options[option];
  if (v.given && !(std::isfinite(static_cast<float>(v.value)) && v.value >= 0))
    fail(ErrorKind::Range, "%s: expected a finite number >= 0, got %g", call.spec->options[option].name, v.value);
}

int64_t expectStarts(const Call& call, int input, int64_t B, int64_t T, const char* size) {
  const Tensor& starts = call.input(input);
  if (!starts.present()) return B;
  const char* name = call.spec->inputs[input].name;
  if (B != 1)
    fail(ErrorKind::Range, "%s: expected B = 1 with packed sequences, got B = %lld", name, static_cast<long long>(B));
  if (starts.shape[0] < 2)
    fail(ErrorKind::Range, "%s: expected N + 1 >= 2 values, got %lld%s", name, static_cast<long long>(starts.shape[0]),
         starts.shape[0] == 0 ? " (a detached array has none)" : "");
  const int64_t N = starts.shape[0] - 1;
  const IndexView at(starts);
  if (at[0] != 0) fail(ErrorKind::Range, "%s: expected 0 at 0, got %lld", name, static_cast<long long>(at[0]));
  for (int64_t i = 1; i <= N; ++i)
    if (at[i] < at[i - 1] || at[i] > T)
      fail(ErrorKind::Range, "%s: expected values that do not decrease, up to %s = %lld, got %lld at %lld", name, size,
           static_cast<long long>(T), static_cast<long long>(at[i]), static_cast<long long>(i));
  if (at[N] != T)
    fail(ErrorKind::Range, "%s: expected %s = %lld at %lld, got %lld", name, size, static_cast<long long>(T),
         static_cast<long long>(N), static_cast<long long>(at[N]));
  return N;
}

void expectStateRows(const Call& call, int input, int64_t sequences, int64_t slots) {
  expectShape(call, input, {sequences}, "[N]");
  const IndexView at(call.input(input));
  std::vector<int64_t> sorted(static_cast<size_t>(sequences));
  for (int64_t i = 0; i < sequences; ++i) {
    sorted[i] = at[i];
    if (at[i] < 0 || at[i] >= slots)
      fail(ErrorKind::Range, "%s: expected slots from 0 to %lld, got %lld at %lld", call.spec->inputs[input].name,
           static_cast<long long>(slots - 1), static_cast<long long>(at[i]), static_cast<long long>(i));
  }
  std::sort(sorted.begin(), sorted.end());
  const auto twice = std::adjacent_find(sorted.begin(), sorted.end());
  if (twice != sorted.end())
    fail(ErrorKind::Range, "%s: expected every slot once, got %lld twice", call.spec->inputs[input].name,
         static_cast<long long>(*twice));
}

void setOutput(Call& call, int output, const int64_t* shape, int rank, DType dtype) {
  Tensor& t = call.outputs[output];
  t = Tensor{};
  t.rank = rank;
  t.dtype = dtype;
  for (int i = 0; i < rank; ++i) t.shape[i] = shape[i];
  if (tooLarge(t))
    fail(ErrorKind::Range, "%s: the result's shape %s is too large", call.spec->outputs[output].name,
         t.shapeText().c_str());
}

void setOutput(Call& call, int output, std::initializer_list<int64_t> shape, DType dtype) {
  setOutput(call, output, shape.begin(), static_cast<int>(shape.size()), dtype);
}

void setOutputLike(Call& call, int output, const Tensor& like, DType dtype) {
  setOutput(call, output, like.shape, like.rank, dtype);
}

DType gradientDType(const Call& call, int option, const Tensor& of) {
  return call.integer(option, 0) == 1 ? of.dtype : DType::F32;
}

int64_t outerSize(const Tensor& t, int inner) {
  uint64_t n = 1;  // may wrap on the way to a size of zero
  for (int i = 0; i < t.rank - inner; ++i) n *= static_cast<uint64_t>(t.shape[i]);
  return static_cast<int64_t>(n);
}

}  // namespace rankone

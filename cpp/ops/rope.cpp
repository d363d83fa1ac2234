// Rotary position embeddings, their gradient, which is the inverse rotation, and their form in place.
#include "kernels/rope.h"

#include <cmath>
#include <limits>
#include <vector>

#include "ops/op.h"
#include "ops/shapes.h"

namespace rankone {
namespace {

enum Option { kRotaryDim, kInterleaved, kTheta, kOffset, kScale, kGradDtype };

// Where the arguments stand: the tensor that is turned and one beside it, -1: none; then the others.
struct Places {
  int second, positions, inverseFrequencies, cuSeqlens;
  bool inverse = false;
};
constexpr int kX = 0;
constexpr Places kForward{-1, 1, 2, 3}, kBackward{-1, 1, 2, 3, true}, kInPlace{1, 2, 3, 4};

struct Problem {
  int64_t B, T, D, R, N;
  std::vector<int64_t> starts;
  std::vector<double> frequencies;
};

Problem bind(const Call& call, const Places& at) {
  const char* pattern = "[B,T,H,D]";
  expectRank(call, kX, 4, pattern);
  const Tensor& x = call.input(kX);
  Problem p{x.shape[0], x.shape[1], x.shape[3], call.integer(kRotaryDim, x.shape[3]), 0, {}, {}};
  if (at.second >= 0 && call.input(at.second).present()) {
    expectDType(call, at.second, kX);
    expectRank(call, at.second, 4, pattern);
    expectShape(call, at.second, {p.B, p.T, call.input(at.second).shape[2], p.D}, pattern);
  }
  if (p.R < 2 || p.R > p.D || p.R % 2) {
    if (call.options[kRotaryDim].given)
      fail(ErrorKind::Range, "rotaryDim: expected an even number from 2 to D = %lld, got %lld",
           static_cast<long long>(p.D), static_cast<long long>(p.R));
    fail(ErrorKind::Range, "%s: expected shape [B,T,H,D] with an even D >= 2, or rotaryDim beside it, got %s",
         call.spec->inputs[kX].name, x.shapeText().c_str());
  }
  p.N = expectStarts(call, at.cuSeqlens, p.B, p.T);
  const Tensor& starts = call.input(at.cuSeqlens);
  if (starts.present()) {
    const IndexView view(starts);
    for (int64_t n = 0; n <= p.N; ++n) p.starts.push_back(view[n]);
  }
  return p;
}

void check(const Call& call, const Places& at) {
  expectInputs(call);
  const Problem p = bind(call, at);
  for (int option : {kTheta, kScale}) expectFinite(call, option);
  const double theta = call.number(kTheta, 1);
  if (theta <= 0) fail(ErrorKind::Range, "theta: expected a number above 0, got %g", theta);
  constexpr int64_t kMost = int64_t{1} << 31;
  expectInteger(call, kOffset, -kMost, kMost);
  const Tensor& positions = call.input(at.positions);
  if (positions.present()) {
    if (positions.rank == 1)
      expectShape(call, at.positions, {p.T}, "[T]");
    else
      expectShape(call, at.positions, {p.B, p.T}, "[T] or [B,T]");
    for (const auto& [given, name] :
         {std::pair{call.options[kOffset].given, "offset"}, std::pair{call.input(at.cuSeqlens).present(), "cuSeqlens"}})
      if (given) fail(ErrorKind::Type, "%s: expected none beside positions, got one", name);
  }
  if (call.input(at.inverseFrequencies).present()) {
    expectShape(call, at.inverseFrequencies, {p.R / 2}, "[R/2]");
    if (call.options[kTheta].given) fail(ErrorKind::Type, "theta: expected none beside inverseFrequencies, got one");
  }
}

void fillFrequencies(const Call& call, const Places& at, Problem& p) {
  const int64_t half = p.R / 2;
  p.frequencies.assign(static_cast<size_t>((half + kRopePadding - 1) / kRopePadding * kRopePadding), 0.0);
  const float* given = call.input(at.inverseFrequencies).f32();
  const double theta = call.number(kTheta, 10000);
  for (int64_t i = 0; i < half; ++i)
    p.frequencies[i] = given ? static_cast<double>(given[i]) : std::pow(theta, -2.0 * static_cast<double>(i) / p.R);
}

// Of numbers one of which may be no number.
double largest(const std::vector<double>& values) {
  double most = 0;
  for (double value : values)
    if (!(std::fabs(value) <= most))
      most = std::isfinite(value) ? std::fabs(value) : std::numeric_limits<double>::infinity();
  return most;
}

void compute(const Call& call, const Places& at, const RopeTensor& first, const RopeTensor& second, DType out) {
  Problem p = bind(call, at);
  fillFrequencies(call, at, p);
  RopeArgs a{};
  a.tensors[0] = first;
  a.tensors[1] = second;
  a.dtype = call.input(kX).dtype;
  a.outDType = out;
  a.frequencies = p.frequencies.data();
  a.largestFrequency = largest(p.frequencies);
  const Tensor& positions = call.input(at.positions);
  if (positions.present()) a.positions = IndexView(positions);
  a.positionCount = positions.rank == 1 ? p.T : p.B * p.T;
  a.offset = call.integer(kOffset, 0);
  a.starts = p.starts.empty() ? nullptr : p.starts.data();
  a.N = p.N;
  a.T = p.T;
  a.D = p.D;
  a.R = p.R;
  a.tokens = first.heads || second.heads ? p.B * p.T : 0;
  a.scale = call.number(kScale, 1);
  a.interleaved = call.flag(kInterleaved);
  a.inverse = at.inverse;
  a.cancel = call.cancel;
  rope(a);
}

void plan(Call& call) {
  check(call, kForward);
  setOutputLike(call, 0, call.input(kX), call.input(kX).dtype);
}

void planBackward(Call& call) {
  check(call, kBackward);
  const Tensor& dY = call.input(kX);
  setOutputLike(call, 0, dY, gradientDType(call, kGradDtype, dY));
}

void planInPlace(Call& call) { check(call, kInPlace); }

template <const Places& at>
void run(const Call& call) {
  const Tensor &x = call.input(kX), &y = call.outputs[0];
  compute(call, at, {x.data, y.data, x.shape[2]}, {}, y.dtype);
}

void runInPlace(const Call& call) {
  const Tensor &q = call.input(kX), &k = call.input(kInPlace.second);
  RopeTensor second;
  if (k.present()) second = {k.data, k.data, k.shape[2]};
  compute(call, kInPlace, {q.data, q.data, q.shape[2]}, second, q.dtype);
}

#define RANKONE_ROPE_INPUTS \
  {"positions", false, kI32}, {"inverseFrequencies", false}, { "cuSeqlens", false, kIndices, Access::Read, "" }
#define RANKONE_ROPE_OPTIONS                                                                            \
  {"rotaryDim", OptionKind::Integer}, {"interleaved", OptionKind::Flag}, {"theta", OptionKind::Number}, \
      {"offset", OptionKind::Integer}, {                                                                \
    "scale", OptionKind::Number                                                                         \
  }

constexpr InputSpec kInputs[] = {{"x", true, kFloats}, RANKONE_ROPE_INPUTS};
constexpr InputSpec kBackwardInputs[] = {{"dY", true, kFloats}, RANKONE_ROPE_INPUTS};
constexpr InputSpec kInPlaceInputs[] = {
    {"q", true, kFloats, Access::Update}, {"k", false, kFloats, Access::Update}, RANKONE_ROPE_INPUTS};
constexpr OptionSpec kOptions[] = {RANKONE_ROPE_OPTIONS};
constexpr OptionSpec kBackwardOptions[] = {RANKONE_ROPE_OPTIONS, {"gradDtype", OptionKind::Choice, "f32|input"}};
constexpr OutputSpec kOutputs[] = {{"y"}};
constexpr OutputSpec kGradients[] = {{"dx"}};

}  // namespace

extern const OpSpec ropeOp, ropeBackwardOp, ropeInPlaceOp;
const OpSpec ropeOp{"rope", kInputs, kOptions, kOutputs, plan, run<kForward>};
const OpSpec ropeBackwardOp{"ropeBackward", kBackwardInputs, kBackwardOptions,
                            kGradients,     planBackward,    run<kBackward>};
const OpSpec ropeInPlaceOp{"ropeInPlace", kInPlaceInputs, kOptions, {}, planInPlace, runInPlace};

}  // namespace rankone

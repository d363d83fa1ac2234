// sum = sum_i c_i Basis_i with bases given or drawn from a seed, and its gradients.
#include "kernels/basis_combination.h"

#include "ops/op.h"
#include "ops/seeds.h"
#include "ops/shapes.h"

namespace rankone {
namespace {

enum Input { kCoefficients, kBases, kDSum };
enum Option { kHeadAxis, kRows, kColumns, kSeed, kStream, kDeviation, kGradDtype };
enum Gradient { kDCoefficients, kDBases };

int64_t sizeOption(const Call& call, int option) {
  if (!call.options[option].given)
    fail(ErrorKind::Type, "%s: expected an integer where there are no bases, got none",
         call.spec->options[option].name);
  expectInteger(call, option, 0, kMostDrawn);
  return call.integer(option, 0);
}

struct Problem {
  Bases bases;
  int64_t rows, columns;
};

Problem bind(const Call& call) {
  const Tensor &c = call.input(kCoefficients), &given = call.input(kBases);
  if (c.rank != 2) expectRank(call, kCoefficients, 1, "[count] or [heads,count]");
  Problem p;
  Bases& b = p.bases;
  b.count = c.shape[c.rank - 1];
  if (given.present()) {
    for (int option : {kRows, kColumns, kSeed, kStream, kDeviation})
      if (call.options[option].given)
        fail(ErrorKind::Type, "%s: expected none where bases are given, got a number", call.spec->options[option].name);
    expectRank(call, kBases, 3, "[count,rows,columns]");
    p.rows = given.shape[1];
    p.columns = given.shape[2];
    expectShape(call, kBases, {b.count, p.rows, p.columns}, "[count,rows,columns]");
    b.values = FloatView(given);
  } else {
    p.rows = sizeOption(call, kRows);
    p.columns = sizeOption(call, kColumns);
    if (p.columns > 0 && p.rows > kMostDrawn / p.columns)
      fail(ErrorKind::Range, "rows: expected at most 2^34 elements of a basis, got %lld rows of %lld",
           static_cast<long long>(p.rows), static_cast<long long>(p.columns));
    expectInteger(call, kSeed, 0, kMostSeed);
    expectInteger(call, kStream, 0, kMostStream);
    expectNotNegative(call, kDeviation);
    b.seed = static_cast<uint64_t>(call.integer(kSeed, 0));
    b.stream = static_cast<uint64_t>(call.integer(kStream, 0));
    if (b.count - 1 > kMostStream - static_cast<int64_t>(b.stream))
      fail(ErrorKind::Range, "stream: expected streams up to 2^32 - 1 for %lld bases, got %lld",
           static_cast<long long>(b.count), static_cast<long long>(b.stream));
    b.deviation = call.number(kDeviation, 1);
  }
  b.size = p.rows * p.columns;
  b.heads = c.rank == 2 ? c.shape[0] : 1;
  const bool byColumns = call.integer(kHeadAxis, 0) == 1;
  const int64_t along = byColumns ? p.columns : p.rows;
  if (b.heads == 0 || along % b.heads != 0)
    fail(ErrorKind::Range, "coefficients: expected shape [heads,count] with heads that divide %s = %lld, got %s",
         byColumns ? "columns" : "rows", static_cast<long long>(along), c.shapeText().c_str());
  b.run = byColumns ? along / b.heads : along / b.heads * p.columns;
  return p;
}

void plan(Call& call) {
  expectInputs(call);
  const Tensor& bases = call.input(kBases);
  if (bases.present()) expectDType(call, kCoefficients, kBases, true);
  const Problem p = bind(call);
  setOutput(call, 0, {p.rows, p.columns}, bases.present() ? bases.dtype : DType::F32);
}

void run(const Call& call) {
  const Tensor& sum = call.outputs[0];
  basisCombination({bind(call).bases, FloatView(call.input(kCoefficients)), sum.data, sum.dtype, call.cancel});
}

void planBackward(Call& call) {
  expectInputs(call);
  const Tensor &bases = call.input(kBases), &c = call.input(kCoefficients);
  if (bases.present()) {
    expectDType(call, kCoefficients, kBases, true);
    expectDType(call, kDSum, kBases);
  }
  const Problem p = bind(call);
  expectShape(call, kDSum, {p.rows, p.columns}, "[rows,columns]");
  setOutputLike(call, kDCoefficients, c, gradientDType(call, kGradDtype, c));
  if (bases.present()) setOutputLike(call, kDBases, bases, gradientDType(call, kGradDtype, bases));
}

void runBackward(const Call& call) {
  const Tensor &dC = call.outputs[kDCoefficients], &dBases = call.outputs[kDBases];
  BasisCombinationBackwardArgs p;
  p.bases = bind(call).bases;
  p.coefficients = FloatView(call.input(kCoefficients));
  p.dOut = FloatView(call.input(kDSum));
  p.dCoefficients = dC.data;
  p.coefficientsDType = dC.dtype;
  if (dBases.present()) {
    p.dBases = dBases.data;
    p.basesDType = dBases.dtype;
  }
  p.cancel = call.cancel;
  basisCombinationBackward(p);
}

constexpr InputSpec kInputs[] = {{"coefficients", true, kFloats}, {"bases", false, kFloats}};
constexpr InputSpec kBackwardInputs[] = {
    {"coefficients", true, kFloats}, {"bases", false, kFloats}, {"dSum", true, kFloats}};
constexpr OptionSpec kBackwardOptions[] = {{"headAxis", OptionKind::Choice, "rows|columns"},
                                           {"rows", OptionKind::Integer},
                                           {"columns", OptionKind::Integer},
                                           {"seed", OptionKind::Integer},
                                           {"stream", OptionKind::Integer},
                                           {"deviation", OptionKind::Number},
                                           {"gradDtype", OptionKind::Choice, "f32|input"}};
constexpr std::span<const OptionSpec> kOptions{kBackwardOptions, kGradDtype};
constexpr OutputSpec kOutputs[] = {{"sum"}};
constexpr OutputSpec kGradients[] = {{"dCoefficients"}, {"dBases"}};

}  // namespace

extern const OpSpec basisCombinationOp, basisCombinationBackwardOp;
const OpSpec basisCombinationOp{"basisCombination", kInputs, kOptions, kOutputs, plan, run};
const OpSpec basisCombinationBackwardOp{
    "basisCombinationBackward", kBackwardInputs, kBackwardOptions, kGradients, planBackward, runBackward};

}  // namespace rankone

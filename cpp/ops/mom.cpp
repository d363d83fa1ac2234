// Routing of mixture-of-memories, rows into the order of the memories and back, and the gradients of each.
#include "kernels/mom.h"

#include <algorithm>

#include "ops/op.h"
#include "ops/sequences.h"
#include "ops/shapes.h"

namespace rankone {
namespace {

constexpr int64_t kMostEntries = (int64_t{1} << 31) - 1, kMostMemories = 4096;

long long text(int64_t n) { return static_cast<long long>(n); }

struct RouteSizes {
  int64_t B, T, M, k;
  bool renormalize;
  int64_t rows() const { return B * T; }
};

RouteSizes routeSizes(const Call& call, int topK, int renormalize) {
  expectInputs(call);
  expectRank(call, 0, 3, "[B,T,M]");
  const Tensor& logits = call.input(0);
  RouteSizes s{logits.shape[0], logits.shape[1], logits.shape[2], 0, call.flag(renormalize, true)};
  if (s.M < 1 || s.M > kMostMemories)
    fail(ErrorKind::Range, "logits: expected M from 1 to %lld, got shape %s", text(kMostMemories),
         logits.shapeText().c_str());
  expectInteger(call, topK, 1, s.M);
  s.k = call.integer(topK, std::min<int64_t>(2, s.M));
  expectCountable("logits", {s.B, s.T, s.k});
  if (s.rows() * s.k > kMostEntries)
    fail(ErrorKind::Range, "logits: expected at most %lld tokens times memories, got shape %s", text(kMostEntries),
         logits.shapeText().c_str());
  return s;
}

namespace route {
enum { kLogits, kCuSeqlens };
enum { kTopK, kRenormalize };
enum { kWeights, kMemories, kOrder, kSlots, kOutCuSeqlens };

void plan(Call& call) {
  const RouteSizes s = routeSizes(call, kTopK, kRenormalize);
  const Sequences sequences = sequencesOf(call, kCuSeqlens, s.B, s.T, true);
  expectCountable("logits", {s.M, sequences.N + 1});
  if (s.M * sequences.N >= kMostEntries)
    fail(ErrorKind::Range, "logits: expected fewer sequences times memories, got shape %s",
         call.input(kLogits).shapeText().c_str());
  setOutput(call, kWeights, {s.B, s.T, s.k});
  setOutput(call, kMemories, {s.B, s.T, s.k}, DType::I32);
  setOutput(call, kOrder, {s.rows() * s.k}, DType::I32);
  setOutput(call, kSlots, {s.B, s.T, s.k}, DType::I32);
  setOutput(call, kOutCuSeqlens, {s.M * sequences.N + 1}, DType::I32);
}

void run(const Call& call) {
  const RouteSizes s = routeSizes(call, kTopK, kRenormalize);
  const Sequences sequences = sequencesOf(call, kCuSeqlens, s.B, s.T, false);
  MomRouteArgs a{};
  a.logits = FloatView(call.input(kLogits));
  a.rows = s.rows();
  a.M = s.M;
  a.k = s.k;
  a.renormalize = s.renormalize;
  a.N = sequences.N;
  a.T = s.T;
  a.starts = sequences.starts;
  a.weights = call.outputs[kWeights].f32();
  a.memories = call.outputs[kMemories].as<int32_t>();
  a.order = call.outputs[kOrder].as<int32_t>();
  a.slots = call.outputs[kSlots].as<int32_t>();
  a.cuSeqlens = call.outputs[kOutCuSeqlens].as<int32_t>();
  a.cancel = call.cancel;
  momRoute(a);
}

void planBackward(Call& call) {
  const RouteSizes s = routeSizes(call, kTopK, kRenormalize);
  expectShape(call, 1, {s.B, s.T, s.k}, "[B,T,k]");
  setOutputLike(call, 0, call.input(kLogits));
}

void runBackward(const Call& call) {
  const RouteSizes s = routeSizes(call, kTopK, kRenormalize);
  momRouteBackward({FloatView(call.input(kLogits)), call.input(1).f32(), call.outputs[0].f32(), s.rows(), s.M, s.k,
                    s.renormalize, call.cancel});
}

constexpr InputSpec kInputs[] = {{"logits", true, kFloats}, {"cuSeqlens", false, kIndices, Access::Read, ""}};
constexpr InputSpec kBackwardInputs[] = {{"logits", true, kFloats}, {"dWeights"}};
constexpr OptionSpec kOptions[] = {{"topK", OptionKind::Integer}, {"renormalize", OptionKind::Flag}};
constexpr OutputSpec kOutputs[] = {{"weights"}, {"memories"}, {"order"}, {"slots"}, {"cuSeqlens"}};
constexpr OutputSpec kGradients[] = {{"dLogits"}};
}  // namespace route

// Rows [B,T,...] and their k entries each, [1,B T k,...].
struct Rows {
  int64_t B = 0, T = 0, k = 0, width = 1;
  int rank = 0;
  int64_t shape[kMaxRank] = {};  // of one row, from [2] on
  int64_t tokens() const { return B * T; }
  int64_t entries() const { return B * T * k; }
  MomRowsArgs args(const Call& call) const { return {tokens(), k, width, call.cancel}; }
};

void bindRow(const Call& call, int input, Rows& rows, const char* pattern) {
  expectMinRank(call, input, 2, pattern);
  const Tensor& x = call.input(input);
  expectCountable(call.spec->inputs[input].name, {x.shape[0], x.shape[1]});
  rows.rank = x.rank;
  rows.width = x.size() == 0 ? 0 : 1;
  for (int i = 2; i < x.rank; ++i) {
    rows.shape[i] = x.shape[i];
    if (rows.width) rows.width *= x.shape[i];
  }
}

void bindEntries(Rows& rows, int64_t B, int64_t T, int64_t k) {
  rows.B = B;
  rows.T = T;
  rows.k = k;
  if (k < 1) fail(ErrorKind::Range, "slots: expected shape [B,T,k] with k >= 1, got k = %lld", text(k));
  expectCountable("slots", {B, T, k});
  if (rows.entries() > kMostEntries)
    fail(ErrorKind::Range, "slots: expected at most %lld entries, got [%lld,%lld,%lld]", text(kMostEntries), text(B),
         text(T), text(k));
}

// A tensor of rows or of entries, as the binding has them.
void expectRows(const Call& call, int input, const Rows& rows, bool entries) {
  const Tensor& x = call.input(input);
  bool fits =
      x.rank == rows.rank && x.shape[0] == (entries ? 1 : rows.B) && x.shape[1] == (entries ? rows.entries() : rows.T);
  for (int i = 2; fits && i < x.rank; ++i) fits = x.shape[i] == rows.shape[i];
  if (fits) return;
  Tensor wanted = x;
  wanted.rank = rows.rank;
  for (int i = 2; i < rows.rank; ++i) wanted.shape[i] = rows.shape[i];
  wanted.shape[0] = entries ? 1 : rows.B;
  wanted.shape[1] = entries ? rows.entries() : rows.T;
  fail(ErrorKind::Range, "%s: expected shape %s = %s, got %s", call.spec->inputs[input].name,
       entries ? "[1,B T k,...]" : "[B,T,...]", wanted.shapeText().c_str(), x.shapeText().c_str());
}

void setRows(Call& call, int output, const Rows& rows, bool entries, DType dtype) {
  int64_t shape[kMaxRank];
  for (int i = 0; i < rows.rank; ++i) shape[i] = rows.shape[i];
  shape[0] = entries ? 1 : rows.B;
  shape[1] = entries ? rows.entries() : rows.T;
  setOutput(call, output, shape, rows.rank, dtype);
}

// Indices of entries.
void expectEntryIndices(const Call& call, int input, int64_t entries) {
  const Tensor& t = call.input(input);
  const int32_t* at = t.as<int32_t>();
  for (int64_t i = 0; i < t.size(); ++i)
    if (at[i] < 0 || at[i] >= entries)
      fail(ErrorKind::Range, "%s: expected indices from 0 to %lld, got %d at position %lld",
           call.spec->inputs[input].name, text(entries - 1), at[i], text(i));
}

namespace gather {
enum { kX, kOrder };

Rows bind(const Call& call) {
  Rows rows;
  bindRow(call, kX, rows, "[B,T,...]");
  expectRank(call, kOrder, 1, "[B T k]");
  const Tensor& x = call.input(kX);
  const int64_t tokens = x.shape[0] * x.shape[1], entries = call.input(kOrder).shape[0];
  if (tokens == 0 ? entries != 0 : entries < tokens || entries % tokens != 0)
    fail(ErrorKind::Range, "order: expected a multiple of B T = %lld entries, got shape %s", text(tokens),
         call.input(kOrder).shapeText().c_str());
  bindEntries(rows, x.shape[0], x.shape[1], tokens ? entries / tokens : 1);
  return rows;
}

void plan(Call& call) {
  expectInputs(call);
  const Rows rows = bind(call);
  expectEntryIndices(call, kOrder, rows.entries());
  setRows(call, 0, rows, true, call.input(kX).dtype);
}

void run(const Call& call) {
  const Tensor& x = call.input(kX);
  const Rows rows = bind(call);
  momGather({rows.args(call), x.data, call.input(kOrder).as<int32_t>(), call.outputs[0].data, x.dtype});
}

enum { kDY, kSlots };

Rows bindBackward(const Call& call) {
  Rows rows;
  bindRow(call, kDY, rows, "[1,B T k,...]");
  expectRank(call, kSlots, 3, "[B,T,k]");
  const Tensor& slots = call.input(kSlots);
  bindEntries(rows, slots.shape[0], slots.shape[1], slots.shape[2]);
  expectRows(call, kDY, rows, true);
  return rows;
}

void planBackward(Call& call) {
  expectInputs(call);
  const Rows rows = bindBackward(call);
  expectEntryIndices(call, kSlots, rows.entries());
  setRows(call, 0, rows, false, gradientDType(call, 0, call.input(kDY)));
}

void runBackward(const Call& call) {
  const Rows rows = bindBackward(call);
  momGatherBackward({rows.args(call), FloatView(call.input(kDY)), call.input(kSlots).as<int32_t>(),
                     call.outputs[0].data, call.outputs[0].dtype});
}

constexpr InputSpec kInputs[] = {{"x", true, kFloats}, {"order", true, kI32}};
constexpr InputSpec kBackwardInputs[] = {{"dY", true, kFloats}, {"slots", true, kI32}};
constexpr OptionSpec kBackwardOptions[] = {{"gradDtype", OptionKind::Choice, "f32|input"}};
constexpr OutputSpec kOutputs[] = {{"y"}};
constexpr OutputSpec kGradients[] = {{"dx"}};
}  // namespace gather

namespace combine {
enum { kO, kWeights, kSlots, kShared, kDY = kShared };

Rows bind(const Call& call) {
  Rows rows;
  bindRow(call, kO, rows, "[1,B T k,...]");
  expectRank(call, kSlots, 3, "[B,T,k]");
  const Tensor& slots = call.input(kSlots);
  bindEntries(rows, slots.shape[0], slots.shape[1], slots.shape[2]);
  expectRows(call, kO, rows, true);
  expectShape(call, kWeights, {rows.B, rows.T, rows.k}, "[B,T,k]");
  return rows;
}

void plan(Call& call) {
  expectInputs(call);
  const Rows rows = bind(call);
  if (call.input(kShared).present()) expectRows(call, kShared, rows, false);
  expectDType(call, kShared, kO);
  expectEntryIndices(call, kSlots, rows.entries());
  setRows(call, 0, rows, false, call.input(kO).dtype);
}

void run(const Call& call) {
  const Rows rows = bind(call);
  momCombine({rows.args(call), FloatView(call.input(kO)), call.input(kWeights).f32(), call.input(kSlots).as<int32_t>(),
              FloatView(call.input(kShared)), call.outputs[0].data, call.outputs[0].dtype});
}

void planBackward(Call& call) {
  expectInputs(call);
  const Rows rows = bind(call);
  expectRows(call, kDY, rows, false);
  expectDType(call, kDY, kO);
  expectEntryIndices(call, kSlots, rows.entries());
  setRows(call, 0, rows, true, gradientDType(call, 0, call.input(kO)));
  setOutputLike(call, 1, call.input(kWeights));
}

void runBackward(const Call& call) {
  const Rows rows = bind(call);
  momCombineBackward({rows.args(call), FloatView(call.input(kO)), FloatView(call.input(kDY)),
                      call.input(kWeights).f32(), call.input(kSlots).as<int32_t>(), call.outputs[0].data,
                      call.outputs[0].dtype, call.outputs[1].f32()});
}

constexpr InputSpec kInputs[] = {{"o", true, kFloats}, {"weights"}, {"slots", true, kI32}, {"shared", false, kFloats}};
constexpr InputSpec kBackwardInputs[] = {
    {"o", true, kFloats}, {"weights"}, {"slots", true, kI32}, {"dY", true, kFloats}};
constexpr OutputSpec kGradients[] = {{"dO"}, {"dWeights"}};
}  // namespace combine

}  // namespace

extern const OpSpec momRouteOp, momRouteBackwardOp, momGatherOp, momGatherBackwardOp, momCombineOp,
    momCombineBackwardOp;
const OpSpec momRouteOp{"momRoute", route::kInputs, route::kOptions, route::kOutputs, route::plan, route::run};
const OpSpec momRouteBackwardOp{"momRouteBackward", route::kBackwardInputs, route::kOptions,
                                route::kGradients,  route::planBackward,    route::runBackward};
const OpSpec momGatherOp{"momGather", gather::kInputs, {}, gather::kOutputs, gather::plan, gather::run};
const OpSpec momGatherBackwardOp{"momGatherBackward", gather::kBackwardInputs, gather::kBackwardOptions,
                                 gather::kGradients,  gather::planBackward,    gather::runBackward};
const OpSpec momCombineOp{"momCombine", combine::kInputs, {}, gather::kOutputs, combine::plan, combine::run};
const OpSpec momCombineBackwardOp{"momCombineBackward", combine::kBackwardInputs, gather::kBackwardOptions,
                                  combine::kGradients,  combine::planBackward,    combine::runBackward};

}  // namespace rankone

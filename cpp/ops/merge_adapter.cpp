// An adapter into a weight, and out of it again: rows d_i W_i + scale (B M A)_i, or (W_i - scale (B M A)_i) / d_i, in
// float32 from the values that the weight stands for, rounded to a format once.
#include <algorithm>
#include <vector>

#include "kernels/matmul.h"
#include "kernels/split.h"
#include "ops/adapter_bank.h"
#include "ops/op.h"
#include "ops/packed_weight.h"
#include "ops/shapes.h"

namespace rankone {
namespace {

enum Option { kId, kFormat };

struct Merge {
  std::shared_ptr<const StoredAdapter> held;
};

void planAny(Call& call, bool back) {
  if (!call.base) fail(ErrorKind::Type, "base: expected a packed weight, got none");
  if (!call.bank) fail(ErrorKind::Type, "bank: expected one, got undefined");
  if (call.bank->in != call.base->in() || call.bank->out != call.base->out())
    fail(ErrorKind::Range, "bank: expected [out,in] = [%lld,%lld] as in base, got [%lld,%lld]",
         static_cast<long long>(call.base->out()), static_cast<long long>(call.base->in()),
         static_cast<long long>(call.bank->out), static_cast<long long>(call.bank->in));
  expectGiven(call, kId, "an integer");
  const int64_t id = call.integer(kId, -1);
  auto held = id >= 0 && id <= INT32_MAX ? call.bank->find(static_cast<int32_t>(id)) : nullptr;
  if (!held) fail(ErrorKind::Range, "id: expected one of a loaded adapter, got %lld", static_cast<long long>(id));
  const LoraAdapter& a = held->adapter;
  const char* part = a.activation != RankActivation::None ? "act" : a.rankBias ? "rankBias" : nullptr;
  if (part) fail(ErrorKind::Range, "id: expected an adapter that a weight can stand for, got one with %s", part);
  if (a.outBias)
    fail(
        ErrorKind::Range,
        "id: expected an adapter that a weight can stand for, got one with outBias, which belongs to the layer's bias");
  if (back && a.baseScale && std::find(a.baseScale, a.baseScale + call.bank->out, 0.0f) != a.baseScale + call.bank->out)
    fail(ErrorKind::Range, "id: expected an adapter that can be taken out again, got one with a zero in baseScale");
  const PanelFormat format =
      call.options[kFormat].given ? static_cast<PanelFormat>(call.integer(kFormat, 0)) : call.base->format;
  call.packed = std::make_shared<PackedWeight>(format, call.base->out(), call.base->in());
  call.planned = std::make_shared<Merge>(Merge{std::move(held)});
}

void plan(Call& call) { planAny(call, false); }
void planBack(Call& call) { planAny(call, true); }

// A [rank, in] as floats.
std::vector<float> denseA(const LoraAdapter& adapter, int64_t in) {
  std::vector<float> a(static_cast<size_t>(adapter.rank * in));
  for (int64_t k = 0; k < adapter.rank; ++k)
    if (adapter.aIndex)
      a[k * in + adapter.aIndex[k]] = 1;
    else
      unpackRow(adapter.a, k, a.data() + k * in);
  return a;
}

// scale B M [out, rank].
std::vector<float> denseB(const LoraAdapter& adapter, int64_t out) {
  const int64_t r = adapter.rank, r2 = adapter.midRank;
  std::vector<float> product(static_cast<size_t>(out * r)), b(adapter.bIndex ? 0 : static_cast<size_t>(r2));
  const auto add = [&](int64_t row, int64_t k, double value) {
    float* to = product.data() + row * r;
    if (adapter.mid)
      for (int64_t j = 0; j < r; ++j) to[j] += static_cast<float>(value * adapter.mid[k * r + j]);
    else
      to[k] += static_cast<float>(adapter.midDiagonal ? value * adapter.midDiagonal[k] : value);
  };
  for (int64_t k = 0; adapter.bIndex && k < r2; ++k) add(adapter.bIndex[k], k, adapter.scale);
  for (int64_t row = 0; !adapter.bIndex && row < out; ++row) {
    unpackRow(adapter.b, row, b.data());
    for (int64_t k = 0; k < r2; ++k) add(row, k, static_cast<double>(adapter.scale) * b[k]);
  }
  return product;
}

void runAny(const Call& call, bool back) {
  const LoraAdapter& adapter = static_cast<const Merge*>(call.planned.get())->held->adapter;
  const int64_t out = call.base->out(), in = call.base->in();
  const std::vector<float> a = denseA(adapter, in), b = denseB(adapter, out);
  AlignedBuffer delta(static_cast<size_t>(out * in) * sizeof(float));
  MatmulArgs product;
  product.a = b.data();
  product.b = a.data();
  product.y = delta.data();
  product.M = out;
  product.N = in;
  product.K = adapter.rank;
  product.cancel = call.cancel;
  matmul(product);
  const Split split = splitWork(out, 8 * in);
  parallelFor(split.tasks, call.cancel, [&](int64_t task) {
    std::vector<float> weight(static_cast<size_t>(in));
    for (int64_t row = split.begin(task); row < split.end(task); ++row) {
      unpackRow(call.base->panels(), row, weight.data());
      const float d = adapter.baseScale ? adapter.baseScale[row] : 1;
      float* to = delta.f32() + row * in;
      for (int64_t j = 0; j < in; ++j) to[j] = back ? (weight[j] - to[j]) / d : d * weight[j] + to[j];
    }
  });
  call.packed->pack(delta.data(), DType::F32, call.cancel);
}

void run(const Call& call) { runAny(call, false); }
void runBack(const Call& call) { runAny(call, true); }

constexpr OptionSpec kOptions[] = {{"id", OptionKind::Integer}, {"format", OptionKind::Choice, kWeightFormats}};

}  // namespace

extern const OpSpec mergeAdapterOp, unmergeAdapterOp;
const OpSpec mergeAdapterOp{.name = "mergeAdapter",
                            .inputs = {},
                            .options = kOptions,
                            .outputs = {},
                            .plan = plan,
                            .run = run,
                            .takesBase = true,
                            .takesBank = true,
                            .makesBase = true,
                            .wrapped = true};
const OpSpec unmergeAdapterOp{.name = "unmergeAdapter",
                              .inputs = {},
                              .options = kOptions,
                              .outputs = {},
                              .plan = planBack,
                              .run = runBack,
                              .takesBase = true,
                              .takesBank = true,
                              .makesBase = true,
                              .wrapped = true};

}  // namespace rankone

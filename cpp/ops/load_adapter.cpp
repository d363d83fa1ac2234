// Adapters into a bank: AdapterBank.load and AdapterBank.replace. Nothing of the bank changes before the new adapter is
// whole.
#include "ops/load_adapter.h"

#include <algorithm>

#include "core/widen.h"
#include "ops/shapes.h"

namespace rankone {
namespace {

using namespace load_adapter;

constexpr int64_t kMostRanks = int64_t{1} << 24;

// A factor's ranks: from a matrix, `ranksAt` being their dimension, or from an index list.
int64_t ranksOf(const Call& call, Input input, int ranksAt, int64_t features, const char* pattern) {
  const Tensor& t = call.inputs[input];
  const char* name = call.spec->inputs[input].name;
  int64_t ranks = 0;
  if (t.dtype == DType::I32) {
    expectRank(call, input, 1, "[ranks] of indices");
    ranks = t.shape[0];
    for (int64_t i = 0; i < ranks; ++i)
      if (t.as<int32_t>()[i] < 0 || t.as<int32_t>()[i] >= features)
        fail(ErrorKind::Range, "%s: expected indices from 0 to %lld, got %d at %lld", name,
             static_cast<long long>(features - 1), t.as<int32_t>()[i], static_cast<long long>(i));
  } else {
    expectRank(call, input, 2, pattern);
    ranks = t.shape[ranksAt];
    if (t.shape[1 - ranksAt] != features)
      fail(ErrorKind::Range, "%s: expected shape %s with %s = %lld, got %s%s", name, pattern, ranksAt ? "out" : "in",
           static_cast<long long>(features), t.shapeText().c_str(),
           t.shape[ranksAt] == features ? ": it is transposed" : "");
  }
  if (ranks < 1 || ranks > kMostRanks)
    fail(ErrorKind::Range, "%s: expected from 1 to %lld ranks, got %s", name, static_cast<long long>(kMostRanks),
         t.shapeText().c_str());
  return ranks;
}

void planAny(Call& call) {
  expectInputs(call);
  if (!call.bank) fail(ErrorKind::Type, "bank: expected one, got undefined");
  const int64_t r = ranksOf(call, kA, 0, call.bank->in, "[r,in]");
  const int64_t r2 = ranksOf(call, kB, 1, call.bank->out, "[out,r]");
  const Tensor& mid = call.inputs[kMid];
  if (mid.rank == 2)
    expectShape(call, kMid, {r2, r}, "[r2,r]");
  else if (mid.present())
    expectShape(call, kMid, {r}, "[r] or [r2,r]");
  if (mid.rank != 2 && r2 != r)
    fail(ErrorKind::Range, "b: expected %lld ranks as in a, got %s", static_cast<long long>(r),
         call.inputs[kB].shapeText().c_str());
  if (call.inputs[kRankBias].present()) expectShape(call, kRankBias, {r}, "[r]");
  if (call.inputs[kBaseScale].present()) expectShape(call, kBaseScale, {call.bank->out}, "[out]");
  if (call.inputs[kOutBias].present()) expectShape(call, kOutBias, {call.bank->out}, "[out]");
  expectFinite(call, kScale);
  expectInteger(call, kRank, 1, r);
  const bool topK = static_cast<RankActivation>(call.integer(kAct, 0)) == RankActivation::SelfTopK;
  if (topK) expectGiven(call, kTopK, "an integer");
  if (topK) expectInteger(call, kTopK, 1, call.integer(kRank, r));
}

// Where parts of an adapter begin in its memory, each on a cache line of its own.
class Layout {
 public:
  size_t take(size_t count) {  // of 4 bytes
    const size_t at = bytes_;
    bytes_ += (count * 4 + 63) / 64 * 64;
    return at;
  }
  size_t bytes() const { return bytes_; }

 private:
  size_t bytes_ = 0;
};

struct Factor {
  Panels panels;
  size_t words = 0, indices = 0;
  bool isList;
};

Factor planFactor(const Tensor& t, int64_t rows, int64_t depth, int width, int64_t ranks, Layout& layout) {
  Factor f;
  f.isList = t.dtype == DType::I32;
  if (f.isList) {
    f.indices = layout.take(static_cast<size_t>(ranks));
  } else {
    const PanelFormat format = t.dtype == DType::BF16  ? PanelFormat::BF16
                               : t.dtype == DType::F16 ? PanelFormat::F16
                                                       : PanelFormat::F32;
    f.panels = panelsOf(format, rows, depth, width);
    f.words = layout.take(f.panels.wordCount());
  }
  return f;
}

// With its numbers, and no memory yet.
std::shared_ptr<StoredAdapter> describe(const Call& call) {
  const Tensor &a = call.inputs[kA], &b = call.inputs[kB], &mid = call.inputs[kMid];
  const int64_t loaded = a.shape[0];
  auto stored = std::make_shared<StoredAdapter>();
  LoraAdapter& to = stored->adapter;
  to.rank = call.integer(kRank, loaded);
  to.midRank = mid.rank == 2 ? mid.shape[0] : to.rank;
  to.scale = static_cast<float>(call.number(kScale, 1));
  to.activation = static_cast<RankActivation>(call.integer(kAct, 0));
  to.activeRanks = call.integer(kTopK, 0);
  if (a.dtype != DType::I32) stored->aRows = loaded;
  if (b.dtype != DType::I32) stored->bColumns = b.shape[1];
  stored->midRows = mid.rank == 2 ? mid.shape[0] : 0;
  stored->midColumns = mid.present() ? loaded : 0;
  stored->rankBias = call.inputs[kRankBias].present() ? loaded : 0;
  return stored;
}

std::shared_ptr<const StoredAdapter> store(const Call& call) {
  stopIfCancelled(call);
  const AdapterBank& bank = *call.bank;
  std::shared_ptr<StoredAdapter> stored = describe(call);
  if (bank.device) {
    storeOnDevice(call, *stored);
    return stored;
  }
  const Tensor &a = call.inputs[kA], &b = call.inputs[kB], &mid = call.inputs[kMid];
  const int64_t loaded = a.shape[0];
  LoraAdapter& to = stored->adapter;
  Layout layout;
  const int half = panelWidth() / 2;
  const Factor fa = planFactor(a, to.rank, bank.in, to.rank <= half ? half : panelWidth(), to.rank, layout);
  const Factor fb = planFactor(b, bank.out, to.midRank, panelWidth(), to.midRank, layout);
  const size_t order = fb.isList ? layout.take(static_cast<size_t>(to.midRank)) : 0;
  const int64_t midCount = mid.rank == 2 ? to.midRank * to.rank : mid.present() ? to.rank : 0;
  const size_t midAt = layout.take(static_cast<size_t>(midCount));
  const auto floats = [&](Input input, int64_t count) {
    return layout.take(call.inputs[input].present() ? static_cast<size_t>(count) : 0);
  };
  const size_t rankBias = floats(kRankBias, to.rank), baseScale = floats(kBaseScale, bank.out),
               outBias = floats(kOutBias, bank.out);

  stored->memory = PagedArena::allocate(bank.arena, layout.bytes());
  char* memory = static_cast<char*>(stored->memory.data());
  const auto pack = [&](const Factor& f, const Tensor& t, Panels& panels, const int32_t*& indices, int64_t ranks) {
    if (f.isList) {
      indices = reinterpret_cast<int32_t*>(memory + f.indices);
      std::copy_n(t.as<int32_t>(), ranks, reinterpret_cast<int32_t*>(memory + f.indices));
    } else {
      panels = f.panels;
      panels.words = reinterpret_cast<uint32_t*>(memory + f.words);
      packDense(t.data, t.dtype, t.shape[1], false, panels, reinterpret_cast<uint32_t*>(memory + f.words), nullptr);
    }
  };
  pack(fa, a, to.a, to.aIndex, to.rank);
  pack(fb, b, to.b, to.bIndex, to.midRank);
  if (fb.isList) {
    int32_t* ranks = reinterpret_cast<int32_t*>(memory + order);
    orderRanks(to.bIndex, to.midRank, ranks);
    to.bOrder = ranks;
  }
  if (mid.present()) {
    float* values = reinterpret_cast<float*>(memory + midAt);
    for (int64_t i = 0; i < midCount; ++i) values[i] = elementOf(mid, i / to.rank * loaded + i % to.rank);
    (mid.rank == 2 ? to.mid : to.midDiagonal) = values;
  }
  const auto widen = [&](Input input, size_t at, int64_t count, const float*& values) {
    if (!call.inputs[input].present()) return;
    float* into = reinterpret_cast<float*>(memory + at);
    for (int64_t i = 0; i < count; ++i) into[i] = elementOf(call.inputs[input], i);
    values = into;
  };
  widen(kRankBias, rankBias, to.rank, to.rankBias);
  widen(kBaseScale, baseScale, bank.out, to.baseScale);
  widen(kOutBias, outBias, bank.out, to.outBias);
  return stored;
}

void planLoad(Call& call) {
  planAny(call);
  setOutput(call, 0, {1}, DType::I32);
}

void runLoad(const Call& call) { call.outputs[0].as<int32_t>()[0] = call.bank->add(store(call)); }

int32_t idOf(const Call& call) {
  const int64_t id = call.integer(kId, -1);
  return id >= 0 && id <= INT32_MAX ? static_cast<int32_t>(id) : -1;
}

[[noreturn]] void failUnknown(const Call& call) {
  fail(ErrorKind::Range, "id: expected one of a loaded adapter, got %lld",
       static_cast<long long>(call.integer(kId, -1)));
}

void planReplace(Call& call) {
  planAny(call);
  if (!call.bank->find(idOf(call))) failUnknown(call);
}

void runReplace(const Call& call) {
  if (!call.bank->replace(idOf(call), store(call))) failUnknown(call);
}

constexpr InputSpec kInputs[] = {{"a", true, kFloats | kI32},   {"b", true, kFloats | kI32},
                                 {"mid", false, kFloats},       {"rankBias", false, kFloats},
                                 {"baseScale", false, kFloats}, {"outBias", false, kFloats}};
constexpr OptionSpec kReplaceOptions[] = {{"scale", OptionKind::Number},
                                          {"act", OptionKind::Choice, "none|relu|gelu|silu|topK"},
                                          {"act.topK", OptionKind::Integer},
                                          {"rank", OptionKind::Integer},
                                          {"id", OptionKind::Integer}};
constexpr std::span<const OptionSpec> kLoadOptions = std::span(kReplaceOptions).first<kId>();
constexpr OutputSpec kLoadOutputs[] = {{"id", false}};

}  // namespace

extern const OpSpec loadAdapterOp, replaceAdapterOp;
const OpSpec loadAdapterOp{.name = "AdapterBank.load",
                           .inputs = kInputs,
                           .options = kLoadOptions,
                           .outputs = kLoadOutputs,
                           .plan = planLoad,
                           .run = runLoad,
                           .takesBank = true,
                           .fillsBank = true,
                           .wrapped = true};
const OpSpec replaceAdapterOp{.name = "AdapterBank.replace",
                              .inputs = kInputs,
                              .options = kReplaceOptions,
                              .outputs = {},
                              .plan = planReplace,
                              .run = runReplace,
                              .takesBank = true,
                              .fillsBank = true,
                              .wrapped = true};

}  // namespace rankone

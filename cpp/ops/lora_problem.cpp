#include "ops/lora_problem.h"

#include <algorithm>
#include <unordered_map>

#include "core/cpu.h"
#include "core/philox.h"
#include "core/widen.h"
#include "ops/shapes.h"

namespace rankone::lora {
namespace {

enum Compute { kF32Compute, kBf16, kInt8 };
enum Kind { kOne, kSegments, kTokens, kTopK };

// Sizes of the product: the rules that tie x, base and bank together.
void bindSizes(const Call& call, Problem& p) {
  const Tensor& x = call.inputs[kX];
  expectMinRank(call, kX, 1, "[...,in]");
  p.in = x.shape[x.rank - 1];
  p.rows = outerSize(x, 1);
  if (!call.base && !call.identity && !call.bank)
    fail(ErrorKind::Type, "base: expected a packed weight, 'identity' or, with a bank, null, got none");
  const int64_t in = call.base ? call.base->in() : call.bank ? call.bank->in : p.in;
  p.out = call.base ? call.base->out() : call.bank ? call.bank->out : p.in;
  if (p.in != in)
    fail(ErrorKind::Range, "x: expected shape [...,in] with in = %lld as in %s, got %s", static_cast<long long>(in),
         call.base ? "base" : "bank", x.shapeText().c_str());
  if (call.bank && (call.bank->in != in || call.bank->out != p.out))
    fail(ErrorKind::Range, "bank: expected [out,in] = [%lld,%lld] as in base, got [%lld,%lld]",
         static_cast<long long>(p.out), static_cast<long long>(in), static_cast<long long>(call.bank->out),
         static_cast<long long>(call.bank->in));
  if (call.identity && p.out != in)
    fail(ErrorKind::Range, "base: expected a packed weight or null where in = %lld and out = %lld, got 'identity'",
         static_cast<long long>(in), static_cast<long long>(p.out));
}

// Codes times codes need a base of codes.
void expectInt8(const Call& call) {
  if (call.integer(kCompute, 0) != kInt8) return;
  if (call.device)
    fail(ErrorKind::Range, "compute: expected 'f32' or 'bf16' on %s, got 'int8'", call.device->name().c_str());
  if (!call.base || call.base->panels().format != PanelFormat::Int8)
    fail(ErrorKind::Range, "compute: expected 'f32' or 'bf16' unless base has format 'int8', got 'int8'");
  constexpr int64_t most = int64_t{1} << 17;  // 127 * 128 times as many is less than 2^31
  if (call.base->in() > most)
    fail(ErrorKind::Range, "compute: expected 'f32' or 'bf16' where in = %lld is more than %lld, got 'int8'",
         static_cast<long long>(call.base->in()), static_cast<long long>(most));
  if (!hasInt8Dot())
    fail(ErrorKind::Range, "compute: expected 'f32' on this instruction set (%s), got 'int8'", isaName(activeIsa()));
}

void expectSeeded(const Call& call, int p, int seed) {
  if (!call.options[p].given && !call.options[seed].given) return;
  expectGiven(call, p, "a number");
  expectGiven(call, seed, "an integer");
  const double chance = call.options[p].value, s = call.options[seed].value;
  if (!(chance >= 0 && chance < 1))
    fail(ErrorKind::Range, "%s: expected a number from 0 to less than 1, got %g",
         argumentName(call.spec->options[p]).c_str(), chance);
  if (!(s >= 0 && s <= 9007199254740991.0) || s != std::floor(s))
    fail(ErrorKind::Range, "%s: expected an integer from 0 to 2^53 - 1, got %g",
         argumentName(call.spec->options[seed]).c_str(), s);
}

// The parts of `routing` that a kind has: all of them, and no others.
void expectParts(const Call& call, Kind kind) {
  static const char* const names[] = {"one", "segments", "tokens", "topK"};
  const auto part = [&](bool given, bool wanted, const std::string& name, const char* what) {
    if (wanted && !given) fail(ErrorKind::Type, "%s: expected %s, got undefined", name.c_str(), what);
    if (!wanted && given) fail(ErrorKind::Type, "%s: expected none with kind '%s', got one", name.c_str(), names[kind]);
  };
  const auto option = [&](int i, bool wanted) {
    part(call.options[i].given, wanted, argumentName(call.spec->options[i]), "an integer");
  };
  const auto input = [&](int i, bool wanted, const char* what) {
    part(call.inputs[i].present(), wanted, argumentName(call.spec->inputs[i]), what);
  };
  option(kId, kind == kOne);
  option(kK, kind == kTopK);
  input(kIds, kind != kOne, "an Int32Array");
  input(kIndptr, kind == kSegments, "an Int32Array or a BigInt64Array");
  input(kGates, kind == kTopK, "a tensor {data, shape}");
}

void expectLength(const Call& call, int input, int64_t length, const char* pattern) {
  if (call.inputs[input].size() != length)
    fail(ErrorKind::Range, "%s: expected %s = %lld numbers, got %lld", argumentName(call.spec->inputs[input]).c_str(),
         pattern, static_cast<long long>(length), static_cast<long long>(call.inputs[input].size()));
}

// The adapters that a call names, each under one number.
class Named {
 public:
  Named(const AdapterBank& bank, Problem& p) : bank_(bank), p_(p) {}

  // The number of an id, -1 for id -1. `at`: its place in the ids, -1 where it is the only one.
  int32_t number(int64_t id, int64_t at) {
    if (id == last_) return lastNumber_;
    int32_t n = -1;
    if (id != -1) {
      const auto [found, isNew] = numbers_.try_emplace(id, static_cast<int32_t>(p_.ids.size()));
      if (isNew) {
        auto adapter = id >= 0 && id <= INT32_MAX ? bank_.find(static_cast<int32_t>(id)) : nullptr;
        if (!adapter) failUnknown(id, at);
        p_.ids.push_back(static_cast<int32_t>(id));
        p_.held.push_back(std::move(adapter));
      }
      n = found->second;
    }
    last_ = id;
    return lastNumber_ = n;
  }

 private:
  [[noreturn]] void failUnknown(int64_t id, int64_t at) {
    const std::string where = at < 0 ? "" : " at " + std::to_string(at);
    fail(ErrorKind::Range, "routing.%s: expected -1 or the id of a loaded adapter, got %lld%s", at < 0 ? "id" : "ids",
         static_cast<long long>(id), where.c_str());
  }

  const AdapterBank& bank_;
  Problem& p_;
  std::unordered_map<int64_t, int32_t> numbers_;
  int64_t last_ = -1;
  int32_t lastNumber_ = -1;
};

void routeSegments(const Call& call, Problem& p, Named& named) {
  const Tensor& ids = call.inputs[kIds];
  const IndexView starts(call.inputs[kIndptr]);
  const int64_t segments = ids.size();
  expectLength(call, kIndptr, segments + 1, "one more than ids");
  for (int64_t s = 0; s <= segments; ++s)
    if (starts[s] < (s ? starts[s - 1] : 0) || starts[s] > p.rows || (s == 0 && starts[s] != 0))
      fail(ErrorKind::Range, "routing.indptr: expected offsets from 0 to M = %lld, not descending, got %lld at %lld",
           static_cast<long long>(p.rows), static_cast<long long>(starts[s]), static_cast<long long>(s));
  if (starts[segments] != p.rows)
    fail(ErrorKind::Range, "routing.indptr: expected offsets that end at M = %lld, got %lld",
         static_cast<long long>(p.rows), static_cast<long long>(starts[segments]));
  for (int64_t s = 0; s < segments; ++s) {
    const int32_t number = named.number(ids.as<int32_t>()[s], s);
    std::fill(p.slots.begin() + starts[s], p.slots.begin() + starts[s + 1], number);
  }
}

void expectGates(const Call& call, const Problem& p) {
  const Tensor& gates = call.inputs[kGates];
  const bool flat = gates.rank == 2 && gates.shape[0] == p.rows && gates.shape[1] == p.perRow;
  if (!flat && !gates.sameShape(outerShape(call, p.perRow)))
    fail(ErrorKind::Range, "routing.gates: expected shape [M,k] = [%lld,%lld], got %s", static_cast<long long>(p.rows),
         static_cast<long long>(p.perRow), gates.shapeText().c_str());
}

void route(const Call& call, Problem& p) {
  const Kind kind = static_cast<Kind>(call.integer(kKind, 0));
  expectParts(call, kind);
  if (kind == kTopK) {
    expectInteger(call, kK, 1, int64_t{1} << 24);
    p.perRow = call.integer(kK, 1);
    expectGates(call, p);
  }
  if (kind == kTokens || kind == kTopK) expectLength(call, kIds, p.rows * p.perRow, kind == kTokens ? "[M]" : "[M*k]");
  p.slots.assign(static_cast<size_t>(p.rows * p.perRow), -1);
  Named named(*call.bank, p);
  if (kind == kOne) {
    std::fill(p.slots.begin(), p.slots.end(), named.number(call.integer(kId, -1), -1));
  } else if (kind == kSegments) {
    routeSegments(call, p, named);
  } else {
    const int32_t* ids = call.inputs[kIds].as<int32_t>();
    for (size_t i = 0; i < p.slots.size(); ++i) p.slots[i] = named.number(ids[i], static_cast<int64_t>(i));
  }
}

// Adapters in ascending order of their ids, with those that `skip` leaves out in no slot.
void order(const Call& call, Problem& p) {
  const size_t count = p.ids.size();
  std::vector<int32_t> byId(count), place(count);
  for (size_t i = 0; i < count; ++i) byId[i] = static_cast<int32_t>(i);
  std::sort(byId.begin(), byId.end(), [&](int32_t a, int32_t b) { return p.ids[a] < p.ids[b]; });
  std::vector<int32_t> ids(count);
  std::vector<std::shared_ptr<const StoredAdapter>> held(count);
  const double below = call.number(kSkipP, 0) * 0x1p32;
  const uint64_t key = static_cast<uint64_t>(call.number(kSkipSeed, 0));
  for (size_t i = 0; i < count; ++i) {
    ids[i] = p.ids[byId[i]];
    held[i] = std::move(p.held[byId[i]]);
    const bool skipped = philox4x32({static_cast<uint32_t>(ids[i]), 0, 0, 1}, key)[0] < below;
    place[byId[i]] = skipped ? -1 : static_cast<int32_t>(i);
  }
  p.ids = std::move(ids);
  p.held = std::move(held);
  for (int32_t& slot : p.slots)
    if (slot >= 0) slot = place[slot];
  for (size_t i = 0; i < count; ++i) {
    const LoraAdapter& adapter = p.held[i]->adapter;
    p.adapters.push_back(&adapter);
    p.maxRank = std::max(p.maxRank, adapter.rank);
    if (adapter.baseScale && p.perRow > 1)
      fail(ErrorKind::Range,
           "routing.ids: expected adapters without baseScale where rows have k = %lld of them, got adapter %d",
           static_cast<long long>(p.perRow), p.ids[i]);
  }
}

}  // namespace

const Problem& plan(Call& call) {
  expectInputs(call);
  expectCompute(call, kCompute);
  expectInt8(call);
  expectSeeded(call, kDropoutP, kDropoutSeed);
  expectSeeded(call, kSkipP, kSkipSeed);
  auto p = std::make_shared<Problem>();
  bindSizes(call, *p);
  expectDType(call, kBias, kX, true);
  if (call.inputs[kBias].present()) expectShape(call, kBias, {p->out}, "[out]");
  p->routed = call.options[kKind].given;
  const bool parts = call.options[kId].given || call.options[kK].given || call.inputs[kIds].present() ||
                     call.inputs[kIndptr].present() || call.inputs[kGates].present();
  if (!p->routed && (parts || call.bank))
    fail(ErrorKind::Type, "%s: expected %s, got undefined", parts ? "routing.kind" : "routing",
         parts ? "'one', 'segments', 'tokens' or 'topK'" : "which of the bank's adapters each row has");
  if (p->routed && !call.bank) fail(ErrorKind::Type, "bank: expected one, as there is a routing, got undefined");
  if (p->routed) {
    route(call, *p);
    order(call, *p);
  }
  const Problem& result = *p;
  call.planned = std::move(p);
  return result;
}

LoraArgs arguments(const Call& call, std::vector<float>& gates) {
  const Problem& p = problemOf(call);
  LoraArgs args;
  args.x = call.inputs[kX].data;
  args.dtype = call.inputs[kX].dtype;
  args.rows = p.rows;
  args.in = p.in;
  args.out = p.out;
  args.base = call.base ? &call.base->panels() : nullptr;
  args.identity = call.identity;
  args.bias = FloatView(call.inputs[kBias]);
  if (!p.adapters.empty()) {
    args.adapters = p.adapters.data();
    args.slots = p.slots.data();
  }
  args.perRow = p.perRow;
  if (const Tensor& given = call.inputs[kGates]; given.present()) {
    if (given.dtype != DType::F32) {
      gates.resize(static_cast<size_t>(given.size()));
      for (size_t i = 0; i < gates.size(); ++i) gates[i] = elementOf(given, static_cast<int64_t>(i));
    }
    args.gates = given.dtype == DType::F32 ? given.f32() : gates.data();
  }
  args.dropout = call.number(kDropoutP, 0);
  args.seed = static_cast<uint64_t>(call.number(kDropoutSeed, 0));
  args.bf16 = call.integer(kCompute, 0) == kBf16;
  args.int8 = call.integer(kCompute, 0) == kInt8;
  args.cancel = call.cancel;
  return args;
}

Tensor outerShape(const Call& call, int64_t last) {
  Tensor t = call.inputs[kX];
  t.data = nullptr;
  t.shape[t.rank - 1] = last;
  return t;
}

}  // namespace rankone::lora

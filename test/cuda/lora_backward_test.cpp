// Gradients of the fused LoRA product on CUDA: against float64; and what their bits depend on.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>

#include "harness.h"
#include "lora_reference.h"

namespace rankone::test {
namespace {

constexpr const char* kFormats[] = {"f32", "bf16", "f16", "int8", "q8", "nf4", "q4", "identity", "none"};
constexpr int64_t kSpareRanks = 3;  // columns of the caller's B and M beyond those in use

DType dtypeOf(int32_t dtype) {
  return dtype == RANKONE_F32 ? DType::F32 : dtype == RANKONE_BF16 ? DType::BF16 : DType::F16;
}

// Copies of what a problem points to.
class Uploads {
 public:
  explicit Uploads(Device& device) : device_(device) {}
  Upload upload() {
    return [this](const void* from, size_t bytes) -> const void* {
      Array words({static_cast<int64_t>((bytes + 3) / 4)}, Values((bytes + 3) / 4));
      std::memcpy(words.tensor().data, from, bytes);
      arrays_.push_back(std::make_unique<DeviceArray>(device_, words));
      return arrays_.back()->data();
    };
  }

 private:
  Device& device_;
  std::vector<std::unique_ptr<DeviceArray>> arrays_;
};

// Which gradients are asked for.
struct Wanted {
  bool dx = true, dGates = true, dBias = true;
  bool a = true, b = true, mid = true, rankBias = true, scale = true, baseScale = true, outBias = true;
  bool adapters() const { return a || b || mid || rankBias || scale || baseScale || outBias; }
};

struct Results {
  Array dx, dGates, dBias;
  struct Adapter {
    Array a, b, mid, rankBias, scale, baseScale, outBias;
  };
  std::vector<Adapter> adapters;
};

struct Call {
  int32_t dxDType = RANKONE_F32;
  bool givesT = false;
  Wanted wanted;
};

Results runBackward(Device& device, HostLora& p, const Call& call) {
  Uploads uploads(device);
  const Upload upload = uploads.upload();
  RankoneLoraBackward args{};
  args.problem = p.upload(upload);
  args.dY = {p.dY.bytes.empty() ? nullptr : upload(p.dY.bytes.data(), p.dY.bytes.size()), p.dY.dtype};
  const int64_t tRanks = p.mostRank() + 1;
  if (call.givesT && !p.slots.empty()) {
    const Values t = loraReference(p, tRanks).t;
    const std::vector<float> narrow(t.begin(), t.end());
    args.problem.t = static_cast<float*>(const_cast<void*>(upload(narrow.data(), narrow.size() * sizeof(float))));
    args.problem.tRanks = tRanks;
  }
  std::vector<std::pair<DeviceArray, Array*>> outputs;
  const auto output = [&](bool wanted, const Shape& shape, int32_t dtype, Array& to) -> void* {
    if (!wanted) return nullptr;
    outputs.emplace_back(DeviceArray(device, shape, dtypeOf(dtype)), &to);
    return outputs.back().first.data();
  };
  Results r;
  r.adapters.resize(p.adapters.size());
  args.dx = output(call.wanted.dx, {p.rows, p.in}, call.dxDType, r.dx);
  args.dxDType = call.dxDType;
  const auto floats = [&](bool wanted, const Shape& shape, Array& to) {
    return static_cast<float*>(output(wanted, shape, RANKONE_F32, to));
  };
  args.dGates = floats(call.wanted.dGates && !p.slots.empty(), {p.rows, p.perRow}, r.dGates);
  args.dBias = floats(call.wanted.dBias, {p.out}, r.dBias);
  std::vector<RankoneAdapterGradient> gradients;
  for (size_t e = 0; e < p.adapters.size(); ++e) {
    const HostAdapter& s = p.adapters[e];
    Results::Adapter& a = r.adapters[e];
    RankoneAdapterGradient g{};
    g.bRanks = s.midRank + kSpareRanks;
    g.midRanks = s.rank + kSpareRanks;
    g.a = floats(call.wanted.a && s.aIndex.empty(), {s.rank, p.in}, a.a);
    g.b = floats(call.wanted.b && s.bIndex.empty(), {p.out, g.bRanks}, a.b);
    if (!s.mid.empty())
      g.mid = floats(call.wanted.mid, {s.midRank, g.midRanks}, a.mid);
    else
      g.mid = floats(call.wanted.mid && !s.midDiagonal.empty(), {s.rank}, a.mid);
    g.rankBias = floats(call.wanted.rankBias && !s.rankBias.empty(), {s.rank}, a.rankBias);
    g.scale = floats(call.wanted.scale, {1}, a.scale);
    g.baseScale = floats(call.wanted.baseScale && !s.baseScale.empty(), {p.out}, a.baseScale);
    g.outBias = floats(call.wanted.outBias && !s.outBias.empty(), {p.out}, a.outBias);
    gradients.push_back(g);
  }
  if (call.wanted.adapters() && !gradients.empty()) args.adapters = gradients.data();
  device.loraBackward(args);
  for (auto& [from, to] : outputs) *to = from.host();
  return r;
}

// visit(name, array of a, array of b, adapter or -1)
template <class R, class Visit>
void forEach(R& a, R& b, Visit&& visit) {
  visit("dx", a.dx, b.dx, -1);
  visit("dGates", a.dGates, b.dGates, -1);
  visit("dBias", a.dBias, b.dBias, -1);
  for (size_t e = 0; e < a.adapters.size(); ++e) {
    auto &x = a.adapters[e], &y = b.adapters[e];
    const int at = static_cast<int>(e);
    visit("dA", x.a, y.a, at);
    visit("dB", x.b, y.b, at);
    visit("dM", x.mid, y.mid, at);
    visit("dRankBias", x.rankBias, y.rankBias, at);
    visit("dScale", x.scale, y.scale, at);
    visit("dBaseScale", x.baseScale, y.baseScale, at);
    visit("dOutBias", x.outBias, y.outBias, at);
  }
}

// The reference, and what it gives when all that products multiply is moved by a part of itself.
struct Expected {
  LoraReference f;
  std::vector<LoraReference> moved;
  double limit, half;  // of a tensor's largest element; what rounding to 16 bits adds
};

Expected expectedOf(const HostLora& p, bool exact) {
  const int64_t ranks = p.mostRank();
  Expected e{loraReference(p, ranks), {}, exact ? 2e-6 : 6e-3, 5e-3};
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    LoraRandom random(seed);
    HostLora q = p;
    const auto move = [&](Values& values) {
      for (double& x : values) x *= 1 + (exact ? 0x1p-22 : 0x1p-9) * random.normal();
    };
    move(q.dY.values);
    move(q.x.values);
    move(q.base.values);
    for (HostAdapter& a : q.adapters) {
      move(a.a.values);
      move(a.b.values);
    }
    e.moved.push_back(loraReference(q, ranks));
  }
  return e;
}

// Every element within the limit and a few times what moving does to the tensor. `columns`: of the reference, the
// others being zero.
template <class Of>
void expectClose(const HostLora& p, const Expected& e, const std::string& name, const Array& got, Of&& of,
                 int64_t columns = 0) {
  if (!got.present()) return;
  const Values expected = of(e.f);
  double most = 0, noise = 0;
  for (double x : expected) most = std::max(most, std::fabs(x));
  for (const LoraReference& f : e.moved) {
    const Values moved = of(f);
    for (size_t i = 0; i < expected.size(); ++i) noise = std::max(noise, std::fabs(moved[i] - expected[i]));
  }
  const double limit = (e.limit + (got.tensor().dtype == DType::F32 ? 0 : e.half)) * most + 8 * noise;
  const int64_t ld = columns ? columns + kSpareRanks : 0;
  for (int64_t i = 0; i < got.size(); ++i) {
    double want = 0;
    if (!columns)
      want = expected[i];
    else if (i % ld < columns)
      want = expected[i / ld * columns + i % ld];
    check(std::fabs(got.at(i) - want) <= limit, "%s: %s[%d] is %.9g, expected %.9g (largest %g, limit %g)",
          p.label.c_str(), name.c_str(), static_cast<int>(i), got.at(i), want, most, limit);
  }
}

void expectReference(const HostLora& p, const Results& r, const Expected& e) {
  using F = const LoraReference&;
  expectClose(p, e, "dx", r.dx, [](F f) -> const Values& { return f.dx; });
  expectClose(p, e, "dBias", r.dBias, [](F f) -> const Values& { return f.dBias; });
  expectClose(p, e, "dGates", r.dGates, [](F f) -> const Values& { return f.dGates; });
  for (size_t k = 0; k < p.adapters.size(); ++k) {
    const Results::Adapter& got = r.adapters[k];
    const HostAdapter& s = p.adapters[k];
    const std::string of = " of adapter " + std::to_string(k);
    const auto expect = [&](const char* name, const Array& a, Values LoraAdapterGradients::*member, int64_t columns) {
      expectClose(
          p, e, name + of, a, [&](F f) -> const Values& { return f.adapters[k].*member; }, columns);
    };
    using A = LoraAdapterGradients;
    expect("dA", got.a, &A::a, 0);
    expect("dB", got.b, &A::b, s.midRank);
    expect("dM", got.mid, &A::mid, s.mid.empty() ? 0 : s.rank);
    expect("dRankBias", got.rankBias, &A::rankBias, 0);
    expectClose(p, e, "dScale" + of, got.scale, [&](F f) { return Values{f.adapters[k].scale}; });
    expect("dBaseScale", got.baseScale, &A::baseScale, 0);
    expect("dOutBias", got.outBias, &A::outBias, 0);
  }
}

void expectSame(const HostLora& p, const char* why, const Results& a, const Results& b) {
  forEach(a, b, [&](const char* name, const Array& x, const Array& y, int e) {
    if (x.present() && y.present())
      check(x.sameBits(y), "%s: %s of adapter %d has other bits %s", p.label.c_str(), name, e, why);
  });
}

bool exactOf(const HostLora& p) {
  return p.compute == RANKONE_COMPUTE_F32 || (p.compute == RANKONE_COMPUTE_DEFAULT && p.x.dtype == RANKONE_F32);
}

LoraDraw drawShape(LoraRandom& random, int32_t base) {
  constexpr int64_t kSizes[] = {1, 2, 3, 5, 8, 13, 16, 17, 31, 32, 33, 40, 47, 64, 70, 96, 129, 140};
  constexpr int64_t kRanks[] = {1, 3, 8, 20, 40, 70};
  LoraDraw d{};
  d.rows = random.uniform() < 0.2 ? 1 + random.below(5) : 1 + random.below(60);
  d.in = kSizes[random.below(18)];
  d.out = kSizes[random.below(18)];
  d.base = base;
  d.routing = static_cast<LoraRouting>(random.below(5));
  d.perRow = d.routing == LoraRouting::TOP_K ? 1 + random.below(3) : 1;
  d.adapters = 1 + random.below(5);
  d.mostRank = kRanks[random.below(6)];
  d.dtype = static_cast<int32_t>(random.below(3));
  d.dropout = random.uniform() < 0.3 ? 0.3 : 0;
  d.pieces = random.uniform() < 0.8;
  return d;
}

void testBackward(const LoraDraw& d, uint64_t seed, int32_t compute) {
  Device device;
  HostLora p = drawLora(d, seed);
  p.compute = compute;
  Call call;
  call.dxDType = seed % 2 ? RANKONE_F32 : d.dtype;
  call.givesT = seed % 3 == 0;
  const Results r = runBackward(device, p, call);
  expectReference(p, r, expectedOf(p, exactOf(p)));
  expectSame(p, "the second time", r, runBackward(device, p, call));
}

const bool added = [] {
  for (int32_t base = 0; base <= kNoBase; ++base)
    addTest(std::string("lora backward: base ") + kFormats[base], [=] {
      LoraRandom random(77 + base);
      for (int i = 0; i < (quick() ? 4 : 12); ++i) {
        LoraDraw d = drawShape(random, base);
        d.dtype = i % 3;
        constexpr int32_t kComputes[] = {RANKONE_COMPUTE_DEFAULT, RANKONE_COMPUTE_F32, RANKONE_COMPUTE_BF16};
        testBackward(d, static_cast<uint64_t>(1000 * base + i), i % 4 == 3 ? kComputes[1 + i / 4 % 2] : 0);
      }
    });
  return true;
}();

// Several tiles, chains of sums over the depth and over rows, and ranks of more than one tile.
TEST("lora backward: many tiles") {
  for (int32_t dtype : {RANKONE_F32, RANKONE_BF16}) {
    testBackward({600, 5, 7, RANKONE_WEIGHT_F32, LoraRouting::TOKENS, 1, 2, 5, dtype, 0.2, true}, 9001, 0);
    testBackward({3, 1030, 20, RANKONE_WEIGHT_BF16, LoraRouting::SEGMENTS, 1, 2, 9, dtype, 0, true}, 9002, 0);
    testBackward({3, 24, 1100, RANKONE_WEIGHT_BF16, LoraRouting::ONE, 1, 1, 9, dtype, 0, true}, 9005, 0);
    testBackward({140, 260, 137, RANKONE_WEIGHT_Q8, LoraRouting::TOP_K, 3, 3, 20, dtype, 0.3, true}, 9003, 0);
    testBackward({5, 40, 24, RANKONE_WEIGHT_NF4, LoraRouting::ONE, 1, 1, 600, dtype, 0, true, -1, 560}, 9004, 0);
  }
}

TEST("lora backward: sizes of zero") {
  for (int32_t dtype : {RANKONE_F32, RANKONE_BF16}) {
    testBackward({0, 8, 9, RANKONE_WEIGHT_F32, LoraRouting::TOKENS, 1, 2, 5, dtype, 0, false}, 9011, 0);
    testBackward({5, 8, 0, RANKONE_WEIGHT_F32, LoraRouting::TOKENS, 1, 2, 5, dtype, 0, false}, 9012, 0);
  }
}

// Draws for what bits depend on: no dropout, whose mask goes by the row's number.
HostLora drawBits(LoraRandom& random, int i) {
  LoraDraw d = drawShape(random, i % 9);
  d.rows = 20 + random.below(20);
  d.routing = i % 2 ? LoraRouting::TOKENS : LoraRouting::TOP_K;
  d.perRow = i % 2 ? 1 : 2;
  d.dtype = i % 3;
  d.dropout = 0;
  return drawLora(d, 5000 + static_cast<uint64_t>(i));
}

Array rowsOf(const Array& a, const std::vector<int64_t>& rows) {
  const int64_t n = a.shape()[1];
  Array to({static_cast<int64_t>(rows.size()), n}, a.tensor().dtype);
  for (size_t i = 0; i < rows.size(); ++i)
    for (int64_t k = 0; k < n; ++k) to.set(static_cast<int64_t>(i) * n + k, a.at(rows[i] * n + k));
  return to;
}

TEST("lora backward: a row's dx and dGates are those that it has alone") {
  Device device;
  LoraRandom random(5);
  for (int i = 0; i < (quick() ? 6 : 18); ++i) {
    HostLora p = drawBits(random, i);
    const Results all = runBackward(device, p, {});
    for (int64_t m = 0; m < p.rows; m += 1 + p.rows / 3) {
      HostLora one = p.rowsOnly({m});
      const Results alone = runBackward(device, one, {});
      check(alone.dx.sameBits(rowsOf(all.dx, {m})), "%s: dx of row %d", p.label.c_str(), static_cast<int>(m));
      check(alone.dGates.sameBits(rowsOf(all.dGates, {m})), "%s: dGates of row %d", p.label.c_str(),
            static_cast<int>(m));
    }
  }
}

TEST("lora backward: an adapter's gradients are those of its own rows") {
  Device device;
  LoraRandom random(6);
  for (int i = 0; i < (quick() ? 6 : 18); ++i) {
    HostLora p = drawBits(random, i);
    const Results all = runBackward(device, p, {});
    for (size_t e = 0; e < p.adapters.size(); e += 2) {
      std::vector<int64_t> rows;
      for (int64_t m = 0; m < p.rows; ++m)
        if (std::count(&p.slots[m * p.perRow], &p.slots[m * p.perRow] + p.perRow, static_cast<int32_t>(e)))
          rows.push_back(m);
      HostLora some = p.rowsOnly(rows);
      if (rows.empty()) continue;
      const Results own = runBackward(device, some, {});
      forEach(all, own, [&](const char* name, const Array& x, const Array& y, int adapter) {
        if (adapter == static_cast<int>(e) && x.present())
          check(x.sameBits(y), "%s: %s of adapter %d", p.label.c_str(), name, adapter);
      });
    }
  }
}

TEST("lora backward: each gradient by itself") {
  Device device;
  LoraRandom random(7);
  for (int i = 0; i < (quick() ? 2 : 6); ++i) {
    HostLora p = drawBits(random, i);
    const Results all = runBackward(device, p, {});
    for (bool Wanted::*only : {&Wanted::dx, &Wanted::dGates, &Wanted::dBias, &Wanted::a, &Wanted::b, &Wanted::mid,
                               &Wanted::rankBias, &Wanted::scale, &Wanted::baseScale, &Wanted::outBias}) {
      Call call;
      call.wanted = {false, false, false, false, false, false, false, false, false, false};
      call.wanted.*only = true;
      expectSame(p, "by itself", all, runBackward(device, p, call));
    }
  }
}

// What is no number, in a row or in an adapter, reaches nobody else's results.
TEST("lora backward: NaN stays with its row and its adapter") {
  Device device;
  LoraRandom random(8);
  for (int i = 0; i < (quick() ? 6 : 18); ++i) {
    HostLora p = drawBits(random, i);
    const Results all = runBackward(device, p, {});
    const int64_t m = random.below(p.rows);
    const auto uses = [&](int64_t row, int32_t e) {
      return std::count(&p.slots[row * p.perRow], &p.slots[row * p.perRow] + p.perRow, e) > 0;
    };
    HostLora q = p;
    const auto spoil = [](HostFloats& f, int64_t first, int64_t count) {
      std::memset(&f.bytes[first * floatSize(f.dtype)], 0xff, count * floatSize(f.dtype));
    };
    spoil(q.x, m * p.in, p.in);
    spoil(q.dY, m * p.out, p.out);
    int32_t spoiled = -1;
    for (size_t e = 0; e < p.adapters.size() && spoiled < 0; ++e)
      if (p.adapters[e].aIndex.empty()) spoiled = static_cast<int32_t>(e);
    if (spoiled >= 0)
      spoil(q.adapters[spoiled].a, 0,
            static_cast<int64_t>(q.adapters[spoiled].a.bytes.size()) / floatSize(q.adapters[spoiled].a.dtype));
    const Results some = runBackward(device, q, {});
    std::vector<int64_t> others;
    for (int64_t row = 0; row < p.rows; ++row)
      if (row != m && !(spoiled >= 0 && uses(row, spoiled))) others.push_back(row);
    check(rowsOf(all.dx, others).sameBits(rowsOf(some.dx, others)), "%s: dx of other rows", p.label.c_str());
    check(std::isnan(some.dx.at(m * p.in)) || (!p.hasBase && !p.identity), "%s: dx of the row", p.label.c_str());
    forEach(all, some, [&](const char* name, const Array& x, const Array& y, int e) {
      if (e >= 0 && e != spoiled && !uses(m, e) && x.present())
        check(x.sameBits(y), "%s: %s of adapter %d", p.label.c_str(), name, e);
    });
  }
}

}  // namespace
}  // namespace rankone::test

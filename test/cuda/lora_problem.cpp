// Problems of the fused LoRA product for tests: see lora_reference.h.
#include <algorithm>
#include <cstdio>
#include <cstring>

#include "lora_reference.h"
#include "simt/arithmetic.h"

namespace rankone::test {

Values LoraRandom::normals(int64_t count, double size, double offset) {
  Values v(count);
  for (double& x : v) x = offset + size * normal();
  return v;
}

namespace {

constexpr float kNf4[16] = {-1.0f,
                            -0.6961928009986877f,
                            -0.5250730514526367f,
                            -0.39491748809814453f,
                            -0.28444138169288635f,
                            -0.18477343022823334f,
                            -0.09105003625154495f,
                            0.0f,
                            0.07958029955625534f,
                            0.16093020141124725f,
                            0.24611230194568634f,
                            0.33791524171829224f,
                            0.44070982933044434f,
                            0.5626170039176941f,
                            0.7229568362236023f,
                            1.0f};

uint32_t bitsOf(int32_t dtype, double value) {
  const float x = static_cast<float>(value);
  return dtype == RANKONE_F32 ? simt::f32_bits(x) : dtype == RANKONE_BF16 ? simt::f32_to_bf16(x) : simt::f32_to_f16(x);
}

std::vector<float> narrow(const Values& v) { return {v.begin(), v.end()}; }

}  // namespace

Values valuesOf(int32_t dtype, const void* data, int64_t count) {
  Values v(count);
  const auto* bytes = static_cast<const uint8_t*>(data);
  for (int64_t i = 0; i < count; ++i) {
    uint32_t bits = 0;
    std::memcpy(&bits, bytes + i * floatSize(dtype), floatSize(dtype));
    v[i] = dtype == RANKONE_F32    ? simt::f32_from_bits(bits)
           : dtype == RANKONE_BF16 ? simt::bf16_to_f32(static_cast<uint16_t>(bits))
                                   : simt::f16_to_f32(static_cast<uint16_t>(bits));
  }
  return v;
}

HostFloats::HostFloats(int32_t dtype, const Values& values)
    : HostFloats(dtype, values, std::max<int64_t>(1, values.size()), std::max<int64_t>(1, values.size())) {}

HostFloats::HostFloats(int32_t dtype, const Values& from, int64_t columns, int64_t stride) : dtype(dtype) {
  const int64_t rows = static_cast<int64_t>(from.size()) / columns, size = floatSize(dtype);
  const uint32_t nan = bitsOf(dtype, NAN);
  bytes.resize(std::max<int64_t>(1, rows * stride * size));
  values.resize(from.size());
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < stride; ++c) {
      const uint32_t bits = c < columns ? bitsOf(dtype, from[r * columns + c]) : nan;
      std::memcpy(&bytes[(r * stride + c) * size], &bits, size);
      if (c < columns) values[r * columns + c] = valuesOf(dtype, &bytes[(r * stride + c) * size], 1)[0];
    }
}

HostWeight drawWeight(LoraRandom& random, int32_t format, int64_t out, int64_t in) {
  HostWeight w;
  RankoneWeight& s = w.shape;
  s = {};
  s.format = format;
  s.out = out;
  s.in = in;
  // nf4 of a depth that 8 does not divide is kept as floats
  if (format == RANKONE_WEIGHT_NF4 && in % 8) s.format = format = RANKONE_WEIGHT_F32;
  const bool halves = format == RANKONE_WEIGHT_NF4 || format == RANKONE_WEIGHT_Q4;
  const bool bytes = format == RANKONE_WEIGHT_INT8 || format == RANKONE_WEIGHT_Q8;
  const int64_t wide = format == RANKONE_WEIGHT_F32 ? 4 : bytes ? 1 : 2;
  s.rowBytes = ((halves ? (in + 1) / 2 : in * wide) + 15) / 16 * 16;
  s.block = format == RANKONE_WEIGHT_Q8 || format == RANKONE_WEIGHT_Q4 ? 32 : 0;
  if (format == RANKONE_WEIGHT_NF4)
    for (s.block = 64; in % s.block;) s.block /= 2;
  const int64_t blocks = s.block ? (in + s.block - 1) / s.block : format == RANKONE_WEIGHT_INT8 ? 1 : 0;
  const double size = 1 / std::sqrt(static_cast<double>(in));
  w.codes.resize(out * s.rowBytes);
  w.values.resize(out * in);
  for (int64_t i = 0; i < out * blocks; ++i)
    w.scales.push_back(static_cast<float>(size * (0.5 + random.uniform()) / (halves ? (s.block == 32 ? 5 : 0.6) : 70)));
  for (int64_t n = 0; n < out; ++n)
    for (int64_t k = 0; k < in; ++k) {
      uint8_t* row = &w.codes[n * s.rowBytes];
      double& value = w.values[n * in + k];
      const float scale = blocks ? w.scales[n * blocks + (s.block ? k / s.block : 0)] : 1;
      if (halves) {
        const int code = static_cast<int>(random.below(16));
        row[k / 2] = static_cast<uint8_t>(row[k / 2] | code << (k % 2 * 4));
        value = format == RANKONE_WEIGHT_NF4 ? double{kNf4[code]} * scale : double{scale} * (code - 8);
      } else if (bytes) {
        const int code = static_cast<int>(random.below(255)) - 127;
        row[k] = static_cast<uint8_t>(code);
        value = double{scale} * code;
      } else {
        const int32_t dtype = format;  // the first formats are the dtypes
        const uint32_t bits = bitsOf(dtype, size * random.normal());
        std::memcpy(row + k * wide, &bits, wide);
        value = valuesOf(dtype, row + k * wide, 1)[0];
      }
    }
  return w;
}

namespace {

HostAdapter drawAdapter(LoraRandom& random, const LoraDraw& d, bool baseScale) {
  const auto chance = [&](double p) { return d.pieces && random.uniform() < p; };
  const auto dtype = [&] { return d.adapterDType < 0 ? static_cast<int32_t>(random.below(3)) : d.adapterDType; };
  HostAdapter s;
  s.rank = d.leastRank + random.below(d.mostRank - d.leastRank + 1);
  s.midRank = s.rank;
  s.scale = static_cast<float>(0.5 + random.uniform());
  if (chance(0.35)) {
    s.midRank = d.leastRank + random.below(d.mostRank - d.leastRank + 1);
    s.mid = narrow(random.normals(s.midRank * s.rank, 1 / std::sqrt(static_cast<double>(s.rank))));
  } else if (chance(0.3)) {
    s.midDiagonal = narrow(random.normals(s.rank, 0.5, 1));
  }
  if (d.pieces) s.activation = static_cast<int32_t>(random.below(5));
  s.activeRanks = 1 + random.below(s.rank);
  if (chance(0.4)) s.rankBias = narrow(random.normals(s.rank, 0.5));
  if (chance(0.4)) s.outBias = narrow(random.normals(d.out, 0.5));
  if (baseScale && chance(0.4)) s.baseScale = narrow(random.normals(d.out, 0.3, 1));
  if (chance(0.2)) {
    for (int64_t r = 0; r < s.rank; ++r) s.aIndex.push_back(static_cast<int32_t>(random.below(d.in)));
  } else {
    s.aStride = (d.in + 7) / 8 * 8 + 8 * random.below(2);
    s.a = HostFloats(dtype(), random.normals(s.rank * d.in, 1 / std::sqrt(static_cast<double>(d.in))), d.in, s.aStride);
  }
  if (chance(0.2)) {
    for (int64_t r = 0; r < s.midRank; ++r) {
      s.bIndex.push_back(static_cast<int32_t>(random.below(d.out)));
      s.bOrder.push_back(static_cast<int32_t>(r));
    }
    std::stable_sort(s.bOrder.begin(), s.bOrder.end(), [&](int32_t i, int32_t j) { return s.bIndex[i] < s.bIndex[j]; });
  } else {
    s.bStride = (s.midRank + 7) / 8 * 8;
    s.b = HostFloats(dtype(), random.normals(d.out * s.midRank, 0.5), s.midRank, s.bStride);
  }
  return s;
}

}  // namespace

HostLora drawLora(const LoraDraw& draw, uint64_t seed) {
  constexpr const char* kFormats[] = {"f32", "bf16", "f16", "int8", "q8", "nf4", "q4", "identity", "none"};
  constexpr const char* kRoutings[] = {"none", "one", "segments", "tokens", "topK"};
  constexpr const char* kDTypes[] = {"f32", "bf16", "f16"};
  LoraRandom random(seed);
  LoraDraw d = draw;
  if (d.base == kIdentityBase) d.out = d.in;
  HostLora p;
  p.rows = d.rows;
  p.in = d.in;
  p.out = d.out;
  p.perRow = d.perRow;
  p.hasBase = d.base < kIdentityBase;
  p.identity = d.base == kIdentityBase;
  if (p.hasBase) p.base = drawWeight(random, d.base, p.out, p.in);
  if (d.routing != LoraRouting::NONE) {
    for (int64_t e = 0; e < d.adapters; ++e) p.adapters.push_back(drawAdapter(random, d, d.perRow == 1));
    p.slots.resize(p.rows * p.perRow);
    int64_t current = 0;
    for (int32_t& slot : p.slots) {
      if (d.routing == LoraRouting::SEGMENTS && random.uniform() < 0.2) current = random.below(d.adapters + 1);
      const int64_t e = d.routing == LoraRouting::ONE        ? 0
                        : d.routing == LoraRouting::SEGMENTS ? current
                                                             : random.below(d.adapters + 1);
      slot = static_cast<int32_t>(e == d.adapters ? -1 : e);
    }
    if (d.routing == LoraRouting::TOP_K)
      for (size_t i = 0; i < p.slots.size(); ++i) p.gates.push_back(static_cast<float>(random.uniform()));
  }
  if (random.uniform() < 0.5) p.bias = HostFloats(static_cast<int32_t>(random.below(3)), random.normals(p.out, 1));
  p.dropout = d.dropout;
  p.seed = random.bits() >> 11;
  p.x = HostFloats(d.dtype, random.normals(p.rows * p.in, 1));
  p.dY = HostFloats(d.dtype, random.normals(p.rows * p.out, 1));
  char label[160];
  std::snprintf(label, sizeof label, "seed %d: %s [%d, %d, %d] %s %s x%d rank %d dropout %g", static_cast<int>(seed),
                kFormats[d.base], static_cast<int>(p.rows), static_cast<int>(p.in), static_cast<int>(p.out),
                kDTypes[d.dtype], kRoutings[static_cast<int>(d.routing)], static_cast<int>(p.perRow),
                static_cast<int>(d.mostRank), d.dropout);
  p.label = label;
  return p;
}

int64_t HostLora::mostRank() const {
  int64_t most = 1;
  for (const HostAdapter& a : adapters) most = std::max(most, a.rank);
  return most;
}

RankoneLora HostLora::upload(const Upload& upload) {
  const auto floats = [&](const HostFloats& f) {
    return RankoneFloats{f.bytes.empty() ? nullptr : upload(f.bytes.data(), f.bytes.size()), f.dtype};
  };
  const auto vector = [&](const auto& v) {
    using T = typename std::decay_t<decltype(v)>::value_type;
    return v.empty() ? nullptr : static_cast<const T*>(upload(v.data(), v.size() * sizeof(T)));
  };
  table_.clear();
  for (const HostAdapter& s : adapters) {
    RankoneAdapter a{};
    a.rank = s.rank;
    a.midRank = s.midRank;
    a.scale = s.scale;
    a.a = floats(s.a);
    a.b = floats(s.b);
    a.aStride = s.aStride;
    a.bStride = s.bStride;
    a.aIndex = vector(s.aIndex);
    a.bIndex = vector(s.bIndex);
    a.bOrder = vector(s.bOrder);
    a.mid = vector(s.mid);
    a.midDiagonal = vector(s.midDiagonal);
    a.activation = s.activation;
    a.activeRanks = s.activeRanks;
    a.rankBias = vector(s.rankBias);
    a.baseScale = vector(s.baseScale);
    a.outBias = vector(s.outBias);
    table_.push_back(a);
  }
  RankoneLora r{};
  r.x = floats(x);
  r.rows = rows;
  r.in = in;
  r.out = out;
  if (hasBase) {
    weight_ = base.shape;
    weight_.codes = upload(base.codes.data(), base.codes.size());
    weight_.scales = vector(base.scales);
    r.base = &weight_;
  }
  r.identity = identity;
  r.compute = compute;
  r.bias = floats(bias);
  r.adapters = table_.data();
  r.adapterCount = static_cast<int64_t>(table_.size());
  r.slots = slots.empty() ? nullptr : slots.data();
  r.perRow = perRow;
  r.gates = vector(gates);
  r.dropout = dropout;
  r.seed = seed;
  return r;
}

HostLora HostLora::rowsOnly(const std::vector<int64_t>& which) const {
  HostLora p = *this;
  const auto some = [&](const auto& from, int64_t width) {
    auto to = from;
    to.clear();
    for (int64_t m : which)
      if (!from.empty()) to.insert(to.end(), from.begin() + m * width, from.begin() + (m + 1) * width);
    return to;
  };
  p.rows = static_cast<int64_t>(which.size());
  p.slots = some(slots, perRow);
  p.gates = some(gates, perRow);
  for (auto [to, from, width] : {std::tuple{&p.x, &x, in}, {&p.dY, &dY, out}}) {
    to->bytes = some(from->bytes, width * floatSize(from->dtype));
    to->values = some(from->values, width);
  }
  return p;
}

}  // namespace rankone::test

// The fused LoRA product on CUDA: against float64, and what its bits depend on.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <numeric>

#include "harness.h"
#include "lora_reference.h"

namespace rankone::test {
namespace {

// Of products whose operands have 8 or 11 significant bits, and of float32 ones.
constexpr double kBf16Limit = 6e-3, kF16Limit = 1e-3, kF32Limit = 2e-6;

constexpr LoraRouting kRoutings[] = {LoraRouting::NONE, LoraRouting::ONE, LoraRouting::SEGMENTS, LoraRouting::TOKENS,
                                     LoraRouting::TOP_K};

// For a test on a device of each kind that has kernels of its own; a GPU is what it is.
std::vector<const char*> capabilities() {
  if (!Device().info().emulated) return {nullptr};
  return {"80", "90"};
}
class Capability {
 public:
  explicit Capability(const char* number) : set_(number) {
    if (set_) setenv("RANKONE_EMULATED_CAPABILITY", number, 1);
  }
  ~Capability() {
    if (set_) unsetenv("RANKONE_EMULATED_CAPABILITY");
  }

 private:
  const bool set_;
};

// A test of this file, on each of them.
#define LORA_TEST(name)                                  \
  static void RANKONE_JOIN(onDevice, __LINE__)(Device&); \
  TEST(name) {                                           \
    for (const char* number : capabilities()) {          \
      const Capability emulated(number);                 \
      Device device;                                     \
      RANKONE_JOIN(onDevice, __LINE__)(device);          \
    }                                                    \
  }                                                      \
  static void RANKONE_JOIN(onDevice, __LINE__)([[maybe_unused]] Device & device)

DType arrayDType(int32_t dtype) {
  return dtype == RANKONE_F32 ? DType::F32 : dtype == RANKONE_BF16 ? DType::BF16 : DType::F16;
}

struct Results {
  Array y, t;
};

Results run(Device& device, HostLora& p, int64_t tRanks) {
  std::vector<DeviceArray> memory;
  const auto upload = [&](const void* from, size_t bytes) -> const void* {
    RankoneError error;
    memory.emplace_back(device, Shape{static_cast<int64_t>(bytes)}, DType::U8);
    check(backend().upload(device.stream(), memory.back().data(), from, bytes, &error) == 0, "upload: %s",
          error.reason);
    return memory.back().data();
  };
  // as tokens of one sequence, for expectNear
  const DeviceArray y(device, {1, p.rows, 1, p.out}, arrayDType(p.x.dtype)), t(device, {1, p.rows, p.perRow, tRanks});
  RankoneLoraForward args = {p.upload(upload), y.data()};
  if (tRanks > 0) {
    args.problem.t = t.f32();
    args.problem.tRanks = tRanks;
  }
  device.loraForward(args);
  return {y.host(), tRanks > 0 ? t.host() : Array()};
}

double limitOf(const HostLora& p) {
  if (p.compute == RANKONE_COMPUTE_F32) return kF32Limit;
  if (p.x.dtype == RANKONE_F16) return kF16Limit;
  return p.x.dtype == RANKONE_BF16 || p.compute == RANKONE_COMPUTE_BF16 ? kBf16Limit : kF32Limit;
}

void expectRight(Device& device, HostLora p) {
  const int64_t tRanks = p.slots.empty() ? 0 : p.mostRank() + 3;
  const Results r = run(device, p, tRanks);
  const LoraReference reference = loraReference(p, tRanks);
  expectNear(p.label + ": y", r.y, {reference.y, {}}, Rows::Tokens, limitOf(p));
  if (tRanks > 0) expectNear(p.label + ": t", r.t, {reference.t, {}}, Rows::Whole, limitOf(p));
}

}  // namespace

LORA_TEST("lora: every base and routing, in every dtype") {
  uint64_t seed = 1;
  for (int32_t base = 0; base <= kNoBase; ++base)
    for (int32_t dtype : {RANKONE_F32, RANKONE_BF16, RANKONE_F16})
      for (LoraRouting routing : kRoutings) {
        ++seed;
        // a part of them under the slower checks
        if (quick() && seed % 7) continue;
        LoraDraw d = {routing == LoraRouting::ONE ? 9 : 19, seed % 2 ? 72 : 69, seed % 3 ? 40 : 37, base, routing};
        d.perRow = routing == LoraRouting::TOP_K ? 2 : 1;
        d.dtype = dtype;
        d.dropout = seed % 4 == 0 ? 0.3 : 0;
        expectRight(device, drawLora(d, seed));
      }
}

LORA_TEST("lora: tiles of many rows, in every format of W and dtype of x") {
  uint64_t seed = 100;
  for (int32_t base = 0; base <= RANKONE_WEIGHT_Q4; ++base)
    for (int32_t dtype : {RANKONE_F32, RANKONE_BF16, RANKONE_F16}) {
      ++seed;
      if (quick() && seed % 5) continue;
      LoraDraw d = {141, seed % 2 ? 200 : 203, seed % 2 ? 150 : 131, base, LoraRouting::SEGMENTS};
      d.dtype = dtype;
      d.dropout = seed % 3 == 0 ? 0.25 : 0;
      expectRight(device, drawLora(d, seed));
    }
}

LORA_TEST("lora: a depth of many stages, and blocks with many tiles") {
  uint64_t seed = 150;
  const int64_t sizes[][3] = {{5, 1288, 40}, {70, 1288, 40}, {260, 1288, 40}, {20, 72, 520}, {260, 200, 700}};
  for (const auto& [rows, in, out] : sizes)
    for (int32_t base : {RANKONE_WEIGHT_BF16, RANKONE_WEIGHT_INT8, RANKONE_WEIGHT_NF4}) {
      ++seed;
      if (quick() && seed % 2) continue;
      LoraDraw d = {rows, in, out, base, LoraRouting::SEGMENTS};
      d.dtype = RANKONE_BF16;
      expectRight(device, drawLora(d, seed));
    }
  HostLora base = drawLora({20, 136, 700, RANKONE_WEIGHT_NF4, LoraRouting::NONE}, 170);
  base.compute = RANKONE_COMPUTE_BF16;
  base.bias = {};
  expectRight(device, base);
}

LORA_TEST("lora: many ranks, many adapters, more than one of a row") {
  LoraDraw ranks = {20, 40, 33, RANKONE_WEIGHT_BF16, LoraRouting::TOKENS};
  ranks.leastRank = 515;
  ranks.mostRank = 530;
  ranks.adapters = 2;
  LoraDraw many = {150, 72, 40, RANKONE_WEIGHT_Q8, LoraRouting::TOKENS};
  many.adapters = 40;
  LoraDraw experts = {150, 64, 40, RANKONE_WEIGHT_NF4, LoraRouting::TOP_K};
  experts.perRow = 3;  // by chance also the same one twice
  experts.adapters = 5;
  uint64_t seed = 200;
  for (LoraDraw* d : {&ranks, &many, &experts})
    for (int32_t dtype : {RANKONE_F32, RANKONE_BF16, RANKONE_F16}) {
      ++seed;
      if (quick() && (d == &ranks || dtype == RANKONE_F16)) continue;
      d->dtype = dtype;
      expectRight(device, drawLora(*d, seed));
    }
}

LORA_TEST("lora: other precisions than x's own") {
  LoraDraw d = {30, 136, 50, RANKONE_WEIGHT_INT8, LoraRouting::SEGMENTS};
  for (int32_t rows : {11, 30, 90})
    for (int32_t dtype : {RANKONE_F32, RANKONE_BF16}) {
      d.rows = rows;
      d.dtype = dtype;
      HostLora p = drawLora(d, 300 + static_cast<uint64_t>(rows));
      p.compute = dtype == RANKONE_F32 ? RANKONE_COMPUTE_BF16 : RANKONE_COMPUTE_F32;
      expectRight(device, p);
    }
}

LORA_TEST("lora: one row, one output, one column, none") {
  for (int32_t dtype : {RANKONE_F32, RANKONE_BF16}) {
    const int64_t sizes[][3] = {{1, 1, 1}, {1, 70, 1}, {17, 1, 3}, {65, 5, 1}, {0, 16, 16}, {3, 9, 0}, {3, 0, 9}};
    for (const auto& [rows, in, out] : sizes)
      for (int32_t base : {int32_t{RANKONE_WEIGHT_BF16}, int32_t{RANKONE_WEIGHT_Q4}, kNoBase}) {
        LoraDraw d = {rows, in, out, base, in > 0 && out > 0 ? LoraRouting::TOKENS : LoraRouting::NONE};
        d.dtype = dtype;
        HostLora p = drawLora(d, static_cast<uint64_t>(400 + rows + in + out));
        const Results r = run(device, p, 0);
        if (r.y.size() > 0) expectNear(p.label, r.y, {loraReference(p, p.mostRank()).y, {}}, Rows::Tokens, limitOf(p));
      }
  }
}

// Row `row` of a tensor of rows.
void expectRow(const std::string& label, const Array& whole, int64_t row, const Array& part, int64_t at, int64_t rows) {
  const int64_t bytes = whole.size() / rows * static_cast<int64_t>(dtypeSize(whole.tensor().dtype));
  check(std::memcmp(static_cast<const char*>(whole.tensor().data) + row * bytes,
                    static_cast<const char*>(part.tensor().data) + at * bytes, static_cast<size_t>(bytes)) == 0,
        "%s: row %d differs", label.c_str(), static_cast<int>(row));
}

LORA_TEST("lora: a row's bits are its own") {
  uint64_t seed = 500;
  for (int32_t dtype : {RANKONE_F32, RANKONE_BF16, RANKONE_F16})
    for (int32_t base : {int32_t{RANKONE_WEIGHT_BF16}, int32_t{RANKONE_WEIGHT_F32}, int32_t{RANKONE_WEIGHT_NF4}}) {
      ++seed;
      if (quick() && base != static_cast<int32_t>(seed % 3)) continue;
      LoraDraw d = {135, 144, 40, base, seed % 2 ? LoraRouting::TOKENS : LoraRouting::TOP_K};
      d.perRow = seed % 2 ? 1 : 2;
      d.dtype = dtype;
      HostLora p = drawLora(d, seed);
      const int64_t tRanks = p.mostRank();
      const Results all = run(device, p, tRanks), again = run(device, p, tRanks);
      check(all.y.sameBits(again.y) && all.t.sameBits(again.t), "%s: another time", p.label.c_str());
      for (const std::vector<int64_t>& rows : {std::vector<int64_t>{134},
                                               {77, 3, 128},
                                               {0, 9, 130, 20, 21, 22, 23, 24, 25, 26, 90, 91, 92, 93, 94, 95, 1}}) {
        HostLora few = p.rowsOnly(rows);
        const Results r = run(device, few, tRanks);
        for (size_t i = 0; i < rows.size(); ++i) {
          expectRow(p.label + ": y", all.y, rows[i], r.y, static_cast<int64_t>(i), p.rows);
          expectRow(p.label + ": t", all.t, rows[i], r.t, static_cast<int64_t>(i), p.rows);
        }
      }
    }
}

// Through schedules for few rows, for small tiles and for many.
LORA_TEST("lora: a row's bits are the same among 1, 16, 64, 130 and 300 rows") {
  uint64_t seed = 700;
  for (int32_t dtype : {RANKONE_BF16, RANKONE_F16})
    for (int32_t base = 0; base <= RANKONE_WEIGHT_Q4; ++base) {
      ++seed;
      if (quick() && seed % 4) continue;
      LoraDraw d = {300, seed % 2 ? 200 : 136, 40, base, seed % 2 ? LoraRouting::TOKENS : LoraRouting::SEGMENTS};
      d.dtype = dtype;
      HostLora p = drawLora(d, seed);
      const int64_t tRanks = p.mostRank();
      const Results all = run(device, p, tRanks);
      for (int64_t count : {1, 16, 64, 130}) {
        std::vector<int64_t> rows(static_cast<size_t>(count));
        std::iota(rows.begin(), rows.end(), (300 - count) / 2);
        HostLora few = p.rowsOnly(rows);
        wgmmaProducts();
        const Results r = run(device, few, tRanks);
        const int64_t products = wgmmaProducts();
        check(products < 0 || (products > 0) == (device.info().major == 9), "%s: %d products by wgmma", p.label.c_str(),
              static_cast<int>(products));
        for (int64_t i = 0; i < count; ++i) {
          expectRow(p.label + ": y", all.y, rows[i], r.y, i, p.rows);
          expectRow(p.label + ": t", all.t, rows[i], r.t, i, p.rows);
        }
      }
    }
}

LORA_TEST("lora: what is no number stays with its rows") {
  for (int32_t dtype : {RANKONE_F32, RANKONE_BF16}) {
    LoraDraw d = {24, 64, 40, RANKONE_WEIGHT_BF16, LoraRouting::TOKENS};
    d.dtype = dtype;
    d.adapters = 2;
    d.adapterDType = RANKONE_F32;
    d.pieces = false;
    HostLora p = drawLora(d, 600);
    const Results clean = run(device, p, 0);
    const float bad[2] = {NAN, INFINITY};
    std::memcpy(p.adapters[0].b.bytes.data() + 8, &bad[0], 4);
    std::memcpy(p.adapters[0].a.bytes.data() + 16, &bad[1], 4);
    const int64_t sick = 5;
    std::memset(p.x.bytes.data() + sick * p.in * floatSize(dtype), 0xff, 2 * floatSize(dtype));
    const Results r = run(device, p, 0);
    int without = 0;
    for (int64_t m = 0; m < p.rows; ++m) {
      const bool touched = m == sick || p.slots[m] == 0;
      without += !touched;
      if (!touched) expectRow("y", clean.y, m, r.y, m, p.rows);
      if (m == sick) check(std::isnan(r.y.at(m * p.out)), "row %d", static_cast<int>(m));
    }
    check(without > 3, "only %d rows are not touched", without);
  }
}

}  // namespace rankone::test

// Weights into panels: packWeight rounds dense ones, packQuantised takes codes and scales as they are.
#include <algorithm>
#include <array>
#include <vector>

#include "ops/op.h"
#include "ops/packed_weight.h"
#include "ops/shapes.h"

namespace rankone {
namespace {

PanelFormat formatOf(const Call& call, int option) {
  expectGiven(call, option, "'f32', 'f16', 'bf16', 'int8', 'nf4', 'q4' or 'q8'");
  return static_cast<PanelFormat>(call.integer(option, 0));
}

enum { kWeight };
enum { kFormat, kOut, kIn, kOffset, kBlockSize };

void planPack(Call& call) {
  expectInputs(call);
  const PanelFormat format = formatOf(call, kFormat);
  const Tensor& weight = call.inputs[kWeight];
  if (weight.rank != 2 || weight.size() == 0)
    fail(ErrorKind::Range, "weight: expected shape [out,in] with sizes of at least 1, got %s",
         weight.shapeText().c_str());
  call.packed = std::make_shared<PackedWeight>(format, weight.shape[0], weight.shape[1]);
}

void runPack(const Call& call) {
  call.packed->pack(call.inputs[kWeight].data, call.inputs[kWeight].dtype, call.cancel);
}

enum { kCodes, kScales, kAbsmax, kInnerCodes, kInnerAbsmax, kCodebook };

constexpr int64_t kNf4Block = 64;

int64_t ceilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// An array that must be there, of this dtype and length, or must not.
void expectArray(const Call& call, int input, const char* array, DType dtype, int64_t length) {
  const Tensor& t = call.inputs[input];
  const char* name = call.spec->inputs[input].name;
  if (!t.present()) fail(ErrorKind::Type, "%s: expected %s, got undefined", name, array);
  if (t.dtype != dtype) fail(ErrorKind::Type, "%s: expected %s in this format, got another array", name, array);
  if (t.size() != length)
    fail(ErrorKind::Range, "%s: expected length %lld, got %lld", name, static_cast<long long>(length),
         static_cast<long long>(t.size()));
}

void expectNone(const Call& call, std::initializer_list<int> inputs) {
  for (const int i : inputs)
    if (call.inputs[i].present())
      fail(ErrorKind::Type, "%s: expected none in this format, got an array", call.spec->inputs[i].name);
}

void planQuantised(Call& call) {
  expectInputs(call);
  const PanelFormat format = formatOf(call, kFormat);
  if (format <= PanelFormat::F16) fail(ErrorKind::Range, "format: expected 'int8', 'nf4', 'q4' or 'q8'");
  const double rows = call.number(kOut, 0), columns = call.number(kIn, 0);
  constexpr double kMost = 0x1p40;
  if (!(rows >= 1 && columns >= 1 && rows * columns <= kMost) || rows != std::floor(rows) ||
      columns != std::floor(columns))
    fail(ErrorKind::Range, "shape: expected [out,in], integers of at least 1, got [%g,%g]", rows, columns);
  const int64_t out = static_cast<int64_t>(rows), in = static_cast<int64_t>(columns), size = out * in;
  if (format == PanelFormat::Int8 || format == PanelFormat::Q8) {
    expectArray(call, kCodes, "an Int8Array", DType::I8, size);
    expectArray(call, kScales, "a Float32Array", DType::F32, format == PanelFormat::Q8 ? out * ceilDiv(in, 32) : out);
    expectNone(call, {kAbsmax, kInnerCodes, kInnerAbsmax, kCodebook});
  } else {
    expectArray(call, kCodes, "a Uint8Array", DType::U8, ceilDiv(size, 2));
    if (format == PanelFormat::Q4) {
      expectArray(call, kScales, "a Float32Array", DType::F32, out * ceilDiv(in, 32));
      expectNone(call, {kAbsmax, kInnerCodes, kInnerAbsmax, kCodebook});
    } else if (const int64_t blocks = ceilDiv(size, kNf4Block);
               call.inputs[kInnerCodes].present() || call.inputs[kInnerAbsmax].present()) {
      expectNone(call, {kScales, kAbsmax});
      const OptionValue& blockSize = call.options[kBlockSize];
      expectInteger(call, kBlockSize, 1, int64_t{1} << 40);
      expectGiven(call, kOffset, "a number");
      expectFinite(call, kOffset);
      expectArray(call, kInnerCodes, "a Uint8Array", DType::U8, blocks);
      expectArray(call, kInnerAbsmax, "a Float32Array", DType::F32,
                  ceilDiv(blocks, blockSize.given ? call.integer(kBlockSize, 0) : 256));
      if (call.inputs[kCodebook].present()) expectArray(call, kCodebook, "a Float32Array", DType::F32, 256);
    } else {
      expectNone(call, {kScales, kInnerCodes, kInnerAbsmax, kCodebook});
      expectArray(call, kAbsmax, "a Float32Array or an object", DType::F32, blocks);
    }
  }
  call.packed = std::make_shared<PackedWeight>(format, out, in);
}

// bitsandbytes' dynamic map of signed 8-bit codes (Dettmers et al., 8-bit Optimizers via Block-wise Quantization,
// 2021): of each decade from 1e-6 to 1 the means of 2^i equal steps from 0.1 to 1, both signs, then 0 and 1.
std::array<float, 256> dynamicMap() {
  std::array<float, 256> map{};
  size_t at = 0;
  float decade = 1e-6f;
  for (int i = 0; i < 7; ++i) {
    const int steps = 1 << i;
    const float step = 0.9f / static_cast<float>(steps);
    const auto boundary = [&](int j) {
      return j <= steps / 2 ? 0.1f + step * static_cast<float>(j) : 1.0f - step * static_cast<float>(steps - j);
    };
    for (int j = 0; j < steps; ++j) {
      map[at++] = decade * ((boundary(j) + boundary(j + 1)) / 2.0f);
      map[at] = -map[at - 1];
      ++at;
    }
    decade = std::array{1e-5f, 1e-4f, 1e-3f, 1e-2f, 1e-1f, 1.0f, 0.0f}[i];
  }
  map[at++] = 0;
  map[at++] = 1;
  std::sort(map.begin(), map.end());
  return map;
}

std::vector<float> innerScales(const Call& call) {
  const Tensor& codes = call.inputs[kInnerCodes];
  const std::array<float, 256> standard = dynamicMap();
  const float* codebook = call.inputs[kCodebook].present() ? call.inputs[kCodebook].f32() : standard.data();
  const float* absmax = call.inputs[kInnerAbsmax].f32();
  const float offset = static_cast<float>(call.number(kOffset, 0));
  const int64_t blockSize = call.integer(kBlockSize, 256);
  std::vector<float> scales(static_cast<size_t>(codes.size()));
  for (int64_t i = 0; i < codes.size(); ++i)
    scales[i] = codebook[codes.as<uint8_t>()[i]] * absmax[i / blockSize] + offset;
  return scales;
}

void runQuantised(const Call& call) {
  stopIfCancelled(call);
  const Tensor& codes = call.inputs[kCodes];
  const uint8_t* bytes = codes.as<uint8_t>();
  std::vector<uint8_t> nibbles;
  if (codes.dtype == DType::U8) {
    nibbles.resize(static_cast<size_t>(call.packed->out() * call.packed->in()));
    for (size_t i = 0; i < nibbles.size(); ++i) nibbles[i] = i & 1 ? bytes[i / 2] & 15 : bytes[i / 2] >> 4;
    bytes = nibbles.data();
  }
  const std::vector<float> inner = call.inputs[kInnerCodes].present() ? innerScales(call) : std::vector<float>();
  const float* scales = call.inputs[kScales].present()   ? call.inputs[kScales].f32()
                        : call.inputs[kAbsmax].present() ? call.inputs[kAbsmax].f32()
                                                         : inner.data();
  call.packed->packCodes(bytes, scales, call.cancel);
}

constexpr InputSpec kInputs[] = {{"weight", true, kFloats}};
constexpr OptionSpec kOptions[] = {{"format", OptionKind::Choice, kWeightFormats}};
constexpr InputSpec kQuantisedInputs[] = {{"codes", true, kBytes},        {"scales", false, kF32},
                                          {"absmax", false, kF32},        {"absmax.codes", false, dtypeBit(DType::U8)},
                                          {"absmax.absmax", false, kF32}, {"absmax.codebook", false, kF32}};
constexpr OptionSpec kQuantisedOptions[] = {{"format", OptionKind::Choice, kWeightFormats},
                                            {"out", OptionKind::Number},
                                            {"in", OptionKind::Number},
                                            {"absmax.offset", OptionKind::Number},
                                            {"absmax.blockSize", OptionKind::Integer}};

}  // namespace

extern const OpSpec packWeightOp, packQuantisedOp;
const OpSpec packWeightOp{.name = "packWeight",
                          .inputs = kInputs,
                          .options = kOptions,
                          .outputs = {},
                          .plan = planPack,
                          .run = runPack,
                          .makesBase = true,
                          .wrapped = true};
const OpSpec packQuantisedOp{.name = "packQuantised",
                             .inputs = kQuantisedInputs,
                             .options = kQuantisedOptions,
                             .outputs = {},
                             .plan = planQuantised,
                             .run = runQuantised,
                             .makesBase = true,
                             .wrapped = true};

}  // namespace rankone

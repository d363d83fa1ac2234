// Conversions bit for bit, approximations within 2 ulp.

#include <cmath>

#include "simt/conformance/data.h"
#include "simt/simt.cuh"

using namespace conformance;

namespace {

// What is special in f32, and what is half way between two bf16, f16 or tf32 numbers or next to that.
Words specials() {
  Words words = {0u,          0x80000000u, 0x7f800000u, 0xff800000u, 0x7fc00000u, 0x7f800001u,
                 0xffc12345u, 0x7f7fffffu, 0xff7fffffu, 0x7f7f8000u, 0x7f7f7fffu, 1u,
                 0x80000001u, 0x007fffffu, 0x477fefffu, 0x477ff000u, 0x477fffffu, 0x38800000u,
                 0x387fffffu, 0x33000000u, 0x33000001u, 0x32ffffffu, 0x33c00000u, 0xb3c00000u};
  Random random(3);
  while (words.size() < 4096) {
    uint32_t word = random.word();
    // Exponents that f16 has, too.
    if (random.word() % 2) word = (word & 0x807fffffu) | (100 + random.word() % 45) << 23;
    const uint32_t cut = random.word() % 4;
    if (cut == 1) word = (word & 0xffff0000u) | 0x8000u;
    if (cut == 2) word = (word & 0xffffe000u) | 0x1000u;
    if (cut == 3) word = word & 0xfffff000u;
    words.push_back(word);
  }
  return words;
}

// By the definition: the nearest of the format's numbers, ties to the even one. `bits` of significand, exponents from
// `least` up to `most`.
double nearest(double x, int bits, int least, int most) {
  if (x == 0 || !std::isfinite(x)) return x;
  int exponent;
  std::frexp(x, &exponent);
  exponent = std::max(exponent - 1, least);
  const double unit = std::ldexp(1.0, exponent - bits + 1), rounded = std::nearbyint(x / unit) * unit;
  return std::fabs(rounded) >= std::ldexp(1.0, most + 1) ? std::copysign(INFINITY, x) : rounded;
}

uint16_t toBf16(uint32_t word) {
  if ((word & 0x7fffffff) > 0x7f800000) return 0x7fff;
  return static_cast<uint16_t>(asBits(static_cast<float>(nearest(asFloat(word), 8, -126, 127))) >> 16);
}

uint16_t toF16(uint32_t word) {
  if ((word & 0x7fffffff) > 0x7f800000) return 0x7fff;
  const double x = nearest(asFloat(word), 11, -14, 15);
  const uint32_t sign = word >> 16 & 0x8000;
  if (std::isinf(x)) return static_cast<uint16_t>(sign | 0x7c00);
  const double magnitude = std::fabs(x);
  if (magnitude < 0x1p-14) return static_cast<uint16_t>(sign | static_cast<uint32_t>(magnitude * 0x1p24));
  int exponent;
  const double fraction = std::frexp(magnitude, &exponent);
  return static_cast<uint16_t>(sign | static_cast<uint32_t>(exponent + 14) << 10 |
                               (static_cast<uint32_t>(fraction * 2048) - 1024));
}

__global__ void converts(const uint32_t* in, uint32_t* out) {
  for (int i = threadIdx.x; i < 4096; i += 128) {
    const float x = simt::f32_from_bits(in[i]), y = simt::f32_from_bits(in[i ^ 1]);
    out[i * 6] = simt::pack_bf16(x, y);
    out[i * 6 + 1] = simt::pack_f16(x, y);
    out[i * 6 + 2] = simt::f32_to_bf16(x);
    out[i * 6 + 3] = simt::f32_to_f16(x);
    out[i * 6 + 4] = (in[i] & 0x7fffffff) > 0x7f800000 ? 0 : simt::to_tf32(x);
    out[i * 6 + 5] = simt::f32_bits(x);
  }
}

TEST("pack_bf16, pack_f16, f32_to_bf16, f32_to_f16, to_tf32") {
  const Words in = specials();
  Words expected(4096 * 6);
  for (size_t i = 0; i < 4096; ++i) {
    const uint32_t x = in[i], y = in[i ^ 1];
    expected[i * 6] = toBf16(x) | static_cast<uint32_t>(toBf16(y)) << 16;
    expected[i * 6 + 1] = toF16(x) | static_cast<uint32_t>(toF16(y)) << 16;
    expected[i * 6 + 2] = toBf16(x);
    expected[i * 6 + 3] = toF16(x);
    // 10 bits of fraction remain, ties go away from zero; infinity stays, and so does the sign.
    const bool number = (x & 0x7fffffff)<0x7f800000, nan = (x & 0x7fffffff)> 0x7f800000;
    expected[i * 6 + 4] = nan ? 0 : number ? ((x >> 13) + (x >> 12 & 1)) << 13 : x;
    expected[i * 6 + 5] = x;
  }
  expectWords(run(converts, in, expected.size(), 128, 0), expected);
}

__global__ void widens(const uint32_t*, uint32_t* out) {
  for (int i = threadIdx.x; i < 65536; i += 128) {
    out[2 * i] = simt::f32_bits(simt::bf16_to_f32(static_cast<uint16_t>(i)));
    out[2 * i + 1] = simt::f32_bits(simt::f16_to_f32(static_cast<uint16_t>(i)));
  }
}

TEST("bf16_to_f32, f16_to_f32") {
  Words actual = run(widens, Words(1), 2 * 65536, 128, 0), expected(2 * 65536);
  for (uint32_t i = 0; i < 65536; ++i) {
    const uint32_t exponent = i >> 10 & 31, fraction = i & 1023;
    const double magnitude = exponent == 31 ? (fraction ? NAN : INFINITY)
                             : exponent     ? std::ldexp(1024.0 + fraction, static_cast<int>(exponent) - 25)
                                            : std::ldexp(fraction, -24);
    expected[2 * i] = i << 16;
    expected[2 * i + 1] = asBits(static_cast<float>(magnitude)) | (i & 0x8000) << 16;
    // Any NaN is right.
    for (uint32_t* words : {&actual[2 * i], &expected[2 * i]}) {
      for (int e = 0; e < 2; ++e) words[e] = (words[e] & 0x7fffffff) > 0x7f800000 ? 0x7fc00000 : words[e];
    }
  }
  expectWords(actual, expected);
}

__global__ void approximates(const uint32_t* in, uint32_t* out) {
  for (int i = threadIdx.x; i < 4096; i += 128) {
    const float x = simt::f32_from_bits(in[i]);
    out[i * 4] = simt::f32_bits(simt::ex2(x));
    out[i * 4 + 1] = simt::f32_bits(simt::lg2(std::fabs(x)));
    out[i * 4 + 2] = simt::f32_bits(simt::rcp(x));
    out[i * 4 + 3] = simt::f32_bits(simt::rsqrt(std::fabs(x)));
  }
}

void expectClose(const char* what, float x, uint32_t actual, double expected, double ulps, double absolute) {
  const float y = asFloat(actual);
  const bool flushed = std::fabs(expected) < 0x1p-126 && std::fabs(y) <= 0x1p-126f;
  const double unit = std::ldexp(1.0, std::ilogb(expected == 0 ? 1.0 : expected) - 23);
  const bool same = std::isnan(expected)   ? std::isnan(y)
                    : std::isinf(expected) ? y == static_cast<float>(expected)
                                           : false;
  if (same || flushed || std::fabs(y - expected) <= std::max(ulps * unit, absolute)) return;
  char text[128];
  std::snprintf(text, sizeof text, "%s(%.9g) is %.9g, not %.9g", what, x, y, expected);
  simt::check::fail(__FILE__, __LINE__, text);
}

TEST("ex2, lg2, rcp, rsqrt") {
  Words in;
  for (int i = -160; i <= 130; ++i) in.push_back(asBits(static_cast<float>(i)));
  for (const uint32_t word : {0u, 0x7f800000u, 0xff800000u, 0x7fc00000u}) in.push_back(word);
  Random random(9);
  while (in.size() < 4096) {
    const float unit = static_cast<float>(static_cast<int>(random.word() >> 8)) / 8388608.0f - 1.0f;
    in.push_back(asBits(in.size() % 3 ? unit * 120 : unit * 0.01f));
  }
  const Words out = run(approximates, in, in.size() * 4, 128, 0);
  for (size_t i = 0; i < in.size(); ++i) {
    const float x = asFloat(in[i]);
    const double exact = x, magnitude = std::fabs(exact);
    const double power = std::exp2(exact);
    expectClose("ex2", x, out[i * 4], power >= 0x1p128 ? INFINITY : power, 2, 0);
    // Near 1 the error is absolute.
    expectClose("lg2", x, out[i * 4 + 1], std::log2(magnitude), 2, 0x1p-22);
    expectClose("rcp", x, out[i * 4 + 2], 1 / exact, 2, 0);
    expectClose("rsqrt", x, out[i * 4 + 3], 1 / std::sqrt(magnitude), 2, 0);
  }
}

}  // namespace

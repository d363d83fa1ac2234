// Arithmetic of device.cuh for the host: conversions bit for bit, approximations as the host's functions round them.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace simt {

inline uint32_t f32_bits(float x) {
  uint32_t u;
  __builtin_memcpy(&u, &x, 4);
  return u;
}
inline float f32_from_bits(uint32_t u) {
  float x;
  __builtin_memcpy(&x, &u, 4);
  return x;
}

namespace emulator {
// Subnormal numbers become zeros of their sign.
inline float flush(float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; }
}  // namespace emulator

inline float ex2(float x) { return emulator::flush(exp2f(emulator::flush(x))); }
inline float lg2(float x) { return log2f(emulator::flush(x)); }
inline float rcp(float x) { return emulator::flush(1.0f / emulator::flush(x)); }
inline float rsqrt(float x) { return 1.0f / sqrtf(emulator::flush(x)); }

inline uint16_t f32_to_bf16(float x) {
  const uint32_t u = f32_bits(x);
  if ((u & 0x7fffffff) > 0x7f800000) return 0x7fff;
  return static_cast<uint16_t>((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}
inline float bf16_to_f32(uint16_t u) { return f32_from_bits(static_cast<uint32_t>(u) << 16); }

inline uint16_t f32_to_f16(float x) {
  const uint32_t u = f32_bits(x), sign = u >> 16 & 0x8000, magnitude = u & 0x7fffffff;
  if (magnitude > 0x7f800000) return 0x7fff;
  if (magnitude >= 0x477ff000) return static_cast<uint16_t>(sign | 0x7c00);  // 65520 and more
  if (magnitude < 0x38800000) {
    // Subnormal or zero: adding 0.5 leaves the rounded multiple of 2^-24 in the low bits.
    const float shifted = f32_from_bits(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (f32_bits(shifted) - 0x3f000000));
  }
  return static_cast<uint16_t>(sign | ((magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13));
}
inline float f16_to_f32(uint16_t u) {
  const uint32_t sign = static_cast<uint32_t>(u & 0x8000) << 16, magnitude = u & 0x7fff;
  if (magnitude >= 0x7c00) return f32_from_bits(sign | 0x7f800000 | (magnitude & 0x3ff) << 13);
  if (magnitude >= 0x400) return f32_from_bits(sign | ((magnitude << 13) + 0x38000000));
  const float value = static_cast<float>(magnitude) * 0x1p-24f;
  return sign ? -value : value;
}

inline uint32_t pack_bf16(float low, float high) {
  return f32_to_bf16(low) | static_cast<uint32_t>(f32_to_bf16(high)) << 16;
}
inline uint32_t pack_f16(float low, float high) {
  return f32_to_f16(low) | static_cast<uint32_t>(f32_to_f16(high)) << 16;
}
inline uint32_t to_tf32(float x) {
  const uint32_t u = f32_bits(x), magnitude = u & 0x7fffffff;
  if (magnitude > 0x7f800000) return 0x7fffffff;
  if (magnitude == 0x7f800000) return u;
  return (u + 0x1000) & 0xffffe000;
}

}  // namespace simt

// Single elements of float tensors, for what is small; kernels convert in vectors (core/half.inl).
#pragma once
#include <bit>
#include <cmath>

#include "core/tensor.h"

namespace rankone {

inline float halfToFloat(uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
  if (exponent == 0) return std::copysign(std::ldexp(static_cast<float>(fraction), -24), sign ? -1.0f : 1.0f);
  const uint32_t wide = exponent == 31 ? 255 : static_cast<uint32_t>(exponent + 112);
  return std::bit_cast<float>(sign | wide << 23 | static_cast<uint32_t>(fraction) << 13);
}

inline float elementOf(const Tensor& t, int64_t i) {
  switch (t.dtype) {
    case DType::BF16: return std::bit_cast<float>(static_cast<uint32_t>(t.as<uint16_t>()[i]) << 16);
    case DType::F16: return halfToFloat(t.as<uint16_t>()[i]);
    default: return t.f32()[i];
  }
}

}  // namespace rankone

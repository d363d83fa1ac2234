// Seeded numbers, the same on every platform.
#pragma once
#include <cmath>
#include <cstdint>

#include "array.h"

namespace rankone::test {

class Random {
 public:
  explicit Random(uint64_t seed, DType floats = DType::F32) : dtype(floats), state_(seed * 0x9e3779b97f4a7c15u + 1) {}

  const DType dtype;  // of fill and normals, whose numbers are rounded to it

  uint64_t bits() {  // splitmix64
    uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }  // [0, 1)
  int64_t below(int64_t n) { return static_cast<int64_t>(bits() % static_cast<uint64_t>(n)); }
  double normal() {
    const double radius = std::sqrt(-2 * std::log(1 - uniform()));
    return radius * std::cos(6.283185307179586 * uniform());
  }

  template <class F>
  Array fill(const Shape& shape, F&& value) {
    Array a(shape, dtype);
    for (int64_t i = 0; i < a.size(); ++i) a.set(i, value());
    return a;
  }
  Array normals(const Shape& shape) {
    return fill(shape, [&] { return normal(); });
  }
  Array indices(const Shape& shape, int64_t bound) {
    Array a(shape, DType::I32);
    for (int64_t i = 0; i < a.size(); ++i) a.set(i, static_cast<double>(below(bound)));
    return a;
  }

 private:
  uint64_t state_;
};

}  // namespace rankone::test

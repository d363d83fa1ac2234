#include "array.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <stdexcept>

namespace rankone::test {
namespace {

// The halves' formats as numbers: `bits` of fraction, exponents from `low` on.
struct Half {
  int bits, low;
  double limit;  // what rounds beyond the largest value
};
constexpr Half kBf16{7, -126, 0x1.ffp127}, kF16{10, -14, 65520};
const Half& halfOf(DType dtype) { return dtype == DType::BF16 ? kBf16 : kF16; }

uint16_t toHalf(double x, const Half& half) {
  const int64_t one = int64_t{1} << half.bits, sign = std::signbit(x) ? 0x8000 : 0;
  const int64_t infinity = (0x7fff / one) * one;
  if (std::isnan(x)) return static_cast<uint16_t>(infinity | one / 2);
  if (std::fabs(x) >= half.limit) return static_cast<uint16_t>(sign | infinity);
  const int exponent = x == 0 ? half.low : std::max(std::ilogb(x), half.low);
  const double fraction = std::nearbyint(std::ldexp(std::fabs(x), half.bits - exponent));  // of at most 2 one
  return static_cast<uint16_t>(sign + (exponent - half.low) * one + static_cast<int64_t>(fraction));
}

double fromHalf(uint16_t bits, const Half& half) {
  const int64_t one = int64_t{1} << half.bits, rest = bits & 0x7fff, exponent = rest / one, fraction = rest % one;
  double x = std::ldexp(static_cast<double>(exponent ? fraction + one : fraction),
                        half.low - half.bits + static_cast<int>(exponent ? exponent - 1 : 0));
  if (exponent == 0x7fff / one)
    x = fraction ? std::numeric_limits<double>::quiet_NaN() : std::numeric_limits<double>::infinity();
  return bits & 0x8000 ? -x : x;
}

}  // namespace

int64_t sizeOf(const Shape& shape) {
  int64_t n = 1;
  for (int64_t d : shape) n *= d;
  return n;
}

Array::Array(const Shape& shape, DType dtype) {
  static std::atomic<unsigned> made{0};
  tensor_.dtype = dtype;
  tensor_.rank = static_cast<int>(shape.size());
  for (size_t i = 0; i < shape.size(); ++i) tensor_.shape[i] = shape[i];
  const size_t bytes = tensor_.bytes(), shift = made++ % 2 * dtypeSize(dtype);
  if (bytes == 0) return;  // an empty typed array may have no memory at all
  char* p = static_cast<char*>(std::malloc(bytes + shift));
  if (!p) throw std::bad_alloc();
  block_ = {p, std::free};
  tensor_.data = p + shift;
  fillWithNaN();
}

Array::Array(const Shape& shape, const Values& values, DType dtype) : Array(shape, dtype) {
  if (static_cast<int64_t>(values.size()) != size()) throw std::logic_error("values do not fit the shape");
  for (int64_t i = 0; i < size(); ++i) set(i, values[i]);
}

Shape Array::shape() const { return {tensor_.shape, tensor_.shape + tensor_.rank}; }

double Array::at(int64_t i) const {
  switch (tensor_.dtype) {
    case DType::F32: return tensor_.as<float>()[i];
    case DType::I32: return tensor_.as<int32_t>()[i];
    case DType::I64: return static_cast<double>(tensor_.as<int64_t>()[i]);
    case DType::I8: return tensor_.as<int8_t>()[i];
    case DType::U8: return tensor_.as<uint8_t>()[i];
    case DType::BF16:
    case DType::F16: return fromHalf(tensor_.as<uint16_t>()[i], halfOf(tensor_.dtype));
  }
  throw std::logic_error("no such elements");
}

void Array::set(int64_t i, double value) {
  switch (tensor_.dtype) {
    case DType::F32: tensor_.as<float>()[i] = static_cast<float>(value); return;
    case DType::I32: tensor_.as<int32_t>()[i] = static_cast<int32_t>(std::clamp(value, -0x1p31, 0x1p31 - 1)); return;
    case DType::I64: tensor_.as<int64_t>()[i] = static_cast<int64_t>(value); return;
    case DType::I8: tensor_.as<int8_t>()[i] = static_cast<int8_t>(std::clamp(value, -128.0, 127.0)); return;
    case DType::U8: tensor_.as<uint8_t>()[i] = static_cast<uint8_t>(std::clamp(value, 0.0, 255.0)); return;
    case DType::BF16:
    case DType::F16: tensor_.as<uint16_t>()[i] = toHalf(value, halfOf(tensor_.dtype)); return;
  }
}

Values Array::values() const {
  Values v(size());
  for (int64_t i = 0; i < size(); ++i) v[i] = at(i);
  return v;
}

Array Array::copy() const { return present() ? Array(shape(), values(), tensor_.dtype) : Array(); }

Array Array::to(DType dtype) const { return present() ? Array(shape(), values(), dtype) : Array(); }

void Array::fillWithNaN() {
  const bool integers = !(kFloats & dtypeBit(tensor_.dtype));
  for (int64_t i = 0; i < size(); ++i) set(i, integers ? -1 : std::numeric_limits<double>::quiet_NaN());
}

bool Array::sameBits(const Array& other) const {
  if (shape() != other.shape()) return false;
  return size() == 0 || std::memcmp(tensor_.data, other.tensor_.data, tensor_.bytes()) == 0;
}

}  // namespace rankone::test

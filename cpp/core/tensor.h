// A borrowed, contiguous, row-major view of memory that somebody else owns.
#pragma once
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>

namespace rankone {

enum class DType : uint8_t { F32, BF16, F16, I32, I64, I8, U8 };  // bytes: of quantised weights

constexpr size_t dtypeSize(DType t) {
  switch (t) {
    case DType::F32:
    case DType::I32: return 4;
    case DType::BF16:
    case DType::F16: return 2;
    case DType::I64: return 8;
    case DType::I8:
    case DType::U8: return 1;
  }
  return 0;
}
const char* dtypeName(DType t);

// A set of dtypes, one bit each.
using DTypes = uint8_t;
constexpr DTypes dtypeBit(DType t) { return static_cast<DTypes>(1u << static_cast<unsigned>(t)); }
constexpr DTypes kF32 = dtypeBit(DType::F32), kI32 = dtypeBit(DType::I32);
constexpr DTypes kFloats = kF32 | dtypeBit(DType::BF16) | dtypeBit(DType::F16);
constexpr DTypes kIndices = kI32 | dtypeBit(DType::I64);
constexpr DTypes kBytes = dtypeBit(DType::I8) | dtypeBit(DType::U8);
constexpr DType kDTypes[] = {DType::F32, DType::BF16, DType::F16, DType::I32, DType::I64, DType::I8, DType::U8};
std::string dtypeNames(DTypes set);  // "f32, bf16 or f16"

constexpr int kMaxRank = 6;

struct Tensor {
  void* data = nullptr;
  DType dtype = DType::F32;
  int rank = -1;  // -1: the argument is absent
  int64_t shape[kMaxRank] = {};

  bool present() const { return rank >= 0; }
  int64_t size() const {
    uint64_t n = 1;  // may wrap on the way to a size of zero
    for (int i = 0; i < rank; ++i) n *= static_cast<uint64_t>(shape[i]);
    return static_cast<int64_t>(n);
  }
  size_t bytes() const { return static_cast<size_t>(size()) * dtypeSize(dtype); }
  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
  float* f32() const { return as<float>(); }

  void setShape(std::initializer_list<int64_t> dims, DType t = DType::F32);
  bool sameShape(const Tensor& other) const;
  std::string shapeText() const;  // "[2,512,16]"
};

// Float32 data in another tensor's shape.
inline Tensor floatsLike(const Tensor& shape, float* data) {
  Tensor t = shape;
  t.data = data;
  t.dtype = DType::F32;
  return t;
}

// What a kernel needs to know of a tensor of floats, or of one of indices.
struct FloatView {
  const void* data = nullptr;
  DType dtype = DType::F32;
  FloatView() = default;
  FloatView(const float* p) : data(p) {}
  explicit FloatView(const Tensor& t) : data(t.data), dtype(t.dtype) {}
  explicit operator bool() const { return data != nullptr; }
  const char* at(int64_t i) const {
    return static_cast<const char*>(data) + i * static_cast<int64_t>(dtypeSize(dtype));
  }
};

struct IndexView {
  const void* data = nullptr;
  DType dtype = DType::I32;
  IndexView() = default;
  explicit IndexView(const Tensor& t) : data(t.data), dtype(t.dtype) {}
  explicit operator bool() const { return data != nullptr; }
  int64_t operator[](int64_t i) const {
    return dtype == DType::I64 ? static_cast<const int64_t*>(data)[i] : static_cast<const int32_t*>(data)[i];
  }
};

}  // namespace rankone

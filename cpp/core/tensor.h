// A borrowed, contiguous, row-major view of memory that somebody else owns.
#pragma once
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>

namespace rankone {

enum class DType : uint8_t { F32, BF16, F16, I32, I64 };

constexpr size_t dtypeSize(DType t) {
  switch (t) {
    case DType::F32:
    case DType::I32: return 4;
    case DType::BF16:
    case DType::F16: return 2;
    case DType::I64: return 8;
  }
  return 0;
}
const char* dtypeName(DType t);

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

}  // namespace rankone

// A call of the fused LoRA product's backward: what its parts hand to each other.
#pragma once
#include <cstring>
#include <memory>
#include <vector>

#include "lora.h"
#include "lora_backward.h"
#include "lora_backward_source.cuh"

namespace rankone::cuda {

// Lists that go to the device together.
class Lists {
 public:
  // Where a list will be; to be asked for after send().
  template <class T>
  struct Place {
    const Lists* lists;
    size_t offset, count;
    const T* data() const { return count ? reinterpret_cast<const T*>(lists->device_.data() + offset) : nullptr; }
  };
  template <class T>
  Place<T> add(const std::vector<T>& list) {
    const size_t offset = (host_.size() + 15) / 16 * 16;
    host_.resize(offset + list.size() * sizeof(T));
    if (!list.empty()) std::memcpy(host_.data() + offset, list.data(), list.size() * sizeof(T));
    return {this, offset, list.size()};
  }
  void send(Stream& stream) { device_ = Scratch<char>(stream, host_); }

 private:
  std::vector<char> host_;
  Scratch<char> device_;
};

// float32, or what the tensor cores multiply.
int32_t arithmeticOf(const RankoneLora& problem);

template <class F>
void withArithmetic(int32_t dtype, F&& f) {
  switch (dtype) {
    case RANKONE_BF16: return f(Bf16Arithmetic{});
    case RANKONE_F16: return f(F16Arithmetic{});
    default: return f(F32Arithmetic{});
  }
}

// Whether lines may be copied to shared memory as they are: for the tensor cores.
template <class Math>
bool copies(const Lines& lines) {
  return !isF32<Math> && lines.dtype == Math::kDType && lines.aligned;
}

inline unsigned blocksOf(int64_t size, int64_t of) { return static_cast<unsigned>((size + of - 1) / of); }

// Sums over rows. Jobs are gathered first, and launched together.
class LoraRowSums {
 public:
  LoraRowSums(Stream& stream, int32_t arithmetic);
  ~LoraRowSums();

  // Of `count` items, their ranks times their rows: to [ranks, toColumns], or turned to [columns,
  // toColumns]; columns beyond what there is become zeros. `gathered`: the items' rows, or null: they lie one after the
  // other.
  struct Matrix {
    Lines ranks;
    int64_t rankCount, count;
    Lines rows;
    const int64_t* gathered;
    int64_t columns;
    KeptBits kept;
    float* to;
    int64_t toColumns;
    bool turned;
    bool exact;  // in float32
  };
  void add(const Matrix& sum);

  // to[n] = sum over `count` items of factors x y; factors and y may be absent.
  struct Columns {
    Lines x, y;
    const int64_t *xRows, *yRows;  // null: they lie one after the other
    const float* factors;
    int64_t count, columns;
  };
  void add(const Columns& sum, float* to);

  void addZeros(float* to, int64_t count);

  // Of d, for adapters that have one: to[n] = sum over the adapter's items of dY[n] (W x)[n].
  struct BaseScale {
    int32_t use;
    int64_t count;
    float* to;
  };
  void addBaseScales(const std::vector<BaseScale>& sums, const Lines& x, const Lines& dY, const RankoneWeight& base,
                     const LoraUse* uses, const int64_t* itemRows);

  void launch();

 private:
  struct Jobs;
  float* take(int64_t floats);

  Stream& stream_;
  const int32_t arithmetic_;
  std::vector<Scratch<float>> taken_;
  std::unique_ptr<Jobs> jobs_;
};

}  // namespace rankone::cuda

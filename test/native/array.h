// Tensors of the native tests: heap blocks of exactly their size, so that AddressSanitizer sees a step beyond them.
// Every other one starts one element after an aligned address, as a typed array may.
#pragma once
#include <memory>
#include <vector>

#include "core/tensor.h"

namespace rankone::test {

using Shape = std::vector<int64_t>;
using Values = std::vector<double>;

class Array {
 public:
  Array() = default;  // an argument that is absent
  explicit Array(const Shape& shape, DType dtype = DType::F32);
  Array(const Shape& shape, const Values& values, DType dtype = DType::F32);  // rounded to dtype

  bool present() const { return tensor_.present(); }
  int64_t size() const { return tensor_.present() ? tensor_.size() : 0; }
  Shape shape() const;
  const Tensor& tensor() const { return tensor_; }
  Tensor& tensor() { return tensor_; }

  double at(int64_t i) const;
  void set(int64_t i, double value);
  Values values() const;        // empty when absent
  Array copy() const;           // memory of its own
  Array to(DType dtype) const;  // rounded to nearest even; absent stays absent
  void fillWithNaN();           // integers: with a value that is no index
  bool sameBits(const Array& other) const;

 private:
  std::shared_ptr<char> block_;
  Tensor tensor_;
};

int64_t sizeOf(const Shape& shape);

}  // namespace rankone::test

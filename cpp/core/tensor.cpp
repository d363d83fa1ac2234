#include "core/tensor.h"

namespace rankone {

const char* dtypeName(DType t) {
  switch (t) {
    case DType::F32: return "f32";
    case DType::BF16: return "bf16";
    case DType::F16: return "f16";
    case DType::I32: return "i32";
    case DType::I64: return "i64";
    case DType::I8: return "i8";
    case DType::U8: return "u8";
  }
  return "?";
}

std::string dtypeNames(DTypes set) {
  std::string text;
  for (DType t : kDTypes) {
    if (!(set & dtypeBit(t))) continue;
    set &= static_cast<DTypes>(~dtypeBit(t));
    if (!text.empty()) text += set ? ", " : " or ";
    text += dtypeName(t);
  }
  return text;
}

void Tensor::setShape(std::initializer_list<int64_t> dims, DType t) {
  rank = 0;
  for (int64_t d : dims) shape[rank++] = d;
  dtype = t;
}

bool Tensor::sameShape(const Tensor& other) const {
  if (rank != other.rank) return false;
  for (int i = 0; i < rank; ++i)
    if (shape[i] != other.shape[i]) return false;
  return true;
}

std::string Tensor::shapeText() const {
  std::string text = "[";
  for (int i = 0; i < rank; ++i) {
    if (i) text += ',';
    text += std::to_string(shape[i]);
  }
  return text + ']';
}

}  // namespace rankone

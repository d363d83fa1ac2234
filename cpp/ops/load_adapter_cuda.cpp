// An adapter's parts in one piece of a device's memory, factors row-major in the dtype that they came in.
#include <algorithm>
#include <cstring>
#include <numeric>

#include "core/widen.h"
#include "ops/cuda.h"
#include "ops/load_adapter.h"

namespace rankone {
namespace {

using namespace load_adapter;

// Parts of the piece as they are put together on the host: where each begins, on a boundary that any vector load takes.
class Image {
 public:
  template <class T>
  T* take(size_t count, size_t& at) {
    at = bytes_.size();
    bytes_.resize(at + (count * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment);
    return reinterpret_cast<T*>(bytes_.data() + at);
  }
  const std::vector<char>& bytes() const { return bytes_; }

 private:
  static constexpr size_t kAlignment = 256;
  std::vector<char> bytes_;
};

static_assert(RANKONE_ACT_SELF_TOP_K == static_cast<int>(RankActivation::SelfTopK) &&
              RANKONE_ACT_GELU == static_cast<int>(RankActivation::Gelu));

constexpr size_t kNone = SIZE_MAX;

struct Factor {
  size_t matrix = kNone, index = kNone;
  int64_t stride = 0;
};

// `rows` rows, of each the first `columns` numbers; or `ranks` indices.
Factor take(const Tensor& t, int64_t rows, int64_t columns, int64_t ranks, Image& image) {
  Factor f;
  if (t.dtype == DType::I32) {
    std::memcpy(image.take<int32_t>(static_cast<size_t>(ranks), f.index), t.data,
                static_cast<size_t>(ranks) * sizeof(int32_t));
    return f;
  }
  f.stride = (columns + 7) / 8 * 8;
  const size_t size = dtypeSize(t.dtype);
  char* to = image.take<char>(static_cast<size_t>(rows * f.stride) * size, f.matrix);
  for (int64_t row = 0; row < rows; ++row)
    std::memcpy(to + static_cast<size_t>(row * f.stride) * size,
                static_cast<const char*>(t.data) + static_cast<size_t>(row * t.shape[1]) * size,
                static_cast<size_t>(columns) * size);
  return f;
}

// The first `columns` of each of `rows` rows as float32.
size_t takeFloats(const Tensor& t, int64_t rows, int64_t columns, Image& image) {
  if (!t.present()) return kNone;
  const int64_t stride = t.rank == 2 ? t.shape[1] : t.shape[0];
  size_t at;
  float* to = image.take<float>(static_cast<size_t>(rows * columns), at);
  for (int64_t i = 0; i < rows * columns; ++i) to[i] = elementOf(t, i / columns * stride + i % columns);
  return at;
}

}  // namespace

void orderRanks(const int32_t* index, int64_t ranks, int32_t* order) {
  std::iota(order, order + ranks, 0);
  std::stable_sort(order, order + ranks, [&](int32_t x, int32_t y) { return index[x] < index[y]; });
}

void storeOnDevice(const Call& call, StoredAdapter& stored) {
  const AdapterBank& bank = *call.bank;
  LoraAdapter& numbers = stored.adapter;
  const Tensor &a = call.inputs[kA], &b = call.inputs[kB], &mid = call.inputs[kMid];
  Image image;
  const Factor fa = take(a, numbers.rank, bank.in, numbers.rank, image);
  const Factor fb = take(b, bank.out, numbers.midRank, numbers.midRank, image);
  size_t order = kNone;
  if (fb.index != kNone) {
    int32_t* ranks = image.take<int32_t>(static_cast<size_t>(numbers.midRank), order);
    orderRanks(b.as<int32_t>(), numbers.midRank, ranks);
  }
  const size_t middle = takeFloats(mid, mid.rank == 2 ? numbers.midRank : 1, numbers.rank, image);
  const size_t rankBias = takeFloats(call.inputs[kRankBias], 1, numbers.rank, image);
  const size_t baseScale = takeFloats(call.inputs[kBaseScale], 1, bank.out, image);
  const size_t outBias = takeFloats(call.inputs[kOutBias], 1, bank.out, image);

  const size_t bytes = image.bytes().size();
  auto* memory = new cuda::Buffer(bank.device, bytes);
  bank.deviceBytes->fetch_add(bytes);
  stored.deviceMemory.reset(memory, [counter = bank.deviceBytes](cuda::Buffer* buffer) {
    counter->fetch_sub(buffer->bytes());
    delete buffer;
  });
  bank.device->upload(memory->data(), image.bytes().data(), bytes);

  const auto at = [&](size_t offset) -> void* {
    return offset == kNone ? nullptr : static_cast<char*>(memory->data()) + offset;
  };
  const auto floats = [&](size_t offset) { return static_cast<float*>(at(offset)); };
  const auto indices = [&](size_t offset) { return static_cast<int32_t*>(at(offset)); };
  RankoneAdapter& to = stored.onDevice;
  to.rank = numbers.rank;
  to.midRank = numbers.midRank;
  to.scale = numbers.scale;
  to.a = {at(fa.matrix), static_cast<int32_t>(fa.matrix == kNone ? DType::F32 : a.dtype)};
  to.b = {at(fb.matrix), static_cast<int32_t>(fb.matrix == kNone ? DType::F32 : b.dtype)};
  to.aStride = fa.stride;
  to.bStride = fb.stride;
  to.aIndex = indices(fa.index);
  to.bIndex = indices(fb.index);
  to.bOrder = indices(order);
  (mid.rank == 2 ? to.mid : to.midDiagonal) = floats(middle);
  to.activation = static_cast<int32_t>(numbers.activation);
  to.activeRanks = numbers.activeRanks;
  to.rankBias = numbers.rankBias = floats(rankBias);
  to.baseScale = numbers.baseScale = floats(baseScale);
  to.outBias = numbers.outBias = floats(outBias);
}

}  // namespace rankone

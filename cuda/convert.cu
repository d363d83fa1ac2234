#include <algorithm>
#include <type_traits>

#include "convert.cuh"
#include "convert.h"

namespace rankone::cuda {
namespace {

template <class To, class From>
void convertAs(Stream& stream, void* to, const void* from, int64_t count) {
  if constexpr (std::is_same_v<To, From>) {
    stream.copy(to, from, static_cast<size_t>(count) * sizeof(To));
  } else {
    constexpr int64_t perBlock = int64_t{kConvertThreads} * kConvertElements, most = (int64_t{1} << 30) * perBlock;
    for (int64_t done = 0; done < count; done += most) {
      const int64_t part = std::min(count - done, most);
      stream.launch("convert", convertKernel<To, From>, dim3(static_cast<unsigned>((part + perBlock - 1) / perBlock)),
                    dim3(kConvertThreads), 0, static_cast<To*>(to) + done, static_cast<const From*>(from) + done, part);
    }
  }
}

template <class To>
void convertTo(Stream& stream, void* to, const void* from, int32_t fromDType, int64_t count) {
  switch (fromDType) {
    case RANKONE_F32: return convertAs<To, float>(stream, to, from, count);
    case RANKONE_BF16: return convertAs<To, simt::bf16>(stream, to, from, count);
    case RANKONE_F16: return convertAs<To, simt::f16>(stream, to, from, count);
  }
}

}  // namespace

void convert(Stream& stream, void* to, int32_t toDType, const void* from, int32_t fromDType, int64_t count) {
  switch (toDType) {
    case RANKONE_F32: return convertTo<float>(stream, to, from, fromDType, count);
    case RANKONE_BF16: return convertTo<simt::bf16>(stream, to, from, fromDType, count);
    case RANKONE_F16: return convertTo<simt::f16>(stream, to, from, fromDType, count);
  }
}

}  // namespace rankone::cuda

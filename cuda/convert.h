#pragma once
#include <cstdint>

#include "stream.h"

namespace rankone::cuda {

// Conversions between float dtypes, rounded to nearest even.
void convert(Stream& stream, void* to, int32_t toDType, const void* from, int32_t fromDType, int64_t count);

}  // namespace rankone::cuda

// Options of ops that draw numbers of their own.
#pragma once
#include "ops/op.h"

namespace rankone {

constexpr int64_t kMostSeed = (int64_t{1} << 53) - 1;
constexpr int64_t kMostStream = (int64_t{1} << 32) - 1;
constexpr int64_t kMostDrawn = int64_t{1} << 34;  // values of one stream

}  // namespace rankone

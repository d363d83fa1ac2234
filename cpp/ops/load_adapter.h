// What an adapter's way into a bank has in common for CPU and device.
#pragma once
#include "ops/adapter_bank.h"
#include "ops/op.h"

namespace rankone {

namespace load_adapter {
enum Input { kA, kB, kMid, kRankBias, kBaseScale, kOutBias };
enum Option { kScale, kAct, kTopK, kRank, kId };
}  // namespace load_adapter

// Ranks by rising index; of equal ones the first first.
void orderRanks(const int32_t* index, int64_t ranks, int32_t* order);

// Puts what the call brings, tensors of the CPU, into memory of the bank's device. `stored` has its numbers.
void storeOnDevice(const Call& call, StoredAdapter& stored);

}  // namespace rankone

// What loraLinear and its backward have in common: their arguments' places, and what a valid call comes to.
#pragma once
#include <memory>
#include <vector>

#include "kernels/lora.h"
#include "ops/adapter_bank.h"
#include "ops/op.h"
#include "ops/packed_weight.h"

namespace rankone::lora {

enum Input { kX, kBias, kIds, kIndptr, kGates, kOwnInputs };
enum Option {
  kKind,
  kId,
  kK,
  kCompute,
  kDropoutP,
  kDropoutSeed,
  kSkipP,
  kSkipSeed,
  kOwnOptions,
};

#define RANKONE_LORA_INPUTS                                                                      \
  {"x", true, kFloats}, {"bias", false, kFloats}, {"ids", false, kI32, Access::Read, "routing"}, \
      {"indptr", false, kIndices, Access::Read, "routing"}, {                                    \
    "gates", false, kFloats, Access::Read, "routing"                                             \
  }
#define RANKONE_LORA_OPTIONS(computes)                                                                 \
  {"kind", OptionKind::Choice, "one|segments|tokens|topK", "routing"},                                 \
      {"id", OptionKind::Integer, nullptr, "routing"}, {"k", OptionKind::Integer, nullptr, "routing"}, \
      {"compute", OptionKind::Choice, computes}, {"p", OptionKind::Number, nullptr, "dropout"},        \
      {"seed", OptionKind::Number, nullptr, "dropout"}, {"p", OptionKind::Number, nullptr, "skip"}, {  \
    "seed", OptionKind::Number, nullptr, "skip"                                                        \
  }

// A call that has been checked. It keeps the adapters it names as they are now.
struct Problem {
  int64_t rows = 0, in = 0, out = 0, perRow = 1;
  bool routed = false;
  std::vector<int32_t> ids;  // those that the routing names, ascending
  std::vector<std::shared_ptr<const StoredAdapter>> held;
  std::vector<const LoraAdapter*> adapters;  // in held
  std::vector<int32_t> slots;                // [rows, perRow] into adapters; -1: none, or left out by `skip`
  int64_t maxRank = 0;
};

// Checks all that forward and backward share; the result is kept in call.planned.
const Problem& plan(Call& call);

inline const Problem& problemOf(const Call& call) { return *static_cast<const Problem*>(call.planned.get()); }

// The kernel's arguments but for t. `gates` keeps the gates where they are not float32.
LoraArgs arguments(const Call& call, std::vector<float>& gates);

// x's leading dimensions, then `last`.
Tensor outerShape(const Call& call, int64_t last);

}  // namespace rankone::lora

// Results against references: ||out - ref|| / ||ref|| over rows, as the numerical contract counts.
#pragma once
#include <string>

#include "array.h"

namespace rankone::test {

// What makes a row. Tokens: [B,T,H,...], one per b and h, and besides each token's vector within ten times the limit;
// States: [N,H,...], one per n and h; Whole: all elements.
enum class Rows { Whole, Tokens, States };

struct Reference {
  Values values;
  Values noise;  // how far each moves when the inputs are rounded once; empty: not at all
};

// Results of half the width are held to the float32 limits but for their last rounding, which is forgiven; that is
// stricter than the contract's rows for them.

// Throws Failure unless the results are finite and within the limit, a row that cancels being measured against the
// tensor's root mean square, and 16 times the noise of a row being forgiven in it.
void expectNear(const std::string& label, const Array& out, const Reference& reference, Rows rows, double limit);
void expectNear(const std::string& label, const Array& out, const Values& reference, double limit);

Reference withNoise(const Values& values, const Values& shaken);

// The rows of the contract for float32 and short sequences.
constexpr double kOutputLimit = 2e-6, kStateLimit = 1e-5, kGateLimit = 5e-5;

}  // namespace rankone::test

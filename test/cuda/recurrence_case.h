// Problems of the grid with random arguments, on the host for the reference and on a device for the library.
#pragma once
#include <cstdlib>

#include "harness.h"
#include "recurrence_reference.h"

namespace rankone::test {

// Draws the arguments of a problem whose sizes and choices are set, rounded to dtype; gates and betas to gateDType.
// Keys have norms about 1, gates are mild, betas lie in [0,1].
void drawArguments(reference::Problem& problem, uint64_t seed, DType dtype, DType gateDType);
void drawGradients(reference::Problem& problem, uint64_t seed, DType dtype);

std::string describe(const reference::Problem& problem, DType dtype);

// A problem's arguments in device memory.
struct DeviceProblem {
  DeviceProblem(Device& device, const reference::Problem& problem, DType dtype, DType gateDType);

  RankoneRecurrence problem = {};  // points into what follows, and into the reference's cuSeqlens
  DeviceArray q, k, v, g, beta, valueScale, aLog, dtBias, initialState, initialZ;
};

// A forward in chunks with bf16 arithmetic. Packed problems' o is one row of tokens.
struct ChunkResult {
  Array o, finalState;
};
ChunkResult forwardInChunks(Device& device, const reference::Problem& problem, DType dtype = DType::BF16);

// Relative errors of the worst sequence and head, and of the worst token, relative to the larger of its norm and the
// tensor's root mean square.
struct ChunkErrors {
  double o = 0, token = 0, state = 0;
};
ChunkErrors errorsOf(const reference::Problem& problem, const ChunkResult& result, const reference::Forward& expected);

// By the contract's rows for bf16 arithmetic, `wide`: with betas up to 2.
void expectChunks(const reference::Problem& problem, const ChunkResult& result, bool wide = false,
                  DType dtype = DType::BF16);

// Sets a variable of the environment for a scope.
class Setting {
 public:
  Setting(const char* name, const char* value) : name_(name) { setenv(name, value, 1); }
  ~Setting() { unsetenv(name_); }

 private:
  const char* name_;
};

}  // namespace rankone::test

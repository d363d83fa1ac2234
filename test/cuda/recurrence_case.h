// Problems of the grid with random arguments, on the host for the reference and on a device for the library.
#pragma once
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

}  // namespace rankone::test

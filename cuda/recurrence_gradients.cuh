// The gradient kernels' entry points. See recurrence_gradients_rows.cuh for the formulas.
#pragma once
#include "recurrence_gradients_channel.cuh"
#include "recurrence_gradients_scalar.cuh"

namespace rankone::cuda {

template <class A, ChunkGate kGate, bool kDelta>
__global__ void __launch_bounds__(kGradientThreads, kGate == ChunkGate::CHANNEL || !A::kSparing ? 1 : 2)
    recurrenceChunkGradients(const GradientArgs args) {
  using Gradients =
      std::conditional_t<kGate == ChunkGate::CHANNEL, ChannelGradients<A, kDelta>, ScalarGradients<A, kGate, kDelta>>;
  Gradients(args, simt::shared<GradientShared<A, kGate>>()).run();
}

// dg[hv] of a head gate: its chunks in order, in float64, 256 at a time.
__global__ void __launch_bounds__(kGradientThreads)
    sumChunkGates(const float* parts, int64_t chunks, int64_t HV, float* dg) {
  auto& sums = simt::shared<double[kGradientThreads]>();
  const int t = static_cast<int>(threadIdx.x);
  const int64_t hv = blockIdx.x;
  double sum = 0;
  for (int64_t c = t; c < chunks; c += kGradientThreads) sum += static_cast<double>(parts[c * HV + hv]);
  sums[t] = sum;
  for (int half = kGradientThreads / 2; half > 0; half /= 2) {
    simt::syncthreads();
    if (t < half) sums[t] += sums[t + half];
  }
  if (t == 0) dg[hv] = static_cast<float>(sums[0]);
}

}  // namespace rankone::cuda

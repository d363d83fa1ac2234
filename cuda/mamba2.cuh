// The parts of Mamba-2 around its recurrence, and the sum of two gradients. Formulas: cpp/kernels/mamba2.inl. A warp
// has one row of one head; sums over rows are in float64, rows in blocks of kSumRows, in an order that the shape fixes.
#pragma once
#include "recurrence_curves.cuh"

// Last: it names what CUDA and the emulator have in common.
#include "simt/simt.cuh"

namespace rankone::cuda {

constexpr int kMamba2Threads = 256, kMamba2Warps = kMamba2Threads / 32;

SIMT_DEV int64_t globalThread() { return int64_t{blockIdx.x} * blockDim.x + threadIdx.x; }

__global__ void __launch_bounds__(kMamba2Threads)
    mamba2PrepareKernel(RankoneMamba2 args, float* step /* [rows,HV] */, float* g /* [rows,HV] */) {
  const int64_t i = globalThread();
  if (i >= args.rows * args.HV) return;
  const int64_t h = i % args.HV;
  float s = elementAt(args.dt.data, args.dt.dtype, i);
  if (args.dtBias) s += args.dtBias[h];
  if (args.softplus) s = softplus(s);
  s = s < args.low ? args.low : s > args.high ? args.high : s;
  step[i] = s;
  g[i] = s * args.A[h];
}

__global__ void __launch_bounds__(kMamba2Threads)
    mamba2SkipKernel(RankoneMamba2 args, RankoneFloats o, void* y /* [rows,HV,P] */, int32_t yDType) {
  const int64_t at = globalThread() / 32;
  if (at >= args.rows * args.HV) return;
  const float by = args.D[at % args.HV];
  for (int64_t p = threadIdx.x % 32; p < args.P; p += 32) {
    const int64_t i = at * args.P + p;
    setElement(y, yDType, i, fmaf(by, elementAt(args.x.data, args.x.dtype, i), elementAt(o.data, o.dtype, i)));
  }
}

// dx and ddt; skips [rows,HV] gets dY . x of each row, where D has a gradient.
__global__ void __launch_bounds__(kMamba2Threads)
    mamba2RowsKernel(RankoneMamba2 args, RankoneMamba2Gradients to, float* skips) {
  const int64_t at = globalThread() / 32;
  if (at >= args.rows * args.HV) return;
  const int64_t h = at % args.HV;
  const float step = to.step[at], by = args.D ? args.D[h] : 0.0f;
  float dot = 0, skip = 0;
  for (int64_t p = threadIdx.x % 32; p < args.P; p += 32) {
    const int64_t i = at * args.P + p;
    const float x = elementAt(args.x.data, args.x.dtype, i), dv = to.dV[i];
    dot = fmaf(dv, x, dot);
    float dx = dv * step;
    if (args.D) {
      const float dY = elementAt(to.dY.data, to.dY.dtype, i);
      dx = fmaf(by, dY, dx);
      skip = fmaf(dY, x, skip);
    }
    to.dx[i] = dx;
  }
  dot = warpSum(dot);
  skip = warpSum(skip);
  if (threadIdx.x % 32 != 0) return;
  if (skips) skips[at] = skip;
  double raw = elementAt(args.dt.data, args.dt.dtype, at);
  if (args.dtBias) raw += args.dtBias[h];
  const double open = !args.softplus ? raw : raw > 0 ? raw + log1p(exp(-raw)) : log1p(exp(raw));
  const double slope = open < args.low || open > args.high ? 0 : args.softplus ? 1 / (1 + exp(-raw)) : 1;
  to.ddt[at] =
      slope == 0 ? 0.0f
                 : static_cast<float>((static_cast<double>(dot) + static_cast<double>(to.dG[at]) * args.A[h]) * slope);
}

constexpr int kSumRows = 256;  // of a block
constexpr int kSums = 3;       // dA, dD, dDtBias

struct Mamba2Sums {
  double partial[kMamba2Warps][32][kSums];
};

// A block has kSumRows rows of 32 heads, a warp every eighth row: partial sums [blocks of rows][HV][kSums].
__global__ void __launch_bounds__(kMamba2Threads)
    mamba2SumsKernel(RankoneMamba2 args, RankoneMamba2Gradients to, const float* skips, double* partial) {
  auto& shared = simt::shared<Mamba2Sums>();
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int64_t h = int64_t{blockIdx.y} * 32 + lane, first = int64_t{blockIdx.x} * kSumRows;
  const int64_t end = first + kSumRows < args.rows ? first + kSumRows : args.rows;
  double sums[kSums] = {};
  for (int64_t row = first + warp; h < args.HV && row < end; row += kMamba2Warps) {
    const int64_t at = row * args.HV + h;
    sums[0] += static_cast<double>(to.dG[at]) * to.step[at];
    if (skips) sums[1] += skips[at];
    sums[2] += to.ddt[at];
  }
  for (int i = 0; i < kSums; ++i) shared.partial[warp][lane][i] = sums[i];
  simt::syncthreads();
  if (warp != 0 || h >= args.HV) return;
  for (int i = 0; i < kSums; ++i) {
    double sum = 0;
    for (int w = 0; w < kMamba2Warps; ++w) sum += shared.partial[w][lane][i];
    partial[(int64_t{blockIdx.x} * args.HV + h) * kSums + i] = sum;
  }
}

__global__ void __launch_bounds__(kMamba2Threads)
    mamba2TotalsKernel(RankoneMamba2 args, RankoneMamba2Gradients to, const double* partial, int64_t blocks) {
  const int64_t h = globalThread();
  if (h >= args.HV) return;
  double sums[kSums] = {};
  for (int64_t block = 0; block < blocks; ++block)
    for (int i = 0; i < kSums; ++i) sums[i] += partial[(block * args.HV + h) * kSums + i];
  to.dA[h] = static_cast<float>(sums[0]);
  if (to.dD) to.dD[h] = static_cast<float>(sums[1]);
  if (to.dDtBias) to.dDtBias[h] = static_cast<float>(sums[2]);
}

__global__ void __launch_bounds__(kMamba2Threads) addKernel(float* to, const float* from, int64_t count) {
  const int64_t i = globalThread();
  if (i < count) to[i] += from[i];
}

}  // namespace rankone::cuda

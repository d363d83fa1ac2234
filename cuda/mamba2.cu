#include "mamba2.cuh"
#include "mamba2.h"

namespace rankone::cuda {
namespace {

// So many blocks that a grid of one dimension could not have them are no problem that fits into a device's memory.
dim3 blocksOf(int64_t count, int64_t perBlock) {
  return dim3(static_cast<unsigned>((count + perBlock - 1) / perBlock));
}

}  // namespace

void mamba2Prepare(Stream& stream, const RankoneMamba2& args, float* step, float* g) {
  stream.launch("mamba2 step", mamba2PrepareKernel, blocksOf(args.rows * args.HV, kMamba2Threads), dim3(kMamba2Threads),
                0, args, step, g);
}

void mamba2Skip(Stream& stream, const RankoneMamba2& args, RankoneFloats o, void* y, int32_t yDType) {
  stream.launch("mamba2 skip", mamba2SkipKernel, blocksOf(args.rows * args.HV, kMamba2Warps), dim3(kMamba2Threads), 0,
                args, o, y, yDType);
}

void mamba2Gradients(Stream& stream, const RankoneMamba2& args, const RankoneMamba2Gradients& gradients) {
  const int64_t cells = args.rows * args.HV, blocks = (args.rows + kSumRows - 1) / kSumRows;
  const Scratch<float> skips(stream, gradients.dD ? static_cast<size_t>(cells) : 0);
  const Scratch<double> partial(stream, static_cast<size_t>(blocks * args.HV * kSums));
  stream.launch("mamba2 gradients", mamba2RowsKernel, blocksOf(cells, kMamba2Warps), dim3(kMamba2Threads), 0, args,
                gradients, skips.data());
  stream.launch("mamba2 sums", mamba2SumsKernel,
                dim3(static_cast<unsigned>(blocks), static_cast<unsigned>((args.HV + 31) / 32)), dim3(kMamba2Threads),
                sizeof(Mamba2Sums), args, gradients, static_cast<const float*>(skips.data()), partial.data());
  stream.launch("mamba2 totals", mamba2TotalsKernel, blocksOf(args.HV, kMamba2Threads), dim3(kMamba2Threads), 0, args,
                gradients, static_cast<const double*>(partial.data()), blocks);
}

void add(Stream& stream, float* to, const float* from, int64_t count) {
  stream.launch("add", addKernel, blocksOf(count, kMamba2Threads), dim3(kMamba2Threads), 0, to, from, count);
}

}  // namespace rankone::cuda

#include "lora.h"
//
#include "lora_forward_run.cuh"
#include "lora_operand.cuh"

namespace rankone::cuda {

namespace {

WeightFormat formatOf(const RankoneWeight& w) {
  WeightFormat f = {w.format, w.rowBytes, 0, 0, w.format == RANKONE_WEIGHT_INT8 ? 1 : 0};
  if (w.format != RANKONE_WEIGHT_Q8 && w.format != RANKONE_WEIGHT_NF4 && w.format != RANKONE_WEIGHT_Q4) return f;
  if (w.block < 8 || (w.block & (w.block - 1)) != 0)
    throw Failure(1, "scales of a number of columns that is no power of two from 8 on");
  f.block = static_cast<int32_t>(w.block);
  while (int64_t{1} << f.blockShift < w.block) ++f.blockShift;
  f.blocks = (w.in + w.block - 1) / w.block;
  return f;
}

}  // namespace

Scratch<uint8_t> makeOperand(Stream& stream, const RankoneLora& p, LoraForwardArgs& args, int32_t dtype,
                             const uint32_t* order) {
  const int64_t size = dtype == RANKONE_F32 ? 4 : 2;
  args.operandBytes = p.in * size;
  args.operandStride = (args.operandBytes + 15) / 16 * 16;
  args.operand = static_cast<const uint8_t*>(p.x.data);
  args.operandInOrder = order != nullptr;
  const bool aligned = args.operandStride == args.operandBytes && reinterpret_cast<uintptr_t>(p.x.data) % 16 == 0;
  if (dtype == p.x.dtype && aligned && !order) return {};

  Scratch<uint8_t> operand(stream, static_cast<size_t>(p.rows * args.operandStride));
  args.operand = operand.data();
  const int64_t stride = args.operandStride / size;
  const int64_t blocks =
      std::min<int64_t>((p.rows * stride + kOperandThreads - 1) / kOperandThreads, 8 * stream.info().multiprocessors);
  stream.launch("loraOperand", loraOperandKernel, dim3(static_cast<unsigned>(blocks)), dim3(kOperandThreads), 0,
                static_cast<void*>(operand.data()), dtype, stride, p.x, p.rows, p.in, order);
  return operand;
}

void loraForward(Stream& stream, const RankoneLoraForward& forward) {
  const RankoneLora& p = forward.problem;
  if (p.rows == 0) return;
  if (p.rows >= int64_t{kNoPair} / std::max<int64_t>(1, p.perRow))
    throw Failure(1, "more than 2^32 pairs of rows and adapters");
  if (p.t) stream.fill(p.t, 0, static_cast<size_t>(p.rows * p.perRow * p.tRanks) * sizeof(float));

  LoraCall call = {stream, p, {}};
  LoraForwardArgs& args = call.args;
  args.x = p.x;
  args.in = p.in;
  args.out = p.out;
  args.hasBase = p.base != nullptr;
  args.identity = p.identity != 0;
  if (p.base) {
    args.format = formatOf(*p.base);
    args.codes = static_cast<const uint8_t*>(p.base->codes);
    args.scales = p.base->scales;
  }
  args.bias = p.bias;
  args.perRow = p.perRow;
  args.gates = p.gates;
  args.dropout = dropoutOf(p.dropout, p.seed);
  args.t = p.t;
  args.tStride = p.tRanks;
  args.y = forward.y;

  // Products are made of x's own elements on the tensor cores, and of float32 otherwise.
  const int32_t dtype = p.x.dtype != RANKONE_F32 ? p.x.dtype : RANKONE_BF16;
  if (p.compute == RANKONE_COMPUTE_BF16 || (p.compute == RANKONE_COMPUTE_DEFAULT && p.x.dtype != RANKONE_F32)) {
    if (loraTakesHopper(call) && (dtype == RANKONE_BF16 ? loraHopperBf16(call) : loraHopperF16(call))) return;
    const Scratch<uint8_t> operand = makeOperand(stream, p, args, dtype, nullptr);
    if (dtype == RANKONE_BF16 ? loraForwardBf16(call) : loraForwardF16(call)) return;
  }
  const Scratch<uint8_t> operand = makeOperand(stream, p, args, RANKONE_F32, nullptr);
  loraForwardF32(call);
}

}  // namespace rankone::cuda

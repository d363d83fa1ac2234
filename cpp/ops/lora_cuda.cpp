#include "ops/lora_cuda.h"

namespace rankone::lora {

CudaProblem::CudaProblem(const Call& call) {
  const Problem& p = problemOf(call);
  args_.x = cuda::floatsOf(call.inputs[kX]);
  args_.rows = p.rows;
  args_.in = p.in;
  args_.out = p.out;
  args_.base = call.base ? &call.base->onDevice() : nullptr;
  args_.identity = call.identity;
  args_.compute = call.options[kCompute].given ? RANKONE_COMPUTE_F32 + static_cast<int32_t>(call.integer(kCompute, 0))
                                               : RANKONE_COMPUTE_DEFAULT;
  args_.bias = cuda::floatsOf(call.inputs[kBias]);
  for (const auto& held : p.held) adapters_.push_back(held->onDevice);
  if (!adapters_.empty()) {
    args_.adapters = adapters_.data();
    args_.adapterCount = static_cast<int64_t>(adapters_.size());
    args_.slots = p.slots.data();
  }
  args_.perRow = p.perRow;
  args_.gates = cuda::widened(call, call.inputs[kGates], gates_);
  args_.dropout = call.number(kDropoutP, 0);
  args_.seed = static_cast<uint64_t>(call.number(kDropoutSeed, 0));
}

}  // namespace rankone::lora

// What loraLinear and its backward have in common on a device.
#pragma once
#include <vector>

#include "ops/cuda.h"
#include "ops/lora_problem.h"

namespace rankone::lora {

// A planned call as the backend takes it; it keeps what args() points to.
class CudaProblem {
 public:
  explicit CudaProblem(const Call& call);
  const RankoneLora& args() const { return args_; }  // but for t

 private:
  RankoneLora args_{};
  std::vector<RankoneAdapter> adapters_;
  cuda::Array<float> gates_;
};

}  // namespace rankone::lora

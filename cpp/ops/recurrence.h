// The recurrence grid: S <- D(g_t) S, then n updates, then o_t = scale S^T q_t. Specs of the forward and the backward,
// their arguments as the kernels take them, and the one copy of the shape rules.
#pragma once
#include <cstdint>

#include "ops/op.h"
#include "ops/presets.h"
#include "ops/saved.h"
#include "ops/state.h"

namespace rankone {

// How a recurrence is run: rows that the specs of all its forms share, kMode to kDevice below.
#define RANKONE_RUN_OPTIONS                                                                 \
  {"mode", OptionKind::Choice, "auto|recurrent|chunk"}, {"chunkSize", OptionKind::Integer}, \
      {"compute", OptionKind::Choice, "f32|bf16"}, {                                        \
    "device", OptionKind::Choice, "cpu|cuda"                                                \
  }

namespace recurrence_inputs {
enum { kQ, kK, kV, kG, kBeta, kInitialState, kDO, kDFinalState };
}
namespace recurrence_options {
enum {
  kUpdate,
  kNumHouseholder,
  kScale,
  kMode,
  kChunkSize,
  kCompute,
  kDevice,
  kLayer,
  kLayers,
  kOutputFinalState,
  kSaveForBackward
};
}
namespace recurrence_outputs {
enum { kO, kFinalState };
}
namespace recurrence_gradients {
enum { kDQ, kDK, kDV, kDG, kDBeta, kDInitialState };
}

extern const OpSpec recurrenceOp, recurrenceBackwardOp;

}  // namespace rankone

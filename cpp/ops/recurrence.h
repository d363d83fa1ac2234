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
    "device", OptionKind::Device                                                            \
  }

// Rows that the specs of forward and backward share: kQ to kDtBias, and kUpdate to kLowerBound.
#define RANKONE_RECURRENCE_INPUTS                                                                                    \
  {"q", true, kFloats}, {"k", true, kFloats}, {"v", true, kFloats}, {"g", false, kFloats}, {"beta", false, kFloats}, \
      {"initialState", false}, {"initialZ", false}, {"cuSeqlens", false, kIndices, Access::Read, ""},                \
      {"aLog", false, kF32, Access::Read, "gate"}, {                                                                 \
    "dtBias", false, kF32, Access::Read, "gate"                                                                      \
  }
#define RANKONE_RECURRENCE_OPTIONS                                                                        \
  {"update", OptionKind::Choice, "additive|delta"}, {"numHouseholder", OptionKind::Integer},              \
      {"scale", OptionKind::Number}, RANKONE_RUN_OPTIONS, {"layer", OptionKind::Integer},                 \
      {"layers", OptionKind::Integer}, {"qkL2norm", OptionKind::Flag},                                    \
      {"betaActivation", OptionKind::Choice, "none|sigmoid|sigmoid2"}, {"normalize", OptionKind::Flag}, { \
    "lowerBound", OptionKind::Number, nullptr, "gate"                                                     \
  }

namespace recurrence_inputs {
enum {
  kQ,
  kK,
  kV,
  kG,
  kBeta,
  kInitialState,
  kInitialZ,
  kCuSeqlens,
  kALog,
  kDtBias,
  kStateIndices,  // forward
  kDO = kStateIndices,
  kDFinalState,
  kDFinalZ
};
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
  kQkL2norm,
  kBetaActivation,
  kNormalize,
  kLowerBound,
  kOutputFinalState,  // forward
  kSaveForBackward,
  kGradDtype = kOutputFinalState  // backward
};
}
namespace recurrence_outputs {
enum { kO, kFinalState, kFinalZ };
}
namespace recurrence_gradients {
enum { kDQ, kDK, kDV, kDG, kDBeta, kDInitialState, kDALog, kDDtBias, kDInitialZ };
}

extern const OpSpec recurrenceOp, recurrenceBackwardOp;

}  // namespace rankone

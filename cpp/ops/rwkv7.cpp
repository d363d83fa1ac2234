// RWKV-7 under its own parameters: dplr with g = -e^-0.5 sigmoid(w), a = -kappa / |kappa|, b = a kappa / |kappa|.
#include "ops/gated_scan.h"

namespace rankone {
namespace {

#define RANKONE_RWKV7_INPUTS                                                                                        \
  {"r", true, kFloats}, {"k", true, kFloats}, {"v", true, kFloats}, {"w", true, kFloats}, {"kappa", true, kFloats}, \
      {"a", true, kFloats}, {"initialState", false}, {                                                              \
    "cuSeqlens", false, kIndices, Access::Read, ""                                                                  \
  }
constexpr InputSpec kInputs[] = {RANKONE_RWKV7_INPUTS, {"stateIndices", false, kI32, Access::Read, ""}};
constexpr InputSpec kBackwardInputs[] = {RANKONE_RWKV7_INPUTS, {"dO", true, kFloats}, {"dFinalState", false}};
constexpr OptionSpec kOptions[] = {{"scale", OptionKind::Number}, {"outputFinalState", OptionKind::Flag}};
constexpr OptionSpec kBackwardOptions[] = {{"scale", OptionKind::Number},
                                           {"gradDtype", OptionKind::Choice, "f32|input"}};
constexpr OutputSpec kOutputs[] = {{"o"}, {"finalState"}};
constexpr OutputSpec kGradients[] = {{"dr"}, {"dk"}, {"dv"}, {"dw"}, {"dkappa"}, {"da"}, {"dInitialState"}};

constexpr GatedScanSpec kSpec{
    .rule = ScanRule::Rwkv7, .a = 4, .b = 5, .bonus = -1, .initialState = 6, .cuSeqlens = 7, .scale = 1};

void plan(Call& call) { planGatedScan(call, kSpec); }
void run(const Call& call) { runGatedScan(call, kSpec); }
void planBackward(Call& call) { planGatedScanBackward(call, kSpec); }
void runBackward(const Call& call) { runGatedScanBackward(call, kSpec); }

}  // namespace

extern const OpSpec rwkv7Op, rwkv7BackwardOp;

const OpSpec rwkv7Op = {
    .name = "rwkv7",
    .inputs = kInputs,
    .options = kOptions,
    .outputs = kOutputs,
    .plan = plan,
    .run = run,
    .takesState = true,
};

const OpSpec rwkv7BackwardOp = {
    .name = "rwkv7Backward",
    .inputs = kBackwardInputs,
    .options = kBackwardOptions,
    .outputs = kGradients,
    .plan = planBackward,
    .run = runBackward,
};

}  // namespace rankone

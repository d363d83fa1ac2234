// Diagonal plus low rank: S <- diag(e^g) S + b (a^T S)^T + k v^T, the general form of RWKV-7's recurrence.
#include "ops/gated_scan.h"

namespace rankone {
namespace {

#define RANKONE_DPLR_INPUTS                                                                                     \
  {"q", true, kFloats}, {"k", true, kFloats}, {"v", true, kFloats}, {"g", true, kFloats}, {"a", true, kFloats}, \
      {"b", true, kFloats}, {"initialState", false}, {                                                          \
    "cuSeqlens", false, kIndices, Access::Read, ""                                                              \
  }
constexpr InputSpec kInputs[] = {RANKONE_DPLR_INPUTS, {"stateIndices", false, kI32, Access::Read, ""}};
constexpr InputSpec kBackwardInputs[] = {RANKONE_DPLR_INPUTS, {"dO", true, kFloats}, {"dFinalState", false}};
constexpr OptionSpec kOptions[] = {{"scale", OptionKind::Number}, {"outputFinalState", OptionKind::Flag}};
constexpr OptionSpec kBackwardOptions[] = {{"scale", OptionKind::Number},
                                           {"gradDtype", OptionKind::Choice, "f32|input"}};
constexpr OutputSpec kOutputs[] = {{"o"}, {"finalState"}};
constexpr OutputSpec kGradients[] = {{"dq"}, {"dk"}, {"dv"}, {"dg"}, {"da"}, {"db"}, {"dInitialState"}};

constexpr GatedScanSpec kSpec{
    .rule = ScanRule::Dplr, .a = 4, .b = 5, .bonus = -1, .initialState = 6, .cuSeqlens = 7, .scale = 0};

void plan(Call& call) { planGatedScan(call, kSpec); }
void run(const Call& call) { runGatedScan(call, kSpec); }
void planBackward(Call& call) { planGatedScanBackward(call, kSpec); }
void runBackward(const Call& call) { runGatedScanBackward(call, kSpec); }

}  // namespace

extern const OpSpec dplrOp, dplrBackwardOp;

const OpSpec dplrOp = {
    .name = "dplr",
    .inputs = kInputs,
    .options = kOptions,
    .outputs = kOutputs,
    .plan = plan,
    .run = run,
    .takesState = true,
};

const OpSpec dplrBackwardOp = {
    .name = "dplrBackward",
    .inputs = kBackwardInputs,
    .options = kBackwardOptions,
    .outputs = kGradients,
    .plan = planBackward,
    .run = runBackward,
};

}  // namespace rankone

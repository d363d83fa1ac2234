// RWKV-6 (Finch): o = (S + (u k) v^T)^T q, then S <- diag(e^g) S + k v^T.
#include "ops/gated_scan.h"

namespace rankone {
namespace {

#define RANKONE_RWKV6_INPUTS                                                                                    \
  {"q", true, kFloats}, {"k", true, kFloats}, {"v", true, kFloats}, {"g", true, kFloats}, {"u", true, kFloats}, \
      {"initialState", false}, {                                                                                \
    "cuSeqlens", false, kIndices, Access::Read, ""                                                              \
  }
constexpr InputSpec kInputs[] = {RANKONE_RWKV6_INPUTS, {"stateIndices", false, kI32, Access::Read, ""}};
constexpr InputSpec kBackwardInputs[] = {RANKONE_RWKV6_INPUTS, {"dO", true, kFloats}, {"dFinalState", false}};
constexpr OptionSpec kOptions[] = {{"scale", OptionKind::Number}, {"outputFinalState", OptionKind::Flag}};
constexpr OptionSpec kBackwardOptions[] = {{"scale", OptionKind::Number},
                                           {"gradDtype", OptionKind::Choice, "f32|input"}};
constexpr OutputSpec kOutputs[] = {{"o"}, {"finalState"}};
constexpr OutputSpec kGradients[] = {{"dq"}, {"dk"}, {"dv"}, {"dg"}, {"du"}, {"dInitialState"}};

constexpr GatedScanSpec kSpec{
    .rule = ScanRule::BonusFirst, .a = -1, .b = -1, .bonus = 4, .initialState = 5, .cuSeqlens = 6, .scale = 1};

void plan(Call& call) { planGatedScan(call, kSpec); }
void run(const Call& call) { runGatedScan(call, kSpec); }
void planBackward(Call& call) { planGatedScanBackward(call, kSpec); }
void runBackward(const Call& call) { runGatedScanBackward(call, kSpec); }

}  // namespace

extern const OpSpec rwkv6Op, rwkv6BackwardOp;

const OpSpec rwkv6Op = {
    .name = "rwkv6",
    .inputs = kInputs,
    .options = kOptions,
    .outputs = kOutputs,
    .plan = plan,
    .run = run,
    .takesState = true,
};

const OpSpec rwkv6BackwardOp = {
    .name = "rwkv6Backward",
    .inputs = kBackwardInputs,
    .options = kBackwardOptions,
    .outputs = kGradients,
    .plan = planBackward,
    .run = runBackward,
};

}  // namespace rankone

#include "ops/presets.h"

#include <cmath>
#include <string_view>

#include "ops/recurrence.h"

namespace rankone {
namespace {

constexpr auto kAdditive = UpdateRule::Additive;
constexpr auto kDelta = UpdateRule::Delta;

const Preset kPresets[] = {
    // name, update, gate, numHouseholder, gate fixed by shape
    {"linearAttention", kAdditive, GateKind::None, false},
    {"retention", kAdditive, GateKind::Head, false, FixedGate::Retention},
    {"lightningAttention", kAdditive, GateKind::Head, false, FixedGate::Lightning},
    {"simpleGla", kAdditive, GateKind::Token, false},
    {"gla", kAdditive, GateKind::Channel, false},
    {"deltaNet", kDelta, GateKind::None, false},
    {"gatedDeltaNet", kDelta, GateKind::Token, false},
    {"kda", kDelta, GateKind::Channel, false},
    {"deltaProduct", kDelta, GateKind::None, true},
    {"gatedDeltaProduct", kDelta, GateKind::Token, true},
};

bool usesGate(const Preset& p) { return p.gate != GateKind::None && p.fixedGate == FixedGate::No; }
bool normalizes(const Preset& p) { return p.update == UpdateRule::Additive && p.gate == GateKind::None; }

}  // namespace

std::span<const Preset> presets() { return kPresets; }

void fillFixedGate(const Call& call, int64_t valueHeads, float* gate) {
  const double layer = call.number(recurrence_options::kLayer, 0), layers = call.number(recurrence_options::kLayers, 1);
  for (int64_t h = 0; h < valueHeads; ++h) {
    const double x = static_cast<double>(h);
    gate[h] = static_cast<float>(call.preset->fixedGate == FixedGate::Retention
                                     ? std::log1p(-std::exp2(-5 - x))
                                     : -(8 / static_cast<double>(valueHeads)) * (1 - layer / layers) * x);
  }
}

bool takesInput(const Preset* preset, const InputSpec& input) {
  if (!preset) return true;
  const std::string_view name = input.name;
  if (name == "g") return usesGate(*preset);
  if (name == "aLog" || name == "dtBias") return usesGate(*preset);
  if (name == "beta") return preset->update == UpdateRule::Delta;
  if (name == "initialZ" || name == "dFinalZ") return normalizes(*preset);
  return true;
}

bool requiresInput(const Preset* preset, const InputSpec& input) {
  if (!preset || input.required) return input.required;
  const std::string_view name = input.name;
  return (name == "g" || name == "beta") && takesInput(preset, input);
}

bool takesOption(const Preset* preset, const OptionSpec& option) {
  const std::string_view name = option.name;
  const bool lightning = preset && preset->fixedGate == FixedGate::Lightning;
  if (name == "layer" || name == "layers") return lightning;
  if (!preset) return true;
  if (name == "update") return false;
  if (name == "numHouseholder") return preset->householder;
  if (name == "lowerBound") return usesGate(*preset);
  if (name == "betaActivation") return preset->update == UpdateRule::Delta;
  if (name == "normalize") return normalizes(*preset);
  return true;
}

bool hasOutput(const Preset* preset, const OutputSpec& output) {
  if (!preset) return true;
  const std::string_view name = output.name;
  if (name == "dg" || name == "dALog" || name == "dDtBias") return usesGate(*preset);
  if (name == "finalZ" || name == "dInitialZ") return normalizes(*preset);
  if (name == "dbeta") return preset->update == UpdateRule::Delta;
  return true;
}

}  // namespace rankone

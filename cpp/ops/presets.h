// Paper name -> cell of the recurrence grid. A row fixes the update rule and the gates that the paper allows; it has no
// kernel of its own. Adding a paper that is a cell of the grid is a row here and typed exports in
// ts/ops/additivePresets.ts or deltaPresets.ts.
#pragma once
#include <span>

#include "ops/op.h"

namespace rankone {

enum class UpdateRule : uint8_t { Additive, Delta };

// The rank of g decides the gate; a size never does.
enum class GateKind : uint8_t { None, Head, Token, Channel };

// A head gate that follows from the shape alone.
enum class FixedGate : uint8_t { No, Retention, Lightning };

struct Preset {
  const char* name;
  UpdateRule update;
  GateKind gate;
  bool householder;  // takes numHouseholder
  FixedGate fixedGate = FixedGate::No;
};

std::span<const Preset> presets();

// Fills gate[HV] with a preset's own log decay.
void fillFixedGate(const Call& call, int64_t valueHeads, float* gate);

// Which of a spec's arguments and options a public function has: all of them under the op's own name, a subset under a
// preset's. (A preset without a gate has no g; one with a gate requires it.)
bool takesInput(const Preset* preset, const InputSpec& input);
bool requiresInput(const Preset* preset, const InputSpec& input);
bool takesOption(const Preset* preset, const OptionSpec& option);
bool hasOutput(const Preset* preset, const OutputSpec& output);

}  // namespace rankone

#include "ops/registry.h"

#include <deque>
#include <string>
#include <vector>

#include "ops/presets.h"
#include "ops/recurrence.h"

namespace rankone {

#define RANKONE_OP(op) extern const OpSpec op##Op;
#include "ops/ops.def"
#undef RANKONE_OP

namespace {

std::vector<Entry> build() {
  std::vector<Entry> list;
#define RANKONE_OP(op) list.push_back({op##Op.name, &op##Op, nullptr});
#include "ops/ops.def"
#undef RANKONE_OP
  static std::deque<std::string> names;  // keeps the strings where they are
  for (const Preset& p : presets()) {
    list.push_back({p.name, &recurrenceOp, &p});
    list.push_back({names.emplace_back(std::string(p.name) + "Backward").c_str(), &recurrenceBackwardOp, &p});
  }
  for (Entry& entry : list) {
    const OpSpec& spec = *entry.spec;
    for (size_t i = 0; i < spec.inputs.size(); ++i) {
      if (takesInput(entry.preset, spec.inputs[i])) entry.takesInputs |= 1u << i;
      if (requiresInput(entry.preset, spec.inputs[i])) entry.requiresInputs |= 1u << i;
    }
    for (size_t i = 0; i < spec.options.size(); ++i)
      if (takesOption(entry.preset, spec.options[i])) entry.takesOptions |= 1u << i;
  }
  return list;
}

}  // namespace

std::span<const Entry> entries() {
  static const std::vector<Entry> list = build();
  return list;
}

}  // namespace rankone

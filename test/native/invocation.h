// A call of one of the engine's public functions as the JavaScript layer makes it: arguments by name, plan(), outputs
// of the planned shapes filled with NaN, run().
#pragma once
#include <map>
#include <memory>
#include <string>

#include "array.h"
#include "ops/adapter_bank.h"
#include "ops/kv_cache.h"
#include "ops/packed_weight.h"
#include "ops/registry.h"
#include "ops/state.h"

namespace rankone::test {

struct Results {
  std::map<std::string, Array> outputs;  // those that the call produces
  std::shared_ptr<SavedForward> saved;
  std::shared_ptr<PackedWeight> packed;

  const Array& operator[](const std::string& name) const;  // throws Failure where there is none
  bool has(const std::string& name) const { return outputs.count(name) > 0; }
};

// The computation alone, without the arguments' and results' memory around it: bench/instructions counts in here.
[[gnu::noinline]] void runPlanned(Call& call);

class Invocation {
 public:
  explicit Invocation(const std::string& function);  // throws std::logic_error for a name that the registry lacks

  // Replaces what stood there; an absent array is no argument.
  Invocation& in(const std::string& name, const Array& array);
  Array argument(const std::string& name) const;
  Invocation& set(const std::string& option, double value);  // by its name, or `group.name`
  Invocation& setPair(const std::string& option, double low, double high);
  Invocation& choose(const std::string& option, const std::string& choice);
  Invocation& state(StateBuffer& state);
  Invocation& cache(KvCache& cache);
  Invocation& saved(std::shared_ptr<SavedForward> saved);
  Invocation& base(std::shared_ptr<const PackedWeight> base);
  Invocation& bank(std::shared_ptr<AdapterBank> bank);
  Invocation& cancel(const CancelFlag& flag);

  Results run() const;  // may throw rankone::Error

  std::string name() const { return entry_->name; }
  const OpSpec& spec() const { return *call_.spec; }

 private:
  const Entry* entry_ = nullptr;
  Call call_;
  std::map<std::string, Array> arguments_;  // keeps their memory
};

}  // namespace rankone::test

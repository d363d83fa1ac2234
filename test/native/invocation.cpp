#include "invocation.h"

#include <new>
#include <stdexcept>
#include <string_view>

#include "check.h"
#include "ops/presets.h"

namespace rankone::test {
namespace {

template <class Specs>
int indexOf(const Specs& specs, std::string_view name, const char* function) {
  for (size_t i = 0; i < specs.size(); ++i)
    if (name == specs[i].name || name == argumentName(specs[i])) return static_cast<int>(i);
  throw std::logic_error(std::string(function) + " has no " + std::string(name));
}

// Outputs beyond this are not to be had: a mutated size would fill the machine's memory.
constexpr int64_t kMostElements = int64_t{1} << 24;

// What the JavaScript layer refuses before plan().
void checkArguments(const Call& call) {
  for (size_t i = 0; i < call.spec->inputs.size(); ++i) {
    const InputSpec& spec = call.spec->inputs[i];
    const Tensor& t = call.inputs[i];
    if (t.present() ? !takesInput(call.preset, spec) : requiresInput(call.preset, spec))
      fail(ErrorKind::Type, "%s: expected otherwise", spec.name);
    if (t.present() && !(spec.dtypes & dtypeBit(t.dtype)))
      fail(ErrorKind::Type, "%s: expected another dtype than %s", spec.name, dtypeName(t.dtype));
  }
  for (size_t i = 0; i < call.spec->options.size(); ++i)
    if (call.options[i].given && !takesOption(call.preset, call.spec->options[i]))
      fail(ErrorKind::Type, "%s: expected none", call.spec->options[i].name);
}

// As the JavaScript layer holds a state: busy for as long as a call uses it.
class Held {
 public:
  explicit Held(StateBuffer* state) : state_(state) {
    if (state_) state_->acquire();
  }
  ~Held() {
    if (state_) state_->release();
  }

 private:
  StateBuffer* state_;
};

}  // namespace

void runPlanned(Call& call) { call.spec->run(call); }

const Array& Results::operator[](const std::string& name) const {
  const auto found = outputs.find(name);
  if (found == outputs.end()) throw Failure("the call has no output " + name);
  return found->second;
}

Invocation::Invocation(const std::string& function) {
  for (const Entry& entry : entries()) {
    if (function != entry.name) continue;
    entry_ = &entry;
    call_.spec = entry.spec;
    call_.preset = entry.preset;
    return;
  }
  throw std::logic_error("no public function " + function);
}

Invocation& Invocation::in(const std::string& name, const Array& array) {
  call_.inputs[indexOf(call_.spec->inputs, name, entry_->name)] = array.tensor();
  arguments_[name] = array;
  return *this;
}

Array Invocation::argument(const std::string& name) const {
  const auto found = arguments_.find(name);
  return found == arguments_.end() ? Array() : found->second;
}

Invocation& Invocation::set(const std::string& option, double value) {
  call_.options[indexOf(call_.spec->options, option, entry_->name)] = {true, value};
  return *this;
}

Invocation& Invocation::setPair(const std::string& option, double low, double high) {
  call_.options[indexOf(call_.spec->options, option, entry_->name) + 1] = {true, high};
  return set(option, low);
}

Invocation& Invocation::choose(const std::string& option, const std::string& choice) {
  const OptionSpec& spec = call_.spec->options[indexOf(call_.spec->options, option, entry_->name)];
  std::string_view rest = spec.choices;
  for (int index = 0;; ++index) {
    const size_t end = rest.find('|');
    if (rest.substr(0, end) == choice) return set(option, index);
    if (end == rest.npos) throw std::logic_error(option + " has no choice " + choice);
    rest.remove_prefix(end + 1);
  }
}

Invocation& Invocation::cache(KvCache& cache) {
  call_.cache = &cache;
  return *this;
}

Invocation& Invocation::state(StateBuffer& state) {
  call_.state = &state;
  return *this;
}

Invocation& Invocation::saved(std::shared_ptr<SavedForward> saved) {
  call_.saved = std::move(saved);
  return *this;
}

Invocation& Invocation::base(std::shared_ptr<const PackedWeight> base) {
  call_.base = std::move(base);
  return *this;
}

Invocation& Invocation::bank(std::shared_ptr<AdapterBank> bank) {
  call_.bank = std::move(bank);
  return *this;
}

Invocation& Invocation::cancel(const CancelFlag& flag) {
  call_.cancel = &flag;
  return *this;
}

Results Invocation::run() const {
  Call call = call_;
  checkArguments(call);
  const Held held(call.state);
  call.spec->plan(call);
  Results results;
  for (size_t i = 0; i < call.spec->outputs.size(); ++i) {
    Tensor& t = call.outputs[i];
    if (!t.present()) continue;
    if (t.size() > kMostElements) throw std::bad_alloc();
    const Array array({t.shape, t.shape + t.rank}, t.dtype);
    t.data = array.tensor().data;
    results.outputs.emplace(call.spec->outputs[i].name, array);
  }
  runPlanned(call);
  if (call.spec->makesSaved) results.saved = call.saved;
  results.packed = call.packed;
  return results;
}

}  // namespace rankone::test

// What an op is to the rest of the engine: its arguments, its options, its outputs, how a call is checked and run.
//
// The JavaScript layer walks an OpSpec; it knows no op by name. A call is made in two steps: plan() validates all that
// came and sets the shapes of the outputs that this call produces, then, with memory bound to them, run() computes.
// plan() is the only place where the op's shape rules stand. Neither writes anything before validation has passed.
#pragma once
#include <cmath>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/parallel.h"
#include "core/tensor.h"

namespace rankone {

namespace cuda {
class Buffer;   // core/cuda.h
class Context;  // a device, as one environment has it
}  // namespace cuda

constexpr int kMaxInputs = 16, kMaxOptions = 24, kMaxOutputs = 12;

enum class Access : uint8_t { Read, Update };  // Update: read and written in place

struct InputSpec {
  const char* name;
  bool required = true;
  DTypes dtypes = kF32;
  Access access = Access::Read;
  // Where JavaScript has it: null among the inputs, "" among the options (a bare index array), else inside that option.
  const char* group = nullptr;
};

// Pair: two numbers [low, high]; the second one is the value of the next option, which has no name and kind PairHigh.
// Device: a CUDA device's number, or -1 for the CPU.
enum class OptionKind : uint8_t { Flag, Integer, Number, Choice, Pair, PairHigh, Device };

struct OptionSpec {
  const char* name;
  OptionKind kind;
  const char* choices = nullptr;  // Choice: names separated by '|'; the value is the index
  const char* group = nullptr;    // the option (or OpSpec::inputGroup) that it stands inside of
};

struct OutputSpec {
  const char* name;
  bool offered = true;  // the caller may give its memory
};

struct OptionValue {
  bool given = false;
  double value = 0;
};

class StateBuffer;   // ops/state.h: the state of a decode, advanced in place
class SavedForward;  // ops/saved.h: what a forward leaves for its backward
class PackedWeight;  // ops/packed_weight.h
class AdapterBank;   // ops/adapter_bank.h
class KvCache;       // ops/kv_cache.h
struct Preset;       // ops/presets.h
struct OpSpec;

struct Call {
  const OpSpec* spec = nullptr;
  const Preset* preset = nullptr;  // set when the call came under a paper's name
  Tensor inputs[kMaxInputs];       // in the order of spec->inputs
  OptionValue options[kMaxOptions];
  Tensor outputs[kMaxOutputs];  // rank -1: not produced by this call
  StateBuffer* state = nullptr;
  std::shared_ptr<SavedForward> saved;  // given to a backward, or made by a forward
  std::shared_ptr<const PackedWeight> base;
  bool identity = false;  // in place of a base
  std::shared_ptr<AdapterBank> bank;
  KvCache* cache = nullptr;
  std::shared_ptr<PackedWeight> packed;  // made by plan(), filled by run()
  std::shared_ptr<const void> planned;   // what plan() has found out for run(), of the op's own type
  const CancelFlag* cancel = nullptr;
  // Where the float tensors, state, saved, base and bank of the call are; null: on the CPU. Indices never are there.
  std::shared_ptr<cuda::Context> device;
  std::vector<std::shared_ptr<cuda::Buffer>> memory;  // of inputs and outputs there
  bool inner = false;                                 // made by another op, which may mix dtypes
  // Of an inner recurrence: its values are rows of v times this, its keys 1 - e^k.
  const float* valueScale = nullptr;
  bool keysFromGates = false;

  const Tensor& input(int i) const { return inputs[i]; }
  bool flag(int i, bool otherwise = false) const { return options[i].given ? options[i].value != 0 : otherwise; }
  double number(int i, double otherwise) const { return options[i].given ? options[i].value : otherwise; }
  int64_t integer(int i, int64_t otherwise) const {
    return options[i].given ? static_cast<int64_t>(options[i].value) : otherwise;
  }
};

struct OpSpec {
  const char* name;
  std::span<const InputSpec> inputs;
  std::span<const OptionSpec> options;
  std::span<const OutputSpec> outputs;
  void (*plan)(Call&);
  void (*run)(const Call&);
  void (*runCuda)(const Call&) = nullptr;  // puts the work into the device's stream and returns; null: CPU only
  bool takesState = false;                 // accepts `state`
  bool makesSaved = false;                 // accepts `saveForBackward` and may return `saved`
  bool takesSaved = false;                 // accepts `saved`
  bool takesBase = false;                  // accepts `base`
  bool takesBank = false;                  // accepts `bank`
  bool takesCache = false;                 // accepts `cache`
  bool makesBase = false;                  // returns a packed weight
  bool fillsBank = false;                  // takes tensors of the CPU into a bank, wherever that is
  // The JavaScript function of that name has arguments or results of another form.
  bool wrapped = false;
  const char* inputGroup = nullptr;  // this group stands among the inputs, not among the options
};

// A call of another op on behalf of `outer`: options of the same name, the state, what is saved and the cancel flag go
// along; inputs and outputs are the caller's to set.
Call innerCall(const OpSpec& spec, const Call& outer);

// run() where the call's tensors are.
inline void execute(const Call& call) { (call.device ? call.spec->runCuda : call.spec->run)(call); }

// As messages name it: with the option that it stands inside of.
std::string argumentName(const InputSpec& input);
std::string argumentName(const OptionSpec& option);

// For run() of what is one step and looks at the flag no more.
inline void stopIfCancelled(const Call& call) {
  if (call.cancel && call.cancel->load()) fail(ErrorKind::Abort, "aborted");
}

// Checks for plan(). Each throws Error with the argument's name, what was expected and what came.
void expectRank(const Call& call, int input, int rank, const char* pattern);
void expectShape(const Call& call, int input, std::initializer_list<int64_t> dims, const char* pattern);
// The dtype of input `like`; with orF32, float32 will do as well.
void expectDType(const Call& call, int input, int like, bool orF32 = false);
void expectFinite(const Call& call, int option);
void expectInteger(const Call& call, int option, int64_t low, int64_t high);
void expectGiven(const Call& call, int option, const char* what);
void expectCompute(const Call& call, int option);  // "f32|bf16"

}  // namespace rankone

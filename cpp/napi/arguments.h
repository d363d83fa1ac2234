// A call as it crosses from JavaScript, call(entry, header, ...values): a Float64Array of numbers (ranks, dtypes,
// dimensions, option values), then typed arrays and handles. ts/marshal.ts writes both; nothing in them is trusted
// here.
//
//   header  per input    [rank or -1, dtype, six dimensions]
//           per option   [given, value]
//           per output   [rank or -1, dtype, six dimensions]   in: the caller's `out`; afterwards: what was produced
//           [state given, saved given, base given (2: 'identity'), bank given, cache given,
//            job number of an asynchronous call (written), what was returned (written),
//            the device of the results, -1: CPU (written)]
//   values  arrays or what DeviceTensors hold; inputs in the spec's order, then `out` arrays in the outputs' order,
//   then state, saved, base, bank, cache
//
// Values are arguments, and not elements of an array: they are there without a call of the engine's for each, and no
// code of the caller's runs when they are read.
#pragma once
#include <napi.h>

#include <memory>
#include <vector>

#include "core/workspace.h"
#include "napi/handles.h"
#include "ops/op.h"
#include "ops/registry.h"

namespace rankone {

namespace header {
constexpr int kTensor = 2 + kMaxRank;
constexpr int kInputs = 0;
constexpr int kOptions = kInputs + kMaxInputs * kTensor;
constexpr int kOutputs = kOptions + kMaxOptions * 2;
constexpr int kState = kOutputs + kMaxOutputs * kTensor;
constexpr int kSaved = kState + 1;
constexpr int kBase = kSaved + 1;
constexpr int kBank = kBase + 1;
constexpr int kCache = kBank + 1;
constexpr int kJob = kCache + 1;
constexpr int kHandles = 5;  // values behind inputs and outputs
constexpr int kIdentity = 2;
constexpr int kResults = kJob + 1;
constexpr int kDevice = kResults + 1;
constexpr int kSize = kDevice + 1;

// What a call returns: nothing where it made no array (or DeviceTensor), the one that it made, or an array of the
// outputs' in the spec's order (null for those that it did not produce) and then `saved` or a packed weight.
enum Results { kNothing, kOne, kAll };
}  // namespace header

class Arguments {
 public:
  Arguments(Napi::Env env, napi_callback_info info);

  const Entry& entry() const { return *entry_; }
  double* header() const { return header_; }
  napi_value input(int i) const { return arguments_[kFirstValue + i]; }
  napi_value output(int i) const { return input(inputs_ + i); }

  // Fills call's inputs, options, state, saved, base, bank, cache and device. Pointers go into the caller's memory,
  // except for index arrays, which are copied before anybody validates what they hold.
  void read(Call& call, Holds& holds, std::vector<AlignedBuffer>& copies) const;

  // After plan(): binds `out` arrays, checked against the planned shape and against overlaps, to the outputs that are
  // produced. The others keep a null pointer, and a size of zero needs none.
  void bindOut(Call& call) const;
  bool outGiven(int i) const { return header_[header::kOutputs + i * header::kTensor] >= 0; }

  // Tells the garbage collector how large the call has made a bank. It may run then.
  void account(const Call& call) const;

  // Writes the produced outputs' shapes into the header, and what the call returns.
  void reportOutputs(const Call& call, header::Results results) const;

 private:
  // As messages name it: `group.name`, or `name` where the group is empty.
  struct Name {
    const char *group, *name;
    const char* dot() const { return *group ? "." : ""; }
  };
  // The first of what a call has to have in one place.
  struct Lead {
    std::string name;  // empty: none yet
    std::shared_ptr<cuda::Context> device;
  };
  // Its memory on a device goes to `memory`, which is reset where it has none.
  Tensor readTensor(const Name& name, int slot, napi_value value, std::shared_ptr<cuda::Buffer>& memory) const;
  void readHandles(Call& call, Holds& holds, Lead& lead) const;
  // What is there so far, and now `what` of that name, are on one device.
  void place(Lead& lead, const std::string& name, const char* what, const std::shared_ptr<cuda::Context>& device) const;
  void checkDevice(Call& call, const Lead& lead) const;

  Napi::Env env_;
  const Entry* entry_;
  int inputs_, outputs_;
  double* header_;
  static constexpr int kFirstValue = 2;
  napi_value arguments_[kFirstValue + kMaxInputs + kMaxOutputs + header::kHandles];
};

// Defines an element of a new array; assigning one would run setters on Array.prototype.
void defineElement(napi_env env, napi_value array, uint32_t index, napi_value value);

// The pointer of a typed array now; null with length 0 once it is detached.
struct ArrayView {
  void* data = nullptr;
  size_t length = 0;  // elements
  napi_typedarray_type type = napi_uint8_array;
};
bool viewOf(napi_env env, napi_value value, ArrayView& view);

}  // namespace rankone

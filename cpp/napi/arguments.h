// A call as it crosses from JavaScript: a Float64Array of numbers (ranks, dtypes, dimensions, option values) and an
// array of typed arrays and handles. ts/marshal.ts writes both; nothing in them is trusted here.
//
//   header  per input    [rank or -1, dtype, six dimensions]
//           per option   [given, value]
//           per output   [rank or -1, dtype, six dimensions]   in: the caller's `out`; afterwards: what was produced
//           [state given, saved given, job number of an asynchronous call (written)]
//   data    inputs in the spec's order, then `out` arrays in the outputs' order, then state, then saved
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
constexpr int kJob = kSaved + 1;
constexpr int kSize = kJob + 1;
}  // namespace header

class Arguments {
 public:
  // Arguments 0..2 of a call: entry number, header, data.
  Arguments(Napi::Env env, const Napi::CallbackInfo& info);

  const Entry& entry() const { return *entry_; }
  double* header() const { return header_; }
  napi_value input(int i) const { return values_[i]; }
  napi_value output(int i) const { return values_[inputs_ + i]; }

  // Fills call's inputs, options, state and saved. Pointers go into the caller's memory, except for index arrays, which
  // are copied before anybody validates what they hold.
  void read(Call& call, StateHold& state, std::vector<AlignedBuffer>& copies) const;

  // After plan(): binds `out` arrays, checked against the planned shape and against overlaps, to the outputs that are
  // produced. The others keep a null pointer, and a size of zero needs none.
  void bindOut(Call& call) const;
  bool outGiven(int i) const { return header_[header::kOutputs + i * header::kTensor] >= 0; }

  // Writes the produced outputs' shapes into the header.
  void reportOutputs(const Call& call) const;

 private:
  Tensor readTensor(const char* kind, const char* name, int slot, napi_value value) const;

  Napi::Env env_;
  const Entry* entry_;
  int inputs_, outputs_;
  double* header_;
  // What stands in `data`, taken out before any pointer is: reading an element can run code of the caller's, where
  // somebody has put a getter on Array.prototype. Null where the header says that there is nothing.
  napi_value values_[kMaxInputs + kMaxOutputs + 2] = {};
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

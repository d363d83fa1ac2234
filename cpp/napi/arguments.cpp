#include "napi/arguments.h"

#include <cmath>
#include <cstring>
#include <iterator>
#include <string>

#include "napi/devices.h"
#include "napi/errors.h"

namespace rankone {
namespace {

constexpr double kMaxSafeInteger = 9007199254740991.0;

bool holds(napi_typedarray_type type, DType dtype) {
  switch (dtype) {
    case DType::F32: return type == napi_float32_array;
    case DType::I32: return type == napi_int32_array;
    case DType::I64: return type == napi_bigint64_array;
    case DType::BF16: return type == napi_uint16_array;
    case DType::F16: return type == napi_uint16_array || static_cast<int>(type) == 11;  // napi_float16_array
    case DType::I8: return type == napi_int8_array;
    case DType::U8: return type == napi_uint8_array;
  }
  return false;
}

int choiceCount(const char* choices) {
  int n = 1;
  for (; *choices; ++choices) n += *choices == '|';
  return n;
}

OptionValue readOption(const OptionSpec& spec, const double* slot) {
  OptionValue v;
  v.given = slot[0] != 0;
  if (!v.given) return v;
  v.value = slot[1];
  switch (spec.kind) {
    case OptionKind::Flag: v.value = v.value != 0; break;
    case OptionKind::Number:
    case OptionKind::Pair:
    case OptionKind::PairHigh:
    case OptionKind::Device: break;
    case OptionKind::Integer:
      if (!(std::fabs(v.value) <= kMaxSafeInteger) || v.value != std::floor(v.value))
        fail(ErrorKind::Range, "%s: expected an integer, got %g", argumentName(spec).c_str(), v.value);
      break;
    case OptionKind::Choice:
      if (!(v.value >= 0 && v.value < choiceCount(spec.choices)) || v.value != std::floor(v.value))
        fail(ErrorKind::Range, "%s: expected one of %s", argumentName(spec).c_str(), spec.choices);
      break;
  }
  return v;
}

struct Region {
  const char* begin;
  size_t bytes;
  bool overlaps(const Region& o) const {
    return bytes && o.bytes && begin < o.begin + o.bytes && o.begin < begin + bytes;
  }
};

Region regionOf(const Tensor& t) { return {static_cast<const char*>(t.data), t.present() ? t.bytes() : 0}; }

const char* placeName(const std::shared_ptr<cuda::Context>& device) { return device ? device->name().c_str() : "cpu"; }

bool isFloat(DType t) { return kFloats & dtypeBit(t); }

}  // namespace

bool viewOf(napi_env env, napi_value value, ArrayView& view) {
  return napi_get_typedarray_info(env, value, &view.type, &view.length, &view.data, nullptr, nullptr) == napi_ok;
}

Arguments::Arguments(Napi::Env env, napi_callback_info info) : env_(env) {
  uint32_t index = 0;
  ArrayView numbers;
  size_t count = std::size(arguments_);  // those that the caller left out are undefined
  check(env, napi_get_cb_info(env, info, &count, arguments_, nullptr, nullptr));
  if (napi_get_value_uint32(env, arguments_[0], &index) != napi_ok || index >= entries().size() ||
      !viewOf(env, arguments_[1], numbers) || numbers.type != napi_float64_array || numbers.length < header::kSize)
    fail(ErrorKind::Type, "call: expected an entry number and a header");
  entry_ = &entries()[index];
  inputs_ = static_cast<int>(entry_->spec->inputs.size());
  outputs_ = static_cast<int>(entry_->spec->outputs.size());
  header_ = static_cast<double*>(numbers.data);
}

void defineElement(napi_env env, napi_value array, uint32_t index, napi_value value) {
  const std::string name = std::to_string(index);
  napi_property_descriptor element{};
  element.utf8name = name.c_str();
  element.value = value;
  element.attributes = napi_default_jsproperty;
  check(env, napi_define_properties(env, array, 1, &element));
}

Tensor Arguments::readTensor(const Name& name, int slot, napi_value value,
                             std::shared_ptr<cuda::Buffer>& memory) const {
  const double* h = header_ + slot;
  Tensor t;
  if (!(h[0] >= 0 && h[0] <= kMaxRank) || !(h[1] >= 0 && h[1] < static_cast<double>(std::size(kDTypes))))
    fail(ErrorKind::Type, "%s%s%s: expected a tensor of rank 0 to %d", name.group, name.dot(), name.name, kMaxRank);
  t.rank = static_cast<int>(h[0]);
  t.dtype = static_cast<DType>(static_cast<int>(h[1]));
  double size = 1;
  bool empty = false;
  for (int i = 0; i < t.rank; ++i) {
    const double d = h[2 + i];
    if (!(d >= 0 && d <= kMaxSafeInteger) || d != std::floor(d))
      fail(ErrorKind::Range, "%s%s%s: expected a shape of non-negative integers", name.group, name.dot(), name.name);
    t.shape[i] = static_cast<int64_t>(d);
    empty |= d == 0;
    size *= d;
  }
  if (empty) size = 0;
  if (size > kMaxSafeInteger / 8)
    fail(ErrorKind::Range, "%s%s%s: expected a shape that fits into memory, got %s", name.group, name.dot(), name.name,
         t.shapeText().c_str());
  memory.reset();
  ArrayView view;
  const bool isArray = value && viewOf(env_, value, view);
  if (value && !isArray) {
    const std::string full = std::string(name.group) + name.dot() + name.name;
    if (const DeviceMemory* device = deviceMemoryOf(env_, value, full.c_str())) {
      if (device->dtype != t.dtype || static_cast<double>(device->count) != size)
        fail(ErrorKind::Range, "%s: expected a tensor of the shape and dtype that it was made with", full.c_str());
      memory = device->buffer;
      t.data = device->data();
      return t;
    }
  }
  if (!isArray || !holds(view.type, t.dtype))
    fail(ErrorKind::Type, "%s%s%s: expected a typed array for dtype %s", name.group, name.dot(), name.name,
         dtypeName(t.dtype));
  if (static_cast<double>(view.length) != size)
    fail(ErrorKind::Range, "%s%s%s: expected data of length %.0f for shape %s, got %zu%s", name.group, name.dot(),
         name.name, size, t.shapeText().c_str(), view.length,
         view.length == 0 ? " (a detached or shrunk array has length 0)" : "");
  t.data = view.data;
  return t;
}

void Arguments::place(Lead& lead, const std::string& name, const char* what,
                      const std::shared_ptr<cuda::Context>& device) const {
  if (device && !entry_->spec->runCuda)
    fail(ErrorKind::Range, "%s: expected %s on the CPU, as this function has no CUDA form, got one on %s", name.c_str(),
         what, placeName(device));
  if (lead.name.empty())
    lead = {name, device};
  else if (lead.device != device)
    fail(ErrorKind::Range, "%s: expected %s on %s as %s is, got one on %s", name.c_str(), what, placeName(lead.device),
         lead.name.c_str(), placeName(device));
}

void Arguments::checkDevice(Call& call, const Lead& lead) const {
  const OpSpec& spec = *entry_->spec;
  for (size_t i = 0; i < spec.options.size(); ++i) {
    const OptionValue& asked = call.options[i];
    if (spec.options[i].kind != OptionKind::Device || !asked.given) continue;
    const int where = lead.device ? lead.device->device() : -1;
    if (asked.value == where) continue;
    const std::string name = asked.value < 0 ? "cpu" : "cuda:" + std::to_string(static_cast<int>(asked.value));
    fail(ErrorKind::Range, "%s: expected '%s' as %s is there, got '%s'", spec.options[i].name, placeName(lead.device),
         lead.name.c_str(), name.c_str());
  }
  call.device = lead.device;
}

void Arguments::read(Call& call, Holds& holds, std::vector<AlignedBuffer>& copies) const {
  const OpSpec& spec = *entry_->spec;
  call.spec = &spec;
  call.preset = entry_->preset;
  Lead lead;
  std::shared_ptr<cuda::Buffer> memory;
  for (int i = 0; i < inputs_; ++i) {
    const InputSpec& in = spec.inputs[i];
    const int slot = header::kInputs + i * header::kTensor;
    if (header_[slot] < 0) {
      if (entry_->requiresInputs >> i & 1)
        fail(ErrorKind::Type, "%s: expected a tensor {data, shape}, got undefined", in.name);
      continue;
    }
    if (!(entry_->takesInputs >> i & 1)) fail(ErrorKind::Type, "%s: expected none, got a tensor", in.name);
    const Name name{in.group ? in.group : "", in.name};
    Tensor& t = call.inputs[i] = readTensor(name, slot, input(i), memory);
    if (!(in.dtypes & dtypeBit(t.dtype)))
      fail(ErrorKind::Type, "%s%s%s: expected dtype %s, got %s", name.group, name.dot(), name.name,
           dtypeNames(in.dtypes).c_str(), dtypeName(t.dtype));
    if (isFloat(t.dtype)) {
      if (memory || lead.device || lead.name.empty())
        place(lead, argumentName(in), "a tensor", memory ? memory->context() : nullptr);
      if (memory) call.memory.push_back(std::move(memory));
    }
    if (t.dtype == DType::I32 || t.dtype == DType::I64) {
      copies.emplace_back(t.bytes());
      if (t.data) std::memcpy(copies.back().data(), t.data, t.bytes());
      t.data = copies.back().data();
    }
  }
  for (size_t i = 0; i < spec.options.size(); ++i) {
    call.options[i] = readOption(spec.options[i], header_ + header::kOptions + 2 * i);
    if (call.options[i].given && !(entry_->takesOptions >> i & 1))
      fail(ErrorKind::Type, "%s: expected none, got an option", spec.options[i].name);
  }
  readHandles(call, holds, lead);
  checkDevice(call, lead);
  for (int i = 0; i < inputs_; ++i) {  // what is written in place may not lie under anything else
    if (spec.inputs[i].access != Access::Update || !call.inputs[i].present()) continue;
    for (int j = 0; j < inputs_; ++j)
      if (j != i && regionOf(call.inputs[i]).overlaps(regionOf(call.inputs[j])))
        fail(ErrorKind::Range, "%s: expected memory of its own, got memory shared with %s", spec.inputs[i].name,
             spec.inputs[j].name);
  }
}

void Arguments::readHandles(Call& call, Holds& holds, Lead& lead) const {
  const OpSpec& spec = *entry_->spec;
  const auto value = [&](int i) { return input(inputs_ + outputs_ + i); };
  if (header_[header::kState] != 0) {
    if (!spec.takesState) fail(ErrorKind::Type, "state: expected none, got one");
    holds.state = StateHold(stateOf(env_, value(0)));
    call.state = holds.state.get();
    place(lead, "state", "one", call.state->device);
  }
  if (header_[header::kSaved] != 0) {
    if (!spec.takesSaved) fail(ErrorKind::Type, "saved: expected none, got one");
    call.saved = savedOf(env_, value(1));
    place(lead, "saved", "one", call.saved->deviceBuffer ? call.saved->deviceBuffer->context() : nullptr);
  }
  if (header_[header::kBase] != 0) {
    if (!spec.takesBase) fail(ErrorKind::Type, "base: expected none, got one");
    call.identity = header_[header::kBase] == header::kIdentity;
    if (!call.identity) call.base = packedOf(env_, value(2));
    if (call.base) place(lead, "base", "one", call.base->device);
  }
  if (header_[header::kBank] != 0) {
    if (!spec.takesBank) fail(ErrorKind::Type, "bank: expected none, got one");
    call.bank = bankOf(env_, value(3));
    if (!spec.fillsBank) place(lead, "bank", "one", call.bank->device);
  }
  if (header_[header::kCache] != 0) {
    if (!spec.takesCache) fail(ErrorKind::Type, "cache: expected none, got one");
    holds.cache = CacheHold(cacheOf(env_, value(4)));
    call.cache = holds.cache.get();
    place(lead, "cache", "one", nullptr);
  }
}

void Arguments::bindOut(Call& call) const {
  const OpSpec& spec = *entry_->spec;
  for (int i = 0; i < outputs_; ++i) {
    Tensor& planned = call.outputs[i];
    if (!outGiven(i)) continue;
    const char* name = spec.outputs[i].name;
    if (!planned.present()) fail(ErrorKind::Range, "out.%s: this call does not produce it", name);
    std::shared_ptr<cuda::Buffer> memory;
    const Tensor given = readTensor({"out", name}, header::kOutputs + i * header::kTensor, output(i), memory);
    if ((memory ? memory->context() : nullptr) != call.device)
      fail(ErrorKind::Range, "out.%s: expected a tensor on %s as the inputs are, got one on %s", name,
           placeName(call.device), placeName(memory ? memory->context() : nullptr));
    if (memory) call.memory.push_back(std::move(memory));
    if (given.dtype != planned.dtype)
      fail(ErrorKind::Type, "out.%s: expected dtype %s, got %s", name, dtypeName(planned.dtype),
           dtypeName(given.dtype));
    if (!given.sameShape(planned))
      fail(ErrorKind::Range, "out.%s: expected shape %s, got %s", name, planned.shapeText().c_str(),
           given.shapeText().c_str());
    for (int j = 0; j < inputs_; ++j)
      if (regionOf(given).overlaps(regionOf(call.inputs[j])))
        fail(ErrorKind::Range, "out.%s: expected memory of its own, got memory shared with %s", name,
             spec.inputs[j].name);
    for (int j = 0; j < i; ++j)
      if (outGiven(j) && regionOf(given).overlaps(regionOf(call.outputs[j])))
        fail(ErrorKind::Range, "out.%s: expected memory of its own, got memory shared with out.%s", name,
             spec.outputs[j].name);
    planned.data = given.data;
  }
}

void Arguments::account(const Call& call) const {
  if (call.bank) accountBank(env_, input(inputs_ + outputs_ + 3));
}

void Arguments::reportOutputs(const Call& call, header::Results results) const {
  header_[header::kResults] = results;
  header_[header::kDevice] = call.device ? call.device->device() : -1;
  for (int i = 0; i < outputs_; ++i) {
    double* h = header_ + header::kOutputs + i * header::kTensor;
    const Tensor& t = call.outputs[i];
    h[0] = t.rank;
    h[1] = static_cast<double>(t.dtype);
    for (int d = 0; d < t.rank; ++d) h[2 + d] = static_cast<double>(t.shape[d]);
  }
}

}  // namespace rankone

#include "napi/machine.h"

#include <cmath>
#include <string>

#include "kernels/bandwidth.h"
#include "kernels/fma_peak.h"
#include "napi/errors.h"

namespace rankone {
namespace {

double numberOf(const Napi::Value& value) {
  return value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : std::nan("");
}

double secondsOf(const Napi::Value& value) {
  const double seconds = numberOf(value);
  if (!(seconds > 0 && seconds <= 60)) fail(ErrorKind::Range, "seconds: expected a number above 0, at most 60");
  return seconds;
}

// Whether `value` is the second of two names.
bool isSecond(const Napi::Value& value, const char* argument, const char* first, const char* second) {
  const std::string name = value.IsString() ? value.As<Napi::String>().Utf8Value() : "";
  if (name != first && name != second) fail(ErrorKind::Range, "%s: expected '%s' or '%s'", argument, first, second);
  return name == second;
}

FmaKind kindOf(const Napi::Value& value) {
  const std::string name = value.IsString() ? value.As<Napi::String>().Utf8Value() : "";
  if (name == "f32") return FmaKind::F32;
  if (name == "bf16") return FmaKind::Bf16;
  if (name == "int8") return FmaKind::Int8;
  fail(ErrorKind::Range, "kind: expected 'f32', 'bf16' or 'int8'");
}

Napi::Value measurePeak(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "measurePeak", [&] {
    return Napi::Value(Napi::Number::New(info.Env(), fmaPeak(kindOf(info[0]), secondsOf(info[1]))));
  });
}

Napi::Value measureBandwidth(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "measureBandwidth", [&] {
    const Traffic traffic = isSecond(info[0], "traffic", "read", "update") ? Traffic::Update : Traffic::Read;
    const double bytes = numberOf(info[1]), seconds = secondsOf(info[2]);
    if (!(bytes >= 1 && bytes <= 0x1p36)) fail(ErrorKind::Range, "bytes: expected a number from 1 to 2^36");
    return Napi::Value(Napi::Number::New(info.Env(), bandwidth(traffic, static_cast<size_t>(bytes), seconds)));
  });
}

}  // namespace

void exportMachine(Napi::Env env, Napi::Object exports) {
  exports.Set("measurePeak", Napi::Function::New<measurePeak>(env));
  exports.Set("measureBandwidth", Napi::Function::New<measureBandwidth>(env));
}

}  // namespace rankone

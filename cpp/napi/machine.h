// Measurements of the machine, for benchmarks.
#pragma once
#include <napi.h>

namespace rankone {

// measurePeak, measureBandwidth
void exportMachine(Napi::Env env, Napi::Object exports);

}  // namespace rankone

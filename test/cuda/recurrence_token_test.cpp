// The token form: every cell one update at a time, in float32.
#include <cmath>

#include "recurrence_case.h"

namespace rankone::test {
namespace {

using reference::Problem;

Problem cell(int32_t update, int32_t gate, int64_t n = 1) {
  Problem p;
  p.update = update;
  p.gate = gate;
  p.n = n;
  p.T = 11;
  p.HV = 2;
  p.K = 16;
  p.V = 20;
  p.scale = 0.25;
  p.initialState.resize(1);
  return p;
}

struct Result {
  Array o, finalState, finalZ;
};

Result run(Device& device, const Problem& p, DType dtype, DType gateDType) {
  const DeviceProblem on(device, p, dtype, gateDType);
  const DeviceArray o(device, {p.B, p.T, p.HV, p.V}, dtype), S(device, {p.sequences(), p.HV, p.K, p.V});
  const DeviceArray z(device, {p.sequences(), p.H, p.K});
  RankoneRecurrenceForward args = {};
  args.problem = on.problem;
  args.problem.mode = RANKONE_MODE_RECURRENT;
  args.o = o.data();
  args.finalState = S.f32();
  args.finalZ = p.normalize ? z.f32() : nullptr;
  device.recurrenceForward(args);
  return {o.host(), S.host(), p.normalize ? z.host() : Array()};
}

void compare(const Problem& p, const Result& result, DType dtype) {
  const reference::Forward expected = reference::forward(p);
  const std::string name = describe(p, dtype);
  expectNear(name + ": o", result.o, {expected.o, {}}, Rows::Tokens, kOutputLimit);
  expectNear(name + ": finalState", result.finalState, {expected.finalState, {}}, Rows::States, kStateLimit);
  if (p.normalize) expectNear(name + ": finalZ", result.finalZ, {expected.finalZ, {}}, Rows::States, kStateLimit);
}

void expectForward(Problem p, uint64_t seed, DType dtype = DType::F32, DType gateDType = DType::F32) {
  drawArguments(p, seed, dtype, gateDType);
  Device device;
  compare(p, run(device, p, dtype, gateDType), dtype);
}

constexpr int32_t kGates[] = {RANKONE_GATE_NONE, RANKONE_GATE_HEAD, RANKONE_GATE_TOKEN, RANKONE_GATE_CHANNEL};

TEST("token form: every cell and dtype") {
  uint64_t seed = 1;
  for (DType dtype : {DType::F32, DType::BF16, DType::F16})
    for (int32_t gate : kGates)
      for (int64_t n : {0, 1, 2, 3}) {  // 0: additive
        Problem p = cell(n ? RANKONE_DELTA : RANKONE_ADDITIVE, gate, n ? n : 1);
        expectForward(p, ++seed, dtype, seed % 2 ? DType::F32 : dtype);
      }
}

}  // namespace
}  // namespace rankone::test

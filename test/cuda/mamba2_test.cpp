// The parts of Mamba-2 around its recurrence, against float64.
#include <algorithm>
#include <cmath>

#include "harness.h"

namespace rankone::test {
namespace {

void expect(int code, const RankoneError& error) { check(code == 0, "%s", error.reason); }

struct Problem {
  int64_t rows, HV, P;
  bool softplus, skip, bias;
  double low, high;
  DType dtype;
};

struct Case {
  Case(const Problem& problem, uint64_t seed) : p(problem) {
    Random halves(seed, p.dtype), random(seed + 1);
    x = halves.normals({p.rows, p.HV, p.P});
    dt = halves.normals({p.rows, p.HV});
    dY = halves.normals({p.rows, p.HV, p.P});
    A = random.fill({p.HV}, [&] { return -0.1 - random.uniform(); });
    if (p.skip) D = random.normals({p.HV});
    if (p.bias) dtBias = random.normals({p.HV});
    dV = random.normals({p.rows, p.HV, p.P});
    dG = random.normals({p.rows, p.HV});
  }
  double raw(int64_t at) const { return dt.at(at) + (p.bias ? dtBias.at(at % p.HV) : 0); }
  double open(int64_t at) const { return p.softplus ? std::log1p(std::exp(raw(at))) : raw(at); }
  double step(int64_t at) const { return std::clamp(open(at), p.low, p.high); }

  const Problem p;
  Array x, dt, dY, A, D, dtBias, dV, dG;
};

struct OnDevice {
  OnDevice(Device& device, const Case& c)
      : x(device, c.x), dt(device, c.dt), A(device, c.A), D(device, c.D), dtBias(device, c.dtBias) {
    args = {c.p.rows,
            c.p.HV,
            c.p.P,
            x.floats(),
            dt.floats(),
            A.f32(),
            D.f32(),
            dtBias.f32(),
            c.p.softplus,
            static_cast<float>(c.p.low),
            static_cast<float>(c.p.high)};
  }
  DeviceArray x, dt, A, D, dtBias;
  RankoneMamba2 args = {};
};

const Problem kProblems[] = {
    {5, 3, 7, true, true, true, 0, INFINITY, DType::F32},
    {300, 35, 1, true, false, true, 0.3, 1.1, DType::BF16},
    {65, 2, 64, false, true, false, -0.5, 0.5, DType::F16},
    {1, 1, 33, false, false, false, 0, 0, DType::F32},
};

TEST("mamba2: step sizes, gates and the skip") {
  for (const Problem& p : kProblems) {
    const Case c(p, 5);
    Device device;
    const OnDevice d(device, c);
    const DeviceArray step(device, {p.rows, p.HV}), g(device, {p.rows, p.HV});
    RankoneError error;
    expect(backend().mamba2Prepare(device.stream(), &d.args, step.f32(), g.f32(), &error), error);
    Values steps, gates;
    for (int64_t at = 0; at < p.rows * p.HV; ++at) {
      steps.push_back(c.step(at));
      gates.push_back(c.step(at) * c.A.at(at % p.HV));
    }
    expectNear("step", step.host(), steps, 1e-6);
    expectNear("g", g.host(), gates, 1e-6);
    if (!p.skip) continue;
    const DeviceArray o(device, c.dV), y(device, {p.rows, p.HV, p.P}, p.dtype);
    expect(backend().mamba2Skip(device.stream(), &d.args, o.floats(), y.data(), backendDType(p.dtype), &error), error);
    Values sums;
    for (int64_t i = 0; i < c.x.size(); ++i) sums.push_back(c.dV.at(i) + c.D.at(i / p.P % p.HV) * c.x.at(i));
    expectNear("y", y.host(), sums, 1e-6);
  }
}

TEST("mamba2: gradients") {
  for (const Problem& p : kProblems) {
    const Case c(p, 9);
    Device device;
    const OnDevice d(device, c);
    const DeviceArray step(device, {p.rows, p.HV}), g(device, {p.rows, p.HV}), dY(device, c.dY), dV(device, c.dV),
        dG(device, c.dG), dx(device, c.x.shape()), ddt(device, {p.rows, p.HV}), dA(device, {p.HV}),
        dD = p.skip ? DeviceArray(device, {p.HV}) : DeviceArray(),
        dBias = p.bias ? DeviceArray(device, {p.HV}) : DeviceArray();
    RankoneError error;
    expect(backend().mamba2Prepare(device.stream(), &d.args, step.f32(), g.f32(), &error), error);
    const RankoneMamba2Gradients to = {step.f32(), dY.floats(), dV.f32(), dG.f32(),   dx.f32(),
                                       ddt.f32(),  dA.f32(),    dD.f32(), dBias.f32()};
    expect(backend().mamba2Gradients(device.stream(), &d.args, &to, &error), error);
    Values dxs(c.x.size()), ddts(c.dt.size()), dAs(p.HV), dDs(p.HV), dBiases(p.HV);
    for (int64_t at = 0; at < p.rows * p.HV; ++at) {
      const int64_t h = at % p.HV;
      double dot = 0;
      for (int64_t i = at * p.P; i < (at + 1) * p.P; ++i) {
        dot += c.dV.at(i) * c.x.at(i);
        dxs[i] = c.dV.at(i) * c.step(at) + (p.skip ? c.D.at(h) * c.dY.at(i) : 0);
        dDs[h] += c.dY.at(i) * c.x.at(i);
      }
      const double open = c.open(at);
      const double slope = open < p.low || open > p.high ? 0 : p.softplus ? 1 / (1 + std::exp(-c.raw(at))) : 1;
      ddts[at] = (dot + c.dG.at(at) * c.A.at(h)) * slope;
      dAs[h] += c.dG.at(at) * c.step(at);
      dBiases[h] += ddts[at];
    }
    expectNear("dx", dx.host(), dxs, 1e-6);
    expectNear("ddt", ddt.host(), ddts, 2e-6);
    expectNear("dA", dA.host(), dAs, 2e-6);
    if (p.skip) expectNear("dD", dD.host(), dDs, 2e-6);
    if (p.bias) expectNear("dDtBias", dBias.host(), dBiases, 2e-6);
  }
}

TEST("add: element by element") {
  Device device;
  Random random(3);
  for (const int64_t count : {1, 255, 256, 1000}) {
    const Array a = random.normals({count}), b = random.normals({count});
    const DeviceArray to(device, a), from(device, b);
    RankoneError error;
    expect(backend().add(device.stream(), to.f32(), from.f32(), count, &error), error);
    Values sums;
    for (int64_t i = 0; i < count; ++i) sums.push_back(static_cast<float>(a.at(i)) + static_cast<float>(b.at(i)));
    expectNear("sum", to.host(), sums, 1e-7);
  }
}

}  // namespace
}  // namespace rankone::test

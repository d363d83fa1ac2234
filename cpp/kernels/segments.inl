// What a segment does to a state beside its own updates: the decay that its gates leave, and the running sum of keys.
//
// Log gates are cumulated in twice float32's precision. A gate below kResetBelow makes the whole transition an exact
// zero, as it makes the state.
#include "kernels/recurrence_common.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

constexpr int64_t kTokensPrepared = 64;

// f(first token, end) for all tokens of one sequence, a stretch at a time, whose rows are readable by then.
template <class F>
void overStretches(const RecurrenceProblem& p, HeadRows& rows, int64_t sequence, unsigned parts, F&& f) {
  const int64_t T = p.length(sequence);
  for (int64_t t0 = 0; t0 < T; t0 += kTokensPrepared) {
    if (p.cancel && p.cancel->load(std::memory_order_relaxed)) return;
    const int64_t count = T - t0 < kTokensPrepared ? T - t0 : kTokensPrepared;
    rows.prepare(t0, count, parts);
    f(t0, t0 + count);
  }
}

// Gates per key channel are few numbers a token, or one.
int64_t gateWidth(const RecurrenceProblem& p) { return p.gate == GateKind::Channel ? p.K : 1; }

// The log decays of one sequence and value head summed over its tokens; -Infinity for a row that was reset.
void sumGates(const RecurrenceProblem& p, HeadRows& rows, int64_t sequence, double* sums) {
  const int64_t width = gateWidth(p);
  if (p.gate == GateKind::Head) {
    const double g = rows.headGate();
    const int64_t T = p.length(sequence);
    sums[0] = T == 0 ? 0 : g < kResetBelow ? -std::numeric_limits<double>::infinity() : g * static_cast<double>(T);
    return;
  }
  Scratch scratch(3 * alignFloats(roundUp(width, kLanes)));
  float *high = scratch.take(roundUp(width, kLanes)), *low = scratch.take(roundUp(width, kLanes)),
        *reset = scratch.take(roundUp(width, kLanes));
  for (int64_t i = 0; i < roundUp(width, kLanes); ++i) high[i] = low[i] = reset[i] = 0;
  overStretches(p, rows, sequence, HeadRows::kGates, [&](int64_t first, int64_t end) {
    for (int64_t i = 0; i < width; i += kLanes) {
      const int lanes = static_cast<int>(width - i < kLanes ? width - i : kLanes);
      Vec sum = load(high + i), rest = load(low + i), gone = load(reset + i);
      for (int64_t t = first; t < end; ++t) {
        const Vec x = loadUpTo(rows.g(t) + i, lanes);
        gone = select(x < kResetBelow, splat(1), gone);
        addExactly(sum, rest, select(x < kResetBelow, zero(), x));
      }
      store(high + i, sum);
      store(low + i, rest);
      store(reset + i, gone);
    }
  });
  for (int64_t i = 0; i < width; ++i)
    sums[i] = reset[i] != 0 ? -std::numeric_limits<double>::infinity()
                            : static_cast<double>(high[i]) + static_cast<double>(low[i]);
}

template <class F>
void overHeads(const RecurrenceProblem& p, int64_t heads, F&& f) {
  parallelFor(p.N * heads, p.cancel, [&](int64_t task) { f(task / heads, task % heads); });
}

}  // namespace

void gateTransitions(const RecurrenceProblem& p, float* out) {
  overHeads(p, p.HV, [&](int64_t sequence, int64_t hv) {
    const int64_t width = gateWidth(p);
    float* to = out + (sequence * p.HV + hv) * width;
    if (p.gate == GateKind::None) {
      *to = 1;
      return;
    }
    HeadRows rows(p, FloatView(), sequence, hv, kTokensPrepared, 0, 0);
    AlignedBuffer sums(static_cast<size_t>(width) * sizeof(double));
    double* log = static_cast<double*>(sums.data());
    sumGates(p, rows, sequence, log);
    for (int64_t i = 0; i < width; ++i) to[i] = static_cast<float>(std::exp(log[i]));
  });
}

void gateTransitionGradients(const RecurrenceProblem& p, const float* dTransition, float* dg) {
  const int64_t width = gateWidth(p);
  if (p.gate == GateKind::None) return;
  AlignedBuffer all(static_cast<size_t>(p.N * p.HV * width) * sizeof(double));
  double* flow = static_cast<double*>(all.data());  // of the log decays, what every token's gate gets
  overHeads(p, p.HV, [&](int64_t sequence, int64_t hv) {
    HeadRows rows(p, FloatView(), sequence, hv, kTokensPrepared, 0, 0);
    const int64_t first = (sequence * p.HV + hv) * width;
    double* mine = flow + first;
    sumGates(p, rows, sequence, mine);
    for (int64_t i = 0; i < width; ++i) {
      const double transition = std::exp(mine[i]);
      mine[i] = transition == 0 ? 0 : transition * static_cast<double>(dTransition[first + i]);
    }
    if (p.gate == GateKind::Head) {
      mine[0] *= static_cast<double>(p.length(sequence));
      return;
    }
    float* to = dg + (p.start(sequence) * p.HV + hv) * width;
    for (int64_t t = 0; t < p.length(sequence); ++t)
      for (int64_t i = 0; i < width; ++i) {
        float& x = to[t * p.HV * width + i];
        x = static_cast<float>(static_cast<double>(x) + mine[i]);
      }
  });
  for (int64_t x = 0; x < p.N * p.HV && p.gate == GateKind::Head; ++x) {
    float& to = dg[x % p.HV];
    to = static_cast<float>(static_cast<double>(to) + flow[x]);
  }
}

void keySums(const RecurrenceProblem& p, float* out) {
  overHeads(p, p.H, [&](int64_t sequence, int64_t h) {
    HeadRows rows(p, FloatView(), sequence, h * (p.HV / p.H), kTokensPrepared, 0, 0);
    AlignedBuffer sums(static_cast<size_t>(p.K) * sizeof(double));
    double* z = static_cast<double*>(sums.data());
    for (int64_t i = 0; i < p.K; ++i) z[i] = 0;
    overStretches(p, rows, sequence, HeadRows::kKeys, [&](int64_t first, int64_t end) {
      for (int64_t t = first; t < end; ++t)
        for (int64_t i = 0; i < p.K; ++i) z[i] += static_cast<double>(rows.k(t)[i]);
    });
    float* to = out + (sequence * p.H + h) * p.K;
    for (int64_t i = 0; i < p.K; ++i) to[i] = static_cast<float>(z[i]);
  });
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone

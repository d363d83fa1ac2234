// Splits the backward of recurrence_head_backward.inl over value heads and adds up what they share: queries and keys of
// a group, the gate of a head over the sequences. Sums run in the order of the heads.
#include "kernels/recurrence_head_backward.inl"

namespace rankone {
namespace RANKONE_ISA_NS {

SavedGeometry savedGeometry(int64_t n, int64_t K, int64_t V) {
  // K = 1 or 2: a few delta steps can erase the whole state; single tokens keep the gate's gradient exact then.
  const int64_t steps = kMaxChunkSteps, tokens = K <= 2 ? 1 : steps / n;
  const int64_t padded = roundUp(V, kBlock);
  return {tokens, K * padded, padded};
}

// No tokens: only the final state's gradient comes back, as the initial state's.
static void emptyBackward(const RecurrenceBackward& a) {
  if (a.gate == GateKind::Head && a.dg) std::memset(a.dg, 0, static_cast<size_t>(a.HV) * sizeof(float));
  if (!a.dInitialState) return;
  const size_t bytes = static_cast<size_t>(a.N * a.HV * a.K * a.V) * sizeof(float);
  a.dFinalState ? std::memcpy(a.dInitialState, a.dFinalState, bytes) : std::memset(a.dInitialState, 0, bytes);
}

// to[row] = the sum of the rows of its group, in the order of the heads.
static void addGroups(const RecurrenceBackward& a, const float* from, float* to, int64_t rows) {
  const int64_t group = a.HV / a.H;
  parallelFor((rows + 255) / 256, a.cancel, [&](int64_t task) {
    for (int64_t row = task * 256; row < rows && row < (task + 1) * 256; ++row)
      for (int64_t i = 0; i < a.K; ++i) {
        float sum = from[row * group * a.K + i];
        for (int64_t x = 1; x < group; ++x) sum += from[(row * group + x) * a.K + i];
        to[row * a.K + i] = sum;
      }
  });
}

void recurrenceBackward(const RecurrenceBackward& a) {
  if (a.N == 0 || a.B * a.T == 0) return emptyBackward(a);
  const int64_t heads = a.N * a.HV, group = a.HV / a.H, tokens = a.B * a.T;
  const bool headGate = a.gate == GateKind::Head && a.dg;
  AlignedBuffer headGates(headGate ? heads * sizeof(double) : 0);
  double* dgHead = headGate ? static_cast<double*>(headGates.data()) : nullptr;
  for (int64_t x = 0; x < heads && dgHead; ++x) dgHead[x] = 0;

  const auto runHead = [&](int64_t sequence, int64_t hv, const KeyGradients& to) {
    double* dg = dgHead ? dgHead + sequence * a.HV + hv : nullptr;
    HeadBackward(a, sequence, hv, to, dg).run();
  };
  const auto rowsOf = [&](float* dq, float* dk, int64_t sequence, int64_t hv) {
    const int64_t stride = a.HV * a.K, first = a.start(sequence) * stride + hv * a.K;
    return KeyGradients{dq + first, dk + a.start(sequence) * stride * (a.n - 1) + first, stride};
  };
  if (group == 1) {
    parallelFor(heads, a.cancel, [&](int64_t head) {
      const int64_t sequence = head / a.HV, hv = head % a.HV;
      runHead(sequence, hv, rowsOf(a.dq, a.dk, sequence, hv));
    });
  } else {
    // Value heads of a group write their own dq and dk, which are then added in the order of the heads.
    const size_t queries = static_cast<size_t>(tokens * a.HV * a.K);
    AlignedBuffer perHead(queries * (1 + a.n) * sizeof(float));
    float *dq = perHead.f32(), *dk = dq + queries;
    parallelFor(heads, a.cancel, [&](int64_t head) {
      const int64_t sequence = head / a.HV, hv = head % a.HV;
      runHead(sequence, hv, rowsOf(dq, dk, sequence, hv));
    });
    addGroups(a, dq, a.dq, tokens * a.H);
    addGroups(a, dk, a.dk, tokens * a.n * a.H);
  }

  for (int64_t hv = 0; hv < a.HV && dgHead; ++hv) {
    double sum = 0;
    for (int64_t sequence = 0; sequence < a.N; ++sequence) sum += dgHead[sequence * a.HV + hv];
    a.dg[hv] = static_cast<float>(sum);
  }
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone

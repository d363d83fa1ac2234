#include "recurrence.h"
#include "recurrence_activations.cuh"

namespace rankone::cuda {
namespace {

unsigned blocksFor(int64_t count, int64_t each) { return static_cast<unsigned>((count + each - 1) / each); }

void rowGradients(Stream& stream, const RankoneRecurrence& p, const RankoneFloats& x, int64_t rows, const float* norm,
                  bool keysFromGates, float* gradient) {
  if (!norm && !keysFromGates) return;
  const RowGradientsArgs args{x.data, x.dtype, rows, static_cast<int32_t>(p.K), keysFromGates, norm, gradient};
  stream.launch("recurrenceRowGradients", recurrenceRowGradients, blocksFor(rows, kActivationThreads / 32),
                kActivationThreads, 0, args);
}

void gateGradients(Stream& stream, const RankoneRecurrenceBackward& args) {
  const RankoneRecurrence& p = args.problem;
  GateGradientsArgs a{};
  a.g = p.g.data;
  a.dtype = p.g.dtype;
  a.tokens = p.B * p.T;
  a.width = p.gate == RANKONE_GATE_CHANNEL ? static_cast<int32_t>(p.K) : 1;
  a.columns = p.HV * a.width;
  a.aLog = p.aLog;
  a.dtBias = p.dtBias;
  a.lowerBound = p.lowerBound;
  a.dg = args.dg;
  const int64_t stretches = (a.tokens + kStretchTokens - 1) / kStretchTokens;
  const size_t sums = static_cast<size_t>(stretches * a.columns);
  const Scratch<double> byBias(stream, args.dDtBias ? sums : 0), byRate(stream, args.dALog ? sums : 0);
  a.byBias = byBias.data();
  a.byRate = byRate.data();
  stream.launch("recurrenceGateGradients", recurrenceGateGradients,
                dim3(static_cast<unsigned>(stretches), blocksFor(a.columns, kActivationThreads)), kActivationThreads, 0,
                a);
  const auto sum = [&](const Scratch<double>& from, int32_t width, float* to) {
    if (!to) return;
    const ColumnSumsArgs columns{from.data(), stretches, a.columns, width, to};
    stream.launch("recurrenceColumnSums", recurrenceColumnSums, static_cast<unsigned>(a.columns / width),
                  kActivationThreads, sizeof(ColumnSumsShared), columns);
  };
  sum(byBias, 1, args.dDtBias);
  sum(byRate, a.width, args.dALog);
}

}  // namespace

void recurrenceActivationGradients(Stream& stream, const RankoneRecurrenceBackward& args, const Prepared& prepared) {
  const RankoneRecurrence& p = args.problem;
  const int64_t rows = p.B * p.T;
  rowGradients(stream, p, p.q, rows * p.H, prepared.qNorm, false, args.dq);
  rowGradients(stream, p, p.k, rows * p.n * p.H, prepared.kNorm, p.keysFromGates, args.dk);
  if (p.betaActivation != RANKONE_BETA_NONE && args.dbeta) {
    const BetaGradientsArgs betas{p.beta.data, p.beta.dtype, p.betaActivation, rows * p.n * p.HV, args.dbeta};
    stream.launch("recurrenceBetaGradients", recurrenceBetaGradients, blocksFor(betas.count, kActivationThreads),
                  kActivationThreads, 0, betas);
  }
  if (p.aLog && args.dg) gateGradients(stream, args);
}

}  // namespace rankone::cuda

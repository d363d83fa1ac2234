#include "recurrence.h"
#include "recurrence_inputs.cuh"

namespace rankone::cuda {
namespace {

unsigned blocksFor(int64_t count, int64_t each) { return static_cast<unsigned>((count + each - 1) / each); }

template <class T>
T* keep(Stream& stream, Prepared& prepared, int64_t count) {
  prepared.kept.emplace_back(stream, static_cast<size_t>(count) * sizeof(T));
  return reinterpret_cast<T*>(prepared.kept.back().data());
}

void launchRows(Stream& stream, const RowsArgs& args) {
  const bool pieces = args.fromDType != RANKONE_F32 && args.toDType == RANKONE_BF16 && args.width % kPiece == 0 &&
                      reinterpret_cast<uintptr_t>(args.from) % 16 == 0;
  int32_t lanes = 1;
  while (lanes * kPiece < args.width) lanes *= 2;
  if (pieces)
    stream.launch("recurrenceRowPieces", recurrenceRowPieces, blocksFor(args.rows * lanes, kInputThreads),
                  kInputThreads, 0, args, lanes);
  else
    stream.launch("recurrenceRows", recurrenceRows, blocksFor(args.rows, kInputThreads / 32), kInputThreads, 0, args);
}

// Rows of one tensor as the kernels read them, and their norms.
const void* prepareRows(Stream& stream, Prepared& prepared, RowsArgs args, bool norms) {
  const size_t size = prepared.dtype == RANKONE_F32 ? sizeof(float) : sizeof(uint16_t);
  const bool aligned = prepared.dtype == RANKONE_F32 || reinterpret_cast<uintptr_t>(args.from) % 16 == 0;
  const bool asGiven =
      args.fromDType == prepared.dtype && args.padded == args.width && aligned && !args.keysFromGates && !args.scale;
  args.toDType = prepared.dtype;
  if (!asGiven) args.to = keep<char>(stream, prepared, args.rows * args.padded * static_cast<int64_t>(size));
  if (norms) args.norm = keep<float>(stream, prepared, args.rows);
  if (args.rows > 0 && (args.to || args.norm)) launchRows(stream, args);
  return asGiven ? args.from : args.to;
}

// A norm of the rows that prepareRows has just written last.
const float* lastNorms(const Prepared& prepared, bool norms) {
  return norms ? reinterpret_cast<const float*>(prepared.kept.back().data()) : nullptr;
}

}  // namespace

Sequences::Sequences(Stream& stream, const RankoneRecurrence& problem, int64_t leastTokens) : chunkCount(0) {
  const int64_t each = chunkTokens(problem.n);
  std::vector<Chunk> list;
  for (int64_t i = 0; i <= problem.N; ++i) {
    hostStarts.push_back(problem.cuSeqlens ? problem.cuSeqlens[i] : i * problem.T);
    hostFirstChunks.push_back(chunkCount);
    if (i == problem.N) break;
    const int64_t start = hostStarts.back(), length = problem.cuSeqlens ? problem.cuSeqlens[i + 1] - start : problem.T;
    for (int64_t t = 0; t < length && length >= leastTokens; t += each)
      list.push_back({start + t, static_cast<int32_t>(length - t < each ? length - t : each), static_cast<int32_t>(i)});
    chunkCount = static_cast<int64_t>(list.size());
  }
  starts = Scratch<int64_t>(stream, hostStarts);
  firstChunks = Scratch<int64_t>(stream, hostFirstChunks);
  if (chunkCount > 0) chunks = Scratch<Chunk>(stream, list);
}

Prepared prepare(Stream& stream, const RankoneRecurrence& problem, int32_t dtype) {
  const RankoneRecurrence& p = problem;
  Prepared out{};
  out.dtype = dtype;
  const int64_t multiple = dtype == RANKONE_F32 ? 1 : 8, rows = p.B * p.T;
  out.Kp = (p.K + multiple - 1) / multiple * multiple;
  out.Vp = (p.V + multiple - 1) / multiple * multiple;
  RowsArgs args{};
  args.width = static_cast<int32_t>(p.K);
  args.padded = static_cast<int32_t>(out.Kp);
  args.from = p.q.data;
  args.fromDType = p.q.dtype;
  args.rows = rows * p.H;
  out.q = prepareRows(stream, out, args, p.qkL2norm);
  out.qNorm = lastNorms(out, p.qkL2norm);
  args.from = p.k.data;
  args.fromDType = p.k.dtype;
  args.rows = rows * p.n * p.H;
  args.keysFromGates = p.keysFromGates;
  out.k = prepareRows(stream, out, args, p.qkL2norm);
  out.kNorm = lastNorms(out, p.qkL2norm);
  args = {};
  args.width = static_cast<int32_t>(p.V);
  args.padded = static_cast<int32_t>(out.Vp);
  args.from = p.v.data;
  args.fromDType = p.v.dtype;
  args.rows = rows * p.n * p.HV;
  args.scale = p.valueScale;
  out.v = prepareRows(stream, out, args, false);

  if (p.g.data) {  // a preset's gates of heads are not there where there are no tokens
    GatesArgs gates{};
    gates.from = p.g.data;
    gates.dtype = p.g.dtype;
    gates.heads = static_cast<int32_t>(p.HV);
    gates.width = p.gate == RANKONE_GATE_CHANNEL ? static_cast<int32_t>(p.K) : 1;
    gates.count = p.gate == RANKONE_GATE_HEAD ? p.HV : rows * p.HV * gates.width;
    gates.aLog = p.aLog;
    gates.dtBias = p.dtBias;
    gates.lowerBound = p.lowerBound;
    out.g = gates.to = keep<float>(stream, out, gates.count);
    stream.launch("recurrenceGates", recurrenceGates, blocksFor(gates.count, kInputThreads), kInputThreads, 0, gates);
  }
  if (p.update == RANKONE_DELTA) {
    BetasArgs betas{p.beta.data, p.beta.dtype, rows * p.n * p.HV, p.betaActivation, nullptr};
    if (betas.dtype == RANKONE_F32 && betas.activation == RANKONE_BETA_NONE) {
      out.beta = static_cast<const float*>(betas.from);
    } else {
      out.beta = betas.to = keep<float>(stream, out, betas.count);
      stream.launch("recurrenceBetas", recurrenceBetas, blocksFor(betas.count, kInputThreads), kInputThreads, 0, betas);
    }
  }
  return out;
}

OutputGradient prepareOutputGradient(Stream& stream, const RankoneRecurrenceBackward& args, const Prepared& prepared) {
  const RankoneRecurrence& p = args.problem;
  Prepared rows{};  // keeps what is converted
  rows.dtype = prepared.dtype;
  RowsArgs from{};
  from.width = static_cast<int32_t>(p.V);
  from.padded = static_cast<int32_t>(prepared.Vp);
  from.from = args.dO.data;
  from.fromDType = args.dO.dtype;
  from.rows = p.B * p.T * p.HV;
  const void* data = prepareRows(stream, rows, from, false);
  return {data, std::move(rows.kept)};
}

}  // namespace rankone::cuda

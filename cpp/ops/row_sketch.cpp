// S^T x for a random S [rows, size] with E[S S^T] = 1, and the gradient of a weight from it.
#include <algorithm>

#include "core/workspace.h"
#include "kernels/convert.h"
#include "kernels/fill_normals.h"
#include "kernels/matmul.h"
#include "kernels/scaled_sum.h"
#include "ops/op.h"
#include "ops/seeds.h"
#include "ops/shapes.h"

namespace rankone {
namespace {

enum Input { kX, kDY = kX, kSketch };
enum Option { kSize, kSeed, kStream };
enum GradientOption { kGradientSeed, kGradientStream };

constexpr int64_t kSlabRows = 1024;  // of S at a time, a multiple of four

struct Stream {
  uint64_t seed;
  uint32_t stream;
};

Stream streamOf(const Call& call, int seed, int stream) {
  expectInteger(call, seed, 0, kMostSeed);
  expectInteger(call, stream, 0, kMostStream);
  return {static_cast<uint64_t>(call.integer(seed, 0)), static_cast<uint32_t>(call.integer(stream, 0))};
}

AlignedBuffer floatBuffer(int64_t count) { return AlignedBuffer(static_cast<size_t>(count) * sizeof(float)); }

void expectDrawable(const char* name, int64_t rows, int64_t size) {
  expectCountable(name, {rows, size});
  if (rows > 0 && size > kMostDrawn / rows)
    fail(ErrorKind::Range, "%s: expected at most 2^34 random numbers for all rows, got %lld rows of %lld", name,
         static_cast<long long>(rows), static_cast<long long>(size));
}

// to [size, columns] = S^T x, slab by slab of rows.
void sketch(const Tensor& x, const Stream& from, int64_t size, float* to, const CancelFlag* cancel) {
  const int64_t rows = outerSize(x, 1), columns = x.shape[x.rank - 1], slab = std::min(kSlabRows, rows);
  if (size == 0 || columns == 0) return;
  const AlignedBuffer s = floatBuffer(slab * size), part = floatBuffer(rows > slab ? size * columns : 0);
  const AlignedBuffer floats = floatBuffer(x.dtype == DType::F32 ? 0 : slab * columns);
  MatmulArgs m;
  m.a = s.data();
  m.transposeA = true;
  m.M = size;
  m.N = columns;
  m.cancel = cancel;
  for (int64_t first = 0; first == 0 || first < rows; first += kSlabRows) {
    const int64_t count = std::min(slab, rows - first);
    fillNormals({from.seed, from.stream, 1 / std::sqrt(static_cast<double>(size)), first * size, count * size, s.f32(),
                 cancel});
    m.b = FloatView(x).at(first * columns);
    if (x.dtype != DType::F32) {
      widenAll(x.data, x.dtype, first * columns, count * columns, floats.f32(), cancel);
      m.b = floats.data();
    }
    m.K = count;
    m.y = first ? part.f32() : to;
    matmul(m);
    if (first) scaledSum({part.f32(), FloatView(to), to, DType::F32, 1, size * columns, cancel});
  }
}

void plan(Call& call) {
  expectInputs(call);
  expectMinRank(call, kX, 1, "[...,in]");
  if (!call.options[kSize].given) fail(ErrorKind::Type, "size: expected an integer, got none");
  expectInteger(call, kSize, 1, int64_t{1} << 31);
  streamOf(call, kSeed, kStream);
  const Tensor& x = call.input(kX);
  expectDrawable("size", outerSize(x, 1), call.integer(kSize, 0));
  setOutput(call, 0, {call.integer(kSize, 0), x.shape[x.rank - 1]});
}

void run(const Call& call) {
  sketch(call.input(kX), streamOf(call, kSeed, kStream), call.integer(kSize, 0), call.outputs[0].f32(), call.cancel);
}

void planGradient(Call& call) {
  expectInputs(call);
  expectMinRank(call, kDY, 1, "[...,out]");
  expectRank(call, kSketch, 2, "[size,in]");
  streamOf(call, kGradientSeed, kGradientStream);
  const Tensor &dY = call.input(kDY), &sketch = call.input(kSketch);
  if (sketch.shape[0] == 0)
    fail(ErrorKind::Range, "sketch: expected shape [size,in] with a size, got %s", sketch.shapeText().c_str());
  expectDrawable("sketch", outerSize(dY, 1), sketch.shape[0]);
  setOutput(call, 0, {dY.shape[dY.rank - 1], sketch.shape[1]});
}

// dWeight = (S^T dY)^T (S^T x)
void runGradient(const Call& call) {
  const Tensor &dY = call.input(kDY), &kept = call.input(kSketch), &dWeight = call.outputs[0];
  if (dWeight.size() == 0) return;
  const int64_t size = kept.shape[0], out = dWeight.shape[0];
  const AlignedBuffer sums = floatBuffer(size * out);
  sketch(dY, streamOf(call, kGradientSeed, kGradientStream), size, sums.f32(), call.cancel);
  MatmulArgs m;
  m.a = sums.data();
  m.b = kept.data;
  m.y = dWeight.data;
  m.transposeA = true;
  m.M = out;
  m.N = kept.shape[1];
  m.K = size;
  m.cancel = call.cancel;
  matmul(m);
}

constexpr InputSpec kInputs[] = {{"x", true, kFloats}};
constexpr InputSpec kGradientInputs[] = {{"dY", true, kFloats}, {"sketch"}};
constexpr OptionSpec kOptions[] = {
    {"size", OptionKind::Integer}, {"seed", OptionKind::Integer}, {"stream", OptionKind::Integer}};
constexpr OptionSpec kGradientOptions[] = {{"seed", OptionKind::Integer}, {"stream", OptionKind::Integer}};
constexpr OutputSpec kOutputs[] = {{"sketch"}};
constexpr OutputSpec kGradients[] = {{"dWeight"}};

}  // namespace

extern const OpSpec rowSketchOp, rowSketchGradientOp;
const OpSpec rowSketchOp{"rowSketch", kInputs, kOptions, kOutputs, plan, run};
const OpSpec rowSketchGradientOp{"rowSketchGradient", kGradientInputs, kGradientOptions,
                                 kGradients,          planGradient,    runGradient};

}  // namespace rankone

// w += scale S in place, for S given by its positions.
#include "kernels/sparse.h"
#include "ops/op.h"
#include "ops/shapes.h"
#include "ops/sparse_inputs.h"

namespace rankone {
namespace {

enum Input { kW, kValues, kRows, kIndptr, kColumns };
enum Option { kScale };

constexpr SparsePlaces kPlaces{kValues, kRows, kIndptr, kColumns};

void plan(Call& call) {
  expectInputs(call);
  expectRank(call, kW, 2, "[out,in]");
  expectDType(call, kValues, kW, true);
  const Tensor& w = call.input(kW);
  sparseIndices(call, kPlaces, w.shape[0], w.shape[1]);
  expectFinite(call, kScale);
}

void run(const Call& call) {
  const Tensor& w = call.input(kW);
  if (call.input(kValues).size() == 0) return;
  const SparseOrder order(plannedIndices(call, kPlaces, w.shape[0], w.shape[1]), false);
  scatterAdd({w.data, w.dtype, FloatView(call.input(kValues)), order.pattern(), call.number(kScale, 1), call.cancel});
}

constexpr InputSpec kInputs[] = {{"w", true, kFloats, Access::Update},
                                 {"values", true, kFloats},
                                 {"rows", false, kIndices},
                                 {"indptr", false, kIndices},
                                 {"columns", true, kIndices}};
constexpr OptionSpec kOptions[] = {{"scale", OptionKind::Number}};

}  // namespace

extern const OpSpec scatterAddOp;
const OpSpec scatterAddOp{"scatterAdd", kInputs, kOptions, {}, plan, run};

}  // namespace rankone

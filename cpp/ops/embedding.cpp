// y = weight[ids] and the gradient of the table.
#include "kernels/embedding.h"

#include "ops/op.h"
#include "ops/shapes.h"

namespace rankone {
namespace {

enum Input { kIds, kWeight, kDY = kWeight };
enum BackwardOption { kNumEmbeddings, kGradDtype };

void checkIds(const Call& call, int64_t V) {
  const Tensor& ids = call.input(kIds);
  const int64_t count = ids.size(), bad = findBadId(ids.as<int32_t>(), count, V);
  if (bad < count)
    fail(ErrorKind::Range, "ids: expected indices from 0 to %lld, got %d at position %lld",
         static_cast<long long>(V - 1), ids.as<int32_t>()[bad], static_cast<long long>(bad));
}

void expectIdsRank(const Call& call) {
  const Tensor& ids = call.input(kIds);
  if (ids.rank > 4) fail(ErrorKind::Range, "ids: expected at most 4 dimensions, got %s", ids.shapeText().c_str());
}

void plan(Call& call) {
  expectInputs(call);
  expectIdsRank(call);
  expectRank(call, kWeight, 2, "[V,D]");
  const Tensor &ids = call.input(kIds), &weight = call.input(kWeight);
  checkIds(call, weight.shape[0]);
  int64_t shape[kMaxRank];
  for (int i = 0; i < ids.rank; ++i) shape[i] = ids.shape[i];
  shape[ids.rank] = weight.shape[1];
  setOutput(call, 0, shape, ids.rank + 1, weight.dtype);
}

void run(const Call& call) {
  const Tensor &ids = call.input(kIds), &weight = call.input(kWeight);
  embedding({ids.as<int32_t>(), weight.data, call.outputs[0].data, weight.dtype, ids.size(), weight.shape[0],
             weight.shape[1], call.cancel});
}

void planBackward(Call& call) {
  expectInputs(call);
  expectIdsRank(call);
  const Tensor &ids = call.input(kIds), &dY = call.input(kDY);
  bool fits = dY.rank == ids.rank + 1;
  for (int i = 0; fits && i < ids.rank; ++i) fits = dY.shape[i] == ids.shape[i];
  if (!fits)
    fail(ErrorKind::Range, "dY: expected shape [...ids,D] with ids %s, got %s", ids.shapeText().c_str(),
         dY.shapeText().c_str());
  if (!call.options[kNumEmbeddings].given) fail(ErrorKind::Type, "numEmbeddings: expected an integer, got none");
  expectInteger(call, kNumEmbeddings, 0, int64_t{1} << 31);
  const int64_t V = call.integer(kNumEmbeddings, 0);
  checkIds(call, V);
  setOutput(call, 0, {V, dY.shape[dY.rank - 1]}, gradientDType(call, kGradDtype, dY));
}

void runBackward(const Call& call) {
  const Tensor &ids = call.input(kIds), &dY = call.input(kDY), &dW = call.outputs[0];
  embeddingBackward(
      {ids.as<int32_t>(), dY.data, dW.data, dY.dtype, dW.dtype, ids.size(), dW.shape[0], dW.shape[1], call.cancel});
}

constexpr InputSpec kInputs[] = {{"ids", true, kI32}, {"weight", true, kFloats}};
constexpr InputSpec kBackwardInputs[] = {{"ids", true, kI32}, {"dY", true, kFloats}};
constexpr OptionSpec kBackwardOptions[] = {{"numEmbeddings", OptionKind::Integer},
                                           {"gradDtype", OptionKind::Choice, "f32|input"}};
constexpr OutputSpec kOutputs[] = {{"y"}};
constexpr OutputSpec kGradients[] = {{"dWeight"}};

}  // namespace

extern const OpSpec embeddingOp, embeddingBackwardOp;
const OpSpec embeddingOp{"embedding", kInputs, {}, kOutputs, plan, run};
const OpSpec embeddingBackwardOp{"embeddingBackward", kBackwardInputs, kBackwardOptions,
                                 kGradients,          planBackward,    runBackward};

}  // namespace rankone

// The fused LoRA product on Hopper: the list of work of lora_forward.cuh, whose tiles are summed by wgmma.
//
// A block has consumers, one or two warpgroups that work through the list, and a warpgroup of producers, who go through
// its tiles ahead of them and pass each on in stages of shared memory:
//
//   64 of k   a tile of x, by TMA, and one of W: by TMA, or codes that producers copy and expand
//   outputs   their biases and int8's scales
//   ranks     w of the tile's rows and B of its outputs, 16 ranks of an adapter at a time, when the tile's w is there
//
// A stage is full when those who fill it have arrived, and empty again when every consumer's warp has.
#pragma once
#include "lora_forward.cuh"
#include "matmul_tile_hopper.cuh"

// Last, as everywhere.
#include "simt/simt.cuh"

namespace rankone::cuda {

// Named barriers: of the consumers, of the producers, and of both when the strips are done with the stages' memory.
constexpr int kConsumers = 1, kProducers = 2, kStripsDone = 3;
constexpr int kProducerThreads = 128;

// Tiles of outputs, tiles of ranks and how many of these make a strip, whether W is made of elements as they are
// multiplied, pieces of k of strips on their way, there and where A has to be expanded, and stages of tiles. Where W is
// expanded: how many producers share a stage, and pieces of codes that each group of them has on their way.
template <class Base_, class Strip_, int RANKS_, bool DIRECT_, int STAGES_, int STRIP_STAGES_, int RING_,
          int EXPANDERS_ = 128, int RAW_ = 0>
struct HopperSchedule {
  using Base = Base_;
  using Strip = Strip_;
  static constexpr int RANKS = RANKS_;
  static constexpr bool DIRECT = DIRECT_;
  static constexpr int STAGES = STAGES_, STRIP_STAGES = STRIP_STAGES_, RING = RING_, THREADS = Base::THREADS;
  static constexpr int EXPANDERS = EXPANDERS_, RAW = RAW_, GROUPS = kProducerThreads / EXPANDERS;
  static constexpr int X = Base::BM * Base::ROW_BYTES, W = Base::BN * Base::ROW_BYTES;
  static constexpr int FILLERS = DIRECT ? 1 : 1 + EXPANDERS / 32;  // arrivals at a stage
  static_assert(Base::THREADS == Strip::THREADS && Base::BM == Strip::BM && Base::BN >= Strip::BN &&
                RANKS <= Strip::BN && (DIRECT || RAW > 0));
};

template <class Schedule>
struct HopperShared {
  __align__(16) const uint8_t* x[Schedule::Base::BM];  // rows of a strip
  const uint8_t* codes[Schedule::Base::BN];            // of A, later of W
  const float* scales[Schedule::DIRECT ? 1 : Schedule::Base::BN];
  float nf4[16];
  uint64_t full[Schedule::RING], empty[Schedule::RING];
  __align__(1024) uint8_t ring[Schedule::RING * (Schedule::X + Schedule::W)];  // and what the launch adds
};

// What a stage holds instead of x and W.
template <class Base>
struct OutputStage {
  float bias[Base::BN], scale[Base::BN];
};
template <class Base>
struct RankStage {
  float u[Base::BM * 16], v[Base::BN * 16];
  uint32_t pair[Base::BM];
  const float* outBias;  // with the last ranks of an adapter that has one
  int32_t adapter;
  uint32_t blocks;
};

struct HopperMaps {
  simt::TensorMap x, w;  // w only where W is made of elements as they are multiplied
};

// A place in the sequence of stages.
template <int RING>
struct StagePlace {
  int slot = 0;
  uint32_t round = 0;

  SIMT_DEV void next() {
    if (++slot < RING) return;
    slot = 0;
    ++round;
  }
  SIMT_DEV void skip(int64_t count) {
    const int64_t at = slot + count;
    round += static_cast<uint32_t>(at / RING);
    slot = static_cast<int>(at % RING);
  }
};

SIMT_DEV bool hasOutputStage(const LoraForwardArgs& args) {
  return args.bias.data || (args.hasBase && args.format.format == RANKONE_WEIGHT_INT8);
}
SIMT_DEV int64_t stepsOf(const LoraForwardArgs& args) { return args.hasBase ? (args.in + 63) / 64 : 0; }

template <class Schedule>
class HopperConsumer : public LoraBlock<Schedule, HopperShared<Schedule>> {
  using Block = LoraBlock<Schedule, HopperShared<Schedule>>;
  using Base = typename Schedule::Base;
  using Block::args;
  using Block::shared;

 public:
  SIMT_DEV HopperConsumer(const LoraForwardArgs& args) : Block(args) {}

  // y of a tile's rows and of the outputs from n0 on.
  SIMT_DEV void sumOutputs(int64_t index, int64_t n0) {
    const LoraTile tile = args.tiles[index];
    Base sum;
    sum.clear();
    sumProducts(sum, stepsOf(args));
    if (!args.hasBase) this->setIdentity(sum, tile, n0);
    if (hasOutputStage(args)) {
      const auto& stage = await<OutputStage<Base>>();
      if (args.hasBase && args.format.format == RANKONE_WEIGHT_INT8) {
        forPairs(stage.scale, [&](int i, int j, float scale) { sum.at(i, j) *= scale; });
      }
      this->scaleBase(sum, tile, n0);
      if (args.bias.data) forPairs(stage.bias, [&](int i, int j, float bias) { sum.at(i, j) += bias; });
      release();
    } else {
      this->scaleBase(sum, tile, n0);
    }
    for (int k = 0; k < tile.groups; ++k) addGroup(sum, n0);
    this->store(sum, tile, n0);
  }

 private:
  SIMT_DEV void sumProducts(Base& sum, int64_t steps) {
    if (steps == 0) return;
    const uint8_t* const ring = shared.ring;
    constexpr int STAGE = Schedule::X + Schedule::W;
    int last = 0;
    SIMT_NOUNROLL for (int64_t step = 0; step < steps; ++step) {
      simt::mbar_wait(&shared.full[place.slot], place.round & 1);
      simt::wgmma_fence();
      sum.multiply(ring + place.slot * STAGE, ring + place.slot * STAGE + Schedule::X);
      simt::wgmma_commit();
      // The products of the stage before are done.
      simt::wgmma_wait<1>();
      if (step > 0) release(last);
      last = place.slot;
      place.next();
    }
    simt::wgmma_wait<0>();
    release(last);
  }

  SIMT_DEV void release(int slot) {
    if (threadIdx.x % 32 == 0) simt::mbar_arrive(&shared.empty[slot]);
  }
  // After the last reads of the stage of await().
  SIMT_DEV void release() {
    simt::syncwarp();
    release(place.slot);
    place.next();
  }
  template <class Stage>
  SIMT_DEV const Stage& await() const {
    static_assert(sizeof(Stage) <= Schedule::X + Schedule::W);
    simt::mbar_wait(&shared.full[place.slot], place.round & 1);
    return *reinterpret_cast<const Stage*>(shared.ring + place.slot * (Schedule::X + Schedule::W));
  }

  // visit(i, j, value of column j)
  template <class Visit>
  SIMT_DEV void forPairs(const float* values, const Visit& visit) const {
    SIMT_UNROLL for (int j = 0; j < Base::COLUMNS; j += 2) {
      float pair[2];
      simt::ld2(pair, values + Base::column(j));
      SIMT_UNROLL for (int i = 0; i < Base::ROWS; ++i) SIMT_UNROLL for (int e = 0; e < 2; ++e) visit(i, j + e, pair[e]);
    }
  }

  // Adds gate scale (B M phi + c) of some ranks to the rows that have them.
  SIMT_DEV void addGroup(Base& sum, int64_t n0) {
    const auto& stage = await<RankStage<Base>>();
    bool has[Base::ROWS];
    SIMT_UNROLL for (int i = 0; i < Base::ROWS; ++i) has[i] = stage.pair[Base::row(i)] != kNoPair;
    sum.addRanks(stage.u, stage.v, stage.blocks, has);
    if (const float* bias = stage.outBias) {
      const RankoneAdapter& a = args.adapters[stage.adapter];
      SIMT_UNROLL for (int i = 0; i < Base::ROWS; ++i) {
        if (!has[i]) continue;
        const float factor = rankFactor(args, a, stage.pair[Base::row(i)]);
        this->forColumns(n0, [&](int j, int64_t n) { sum.at(i, j) = fmaf(factor, bias[n], sum.at(i, j)); });
      }
    }
    release();
  }

  StagePlace<Schedule::RING> place;
};

}  // namespace rankone::cuda

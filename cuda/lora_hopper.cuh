// The fused LoRA product on Hopper: the list of work of lora_forward.cuh, whose tiles are summed by wgmma.
//
// A block has consumers, one or two warpgroups that work through the list, and a warpgroup of producers, who go through
// its tiles ahead of them and pass each on in stages of shared memory:
//
//   64 of k   a tile of x, by TMA, and one of W: by TMA, or codes that producers copy and expand
//   vectors   of outputs: int8's scales, an adapter's d, the bias
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
struct VectorStage {
  float values[Base::BN];
  uint32_t pair[Base::BM];  // of an adapter's d: kNoPair where a row lacks it
};
template <class Base>
struct RankStage {
  float u[Base::BM * 16], v[Base::BN * 16];
  uint32_t pair[Base::BM];
  float outBias[Base::BN], factor[Base::BM];  // c, and gate scale
  uint32_t blocks;
  int32_t biased;  // whether there is a c: with the last ranks of an adapter that has one
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
  SIMT_DEV void skip(int count) {
    const uint32_t at = static_cast<uint32_t>(slot + count);
    round += at / RING;
    slot = static_cast<int>(at % RING);
  }
};

SIMT_DEV bool scalesRows(const LoraForwardArgs& args) {
  return args.hasBase && args.format.format == RANKONE_WEIGHT_INT8;
}
SIMT_DEV int stepsOf(const LoraForwardArgs& args) { return args.hasBase ? static_cast<int>((args.in + 63) / 64) : 0; }

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
    Base sum;
    sum.clear();
    sumProducts(sum, stepsOf(args));
    const LoraTile tile = args.tiles[index];
    if (Schedule::DIRECT && !args.hasBase) this->setIdentity(sum, tile, n0);
    // int8's scales, then d
    const int scales = (scalesRows(args) ? 1 : 0) + tile.baseScales;
    for (int k = 0; k < scales; ++k) withVector(sum, [](float y, float scale, float) { return y * scale; });
    if (args.bias.data) withVector(sum, [](float y, float bias, float) { return y + bias; });
    for (int k = 0; k < tile.groups; ++k) addGroup(sum);
    this->store(sum, tile, n0);
  }

 private:
  SIMT_DEV void sumProducts(Base& sum, int steps) {
    if (steps == 0) return;
    const uint8_t* const ring = shared.ring;
    constexpr int STAGE = Schedule::X + Schedule::W;
    int last = 0;
    SIMT_NOUNROLL for (int step = 0; step < steps; ++step) {
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

  // sum = visit(sum, the vector's of its column, its row's factor) where has(row)
  template <class Visit>
  SIMT_DEV void forColumns(Base& sum, const float* vector, const bool (&has)[Base::ROWS],
                           const float (&factor)[Base::ROWS], const Visit& visit) const {
    SIMT_UNROLL for (int j = 0; j < Base::COLUMNS; j += 2) {
      float pair[2];
      simt::ld2(pair, vector + Base::column(j));
      SIMT_UNROLL for (int i = 0; i < Base::ROWS; ++i) SIMT_UNROLL for (int e = 0; e < 2; ++e) {
        const float changed = visit(sum.at(i, j + e), pair[e], factor[i]);
        sum.at(i, j + e) = has[i] ? changed : sum.at(i, j + e);
      }
    }
  }
  template <class Visit>
  SIMT_DEV void withVector(Base& sum, const Visit& visit) {
    const auto& stage = await<VectorStage<Base>>();
    bool has[Base::ROWS];
    SIMT_UNROLL for (int i = 0; i < Base::ROWS; ++i) has[i] = stage.pair[Base::row(i)] != kNoPair;
    const float none[Base::ROWS] = {};
    forColumns(sum, stage.values, has, none, visit);
    release();
  }

  // Adds gate scale (B M phi + c) of some ranks to the rows that have them.
  SIMT_DEV void addGroup(Base& sum) {
    const auto& stage = await<RankStage<Base>>();
    bool has[Base::ROWS];
    SIMT_UNROLL for (int i = 0; i < Base::ROWS; ++i) has[i] = stage.pair[Base::row(i)] != kNoPair;
    sum.addRanks(stage.u, stage.v, stage.blocks, has);
    if (stage.biased) {
      float factor[Base::ROWS];
      SIMT_UNROLL for (int i = 0; i < Base::ROWS; ++i) factor[i] = stage.factor[Base::row(i)];
      forColumns(sum, stage.outBias, has, factor,
                 [](float y, float bias, float scale) { return fmaf(scale, bias, y); });
    }
    release();
  }

  StagePlace<Schedule::RING> place;
};

}  // namespace rankone::cuda

// The warps of the fused LoRA product on Hopper that fill the stages of its tiles: see lora_hopper.cuh.
#pragma once
#include "lora_hopper.cuh"

// Last, as everywhere.
#include "simt/simt.cuh"

namespace rankone::cuda {

template <class Schedule>
class HopperProducer {
  using Base = typename Schedule::Base;
  using Shared = HopperShared<Schedule>;
  static constexpr int BM = Base::BM, BN = Base::BN, STAGE = Schedule::X + Schedule::W;

 public:
  SIMT_DEV HopperProducer(const LoraForwardArgs& args, const HopperMaps& maps)
      : args(args),
        maps(maps),
        shared(simt::shared<Shared>()),
        thread(static_cast<int>(threadIdx.x) - Schedule::THREADS),
        lane(thread % 32) {}

  // All stages of a tile.
  SIMT_DEV void fill(int64_t index, int64_t n0) {
    const LoraTile tile = args.tiles[index];
    const int steps = stepsOf(args);
    if constexpr (Schedule::DIRECT) {
      if (thread == 0) copyTiles(place, tile, n0, steps);
    } else {
      expandTiles(place, tile, n0, steps);
    }
    place.skip(steps);
    const int first = (scalesRows(args) ? 1 : 0) + tile.baseScales + (args.bias.data ? 1 : 0);
    const int count = first + tile.groups;
    if (count == 0) return;
    // Other warps go on with the slots: they tell this round from the one before the last by its parity alone.
    simt::syncwarp();
    simt::bar_sync(kProducers, kProducerThreads);
    Place at = place;
    for (int e = 0; e < count; ++e, at.next()) {
      if (at.slot % 4 != thread / 32) continue;
      awaitEmpty(at);
      uint8_t* stage = shared.ring + at.slot * STAGE;
      if (e < first) {
        fillVector(*reinterpret_cast<VectorStage<Base>*>(stage), tile, e, n0);
      } else {
        fillRanks(*reinterpret_cast<RankStage<Base>*>(stage), args.groups[tile.firstGroup + e - first], index, n0);
      }
      simt::fence_proxy_async();  // the copy engine writes there next
      simt::syncwarp();
      if (lane == 0) {
        SIMT_UNROLL for (int i = 0; i < Schedule::FILLERS; ++i) simt::mbar_arrive(&shared.full[at.slot]);
      }
    }
    place.skip(count);
    simt::bar_sync(kProducers, kProducerThreads);
  }

 private:
  using Place = StagePlace<Schedule::RING>;

  SIMT_DEV void awaitEmpty(const Place& at) const {
    if (at.round > 0) simt::mbar_wait(&shared.empty[at.slot], (at.round - 1) & 1);
  }

  // By one thread.
  SIMT_DEV void copyTiles(Place at, const LoraTile& tile, int64_t n0, int steps) const {
    SIMT_NOUNROLL for (int step = 0; step < steps; ++step, at.next()) {
      awaitEmpty(at);
      uint8_t* stage = shared.ring + at.slot * STAGE;
      simt::mbar_expect_tx(&shared.full[at.slot], STAGE);
      copyX(stage, at, tile, step);
      simt::tma_load_2d(stage + Schedule::X, &maps.w, step * 64, static_cast<int>(n0), &shared.full[at.slot]);
    }
  }
  SIMT_DEV void copyX(uint8_t* to, const Place& at, const LoraTile& tile, int step) const {
    simt::tma_load_2d(to, &maps.x, step * 64, static_cast<int>(tile.first), &shared.full[at.slot]);
  }

  // A group of producers takes every GROUPS-th stage; a thread expands what it has copied itself.
  SIMT_DEV void expandTiles(Place at, const LoraTile& tile, int64_t n0, int steps) const {
    constexpr int EXPANDERS = Schedule::EXPANDERS, GROUPS = Schedule::GROUPS, RAW = Schedule::RAW;
    if (steps == 0) return;
    simt::bar_sync(kProducers, kProducerThreads);  // nobody needs the rows of the last tile
    for (int n = thread; n < BN; n += kProducerThreads) {
      const bool there = n0 + n < args.out;
      shared.codes[n] = there ? args.codes + (n0 + n) * args.format.rowBytes : nullptr;
      shared.scales[n] = there && args.scales ? args.scales + (n0 + n) * args.format.blocks : nullptr;
    }
    simt::bar_sync(kProducers, kProducerThreads);

    const WeightRows rows = {shared.codes, shared.scales, shared.nf4};
    const int own = thread % EXPANDERS, bytes = rawBytes(BN, Base::BK, args.format);
    uint8_t* const raw = shared.ring + Schedule::RING * STAGE + thread / EXPANDERS * RAW * bytes;
    const auto copy = [&](int step, int slot) {
      if (step < steps)
        copyRaw<Base::BK, EXPANDERS>(raw + slot * bytes, rows, args.format, BN, step, args.operand, own);
      simt::cp_async_commit();
    };
    const int first = thread / EXPANDERS;
    SIMT_UNROLL for (int s = 0; s < RAW - 1; ++s) copy(first + s * GROUPS, s);
    at.skip(first);
    int slot = 0;
    SIMT_NOUNROLL for (int step = first; step < steps; step += GROUPS) {
      copy(step + (RAW - 1) * GROUPS, slot ? slot - 1 : RAW - 1);
      awaitEmpty(at);
      uint8_t* stage = shared.ring + at.slot * STAGE;
      if (own == 0) {
        simt::mbar_expect_tx(&shared.full[at.slot], Schedule::X);
        copyX(stage, at, tile, step);
      }
      simt::cp_async_wait<RAW - 1>();
      expandRaw<typename Base::Element, Base::BK, EXPANDERS>(stage + Schedule::X, raw + slot * bytes, rows, args.format,
                                                             BN, own);
      simt::fence_proxy_async();  // wgmma reads it
      simt::syncwarp();
      if (lane == 0) simt::mbar_arrive(&shared.full[at.slot]);
      if (++slot == RAW) slot = 0;
      at.skip(GROUPS);
    }
    simt::cp_async_wait<0>();
  }

  // int8's scales come first, the bias last.
  SIMT_DEV void fillVector(VectorStage<Base>& stage, const LoraTile& tile, int e, int64_t n0) const {
    RankoneFloats from = args.bias;
    int64_t use = -1;
    if (e == 0 && scalesRows(args)) {
      from = {args.scales, RANKONE_F32};
    } else {
      int k = e - (scalesRows(args) ? 1 : 0);
      if (k < tile.baseScales)
        for (use = tile.firstUse;; ++use) {
          const float* scale = args.adapters[args.uses[use].adapter].baseScale;
          if (!scale || k-- > 0) continue;
          from = {scale, RANKONE_F32};
          break;
        }
    }
    for (int n = lane; n < BN; n += 32)
      stage.values[n] = n0 + n < args.out ? loadFloat(from.data, from.dtype, n0 + n) : 0;
    for (int m = lane; m < BM; m += 32) stage.pair[m] = use < 0 ? 0 : args.pairs[use * BM + m];
  }

  SIMT_DEV void fillRanks(RankStage<Base>& stage, const LoraGroup& g, int64_t index, int64_t n0) const {
    // B first: w may not be there yet
    if (g.index || g.count % 4) {
      for (int n = lane / 4; n < BN; n += 8) {
        float v[4] = {};
        SIMT_UNROLL for (int e = 0; e < 4; ++e) {
          const int rank = lane % 4 * 4 + e;
          if (rank >= g.count || n0 + n >= args.out) continue;
          v[e] =
              g.index ? (g.index[rank] == n0 + n ? 1.0f : 0.0f) : loadFloat(g.b, g.dtype, (n0 + n) * g.stride + rank);
        }
        putRanks(stage.v + n * 16, v);
      }
    } else if (g.dtype == RANKONE_F32) {
      copyB<true>(stage.v, g, n0);
    } else {
      copyB<false>(stage.v, g, n0);
    }
    const RankoneAdapter& a = args.adapters[g.adapter];
    const bool biased = g.last && a.outBias;
    if (biased)
      for (int n = lane; n < BN; n += 32) stage.outBias[n] = n0 + n < args.out ? a.outBias[n0 + n] : 0;
    if (lane == 0) {
      stage.biased = biased;
      stage.blocks = g.blocks;
      while (simt::load_acquire(args.ranksDone + index) == 0) simt::sleep(100);
    }
    const uint32_t* pairs = args.pairs + static_cast<int64_t>(g.use) * BM;
    for (int m = lane; m < BM; m += 32) {
      stage.pair[m] = pairs[m];
      if (biased) stage.factor[m] = pairs[m] != kNoPair ? rankFactor(args, a, pairs[m]) : 0;
    }
    simt::syncwarp();
    constexpr int BATCH = 4;
    static_assert(BM % (8 * BATCH) == 0);
    SIMT_NOUNROLL for (int m = lane / 4; m < BM; m += 8 * BATCH) {
      float u[BATCH][4] = {};
      SIMT_UNROLL for (int b = 0; b < BATCH; ++b) {
        const uint32_t pair = stage.pair[m + 8 * b];
        if (pair != kNoPair && lane % 4 * 4 < g.count)
          simt::ld4(u[b], args.w + pair * args.wStride + g.first + lane % 4 * 4);
      }
      SIMT_UNROLL for (int b = 0; b < BATCH; ++b) putRanks(stage.u + (m + 8 * b) * 16, u[b]);
    }
  }

  // Four ranks of each of BN rows of B, several rows' on their way.
  template <bool FLOATS>
  SIMT_DEV void copyB(float* to, const LoraGroup& g, int64_t n0) const {
    constexpr int BATCH = 4, WORDS = FLOATS ? 4 : 2;
    static_assert(BN % (8 * BATCH) == 0);
    const bool has = lane % 4 * 4 < g.count;
    SIMT_NOUNROLL for (int n = lane / 4; n < BN; n += 8 * BATCH) {
      uint32_t word[BATCH][WORDS] = {};
      SIMT_UNROLL for (int b = 0; b < BATCH; ++b) {
        const int64_t at = (n0 + n + 8 * b) * g.stride + lane % 4 * 4;
        if (!has || n0 + n + 8 * b >= args.out) continue;
        if constexpr (FLOATS) {
          simt::ld4(word[b], static_cast<const float*>(g.b) + at);
        } else {
          simt::ld2(word[b], static_cast<const uint16_t*>(g.b) + at);
        }
      }
      SIMT_UNROLL for (int b = 0; b < BATCH; ++b) {
        float v[4];
        SIMT_UNROLL for (int e = 0; e < 4; ++e) {
          if constexpr (FLOATS) {
            v[e] = simt::f32_from_bits(word[b][e]);
          } else {
            const uint16_t half = static_cast<uint16_t>(word[b][e / 2] >> e % 2 * 16);
            v[e] = g.dtype == RANKONE_BF16 ? simt::bf16_to_f32(half) : simt::f16_to_f32(half);
          }
        }
        putRanks(to + (n + 8 * b) * 16, v);
      }
    }
  }

  // A quarter of a row's sixteen, by its lane of four.
  SIMT_DEV void putRanks(float* row, const float (&v)[4]) const {
    simt::st4(row + lane % 4 * 4, simt::to_tf32(v[0]), simt::to_tf32(v[1]), simt::to_tf32(v[2]), simt::to_tf32(v[3]));
  }

  const LoraForwardArgs& args;
  const HopperMaps& maps;
  Shared& shared;
  const int thread, lane;
  Place place;
};

template <class Schedule>
SIMT_DEV void loraHopper(const LoraForwardArgs& args, const HopperMaps& maps) {
  using Base = typename Schedule::Base;
  auto& shared = simt::shared<HopperShared<Schedule>>();
  constexpr int THREADS = Schedule::THREADS + kProducerThreads;
  // 504 of them for one thread of each of three warpgroups; two do without.
  constexpr bool MANY = THREADS == 384;
  constexpr int CONSUMERS = Base::ROWS * Base::COLUMNS > 64 ? 208 : 184, PRODUCERS = 504 - 2 * CONSUMERS;
  HopperConsumer<Schedule> consumer(args);
  if (threadIdx.x == 0) {
    for (int s = 0; s < Schedule::RING; ++s) {
      simt::mbar_init(&shared.full[s], Schedule::FILLERS);
      simt::mbar_init(&shared.empty[s], Base::WARPS);
    }
    simt::fence_barrier_init();
  }
  simt::syncthreads();

  const int64_t ranks = args.stripCount, outputs = ranks + (args.hasUses ? args.tileCount : 0);
  const int64_t end = outputs + args.tileCount * args.blockCount;
  if (threadIdx.x < Schedule::THREADS) {
    if constexpr (MANY) simt::set_max_registers_inc<CONSUMERS>();
    int64_t item = blockIdx.x;
    for (; item < ranks; item += gridDim.x) consumer.sumStrip(item);
    simt::fence_proxy_async();  // the copy engine and wgmma have the strips' memory next
    simt::bar_arrive(kStripsDone, THREADS);
    for (; item < outputs; item += gridDim.x) consumer.finishTileRanks(item - ranks);
    for (; item < end; item += gridDim.x) {
      const LoraOutputs<Base::BM> at(args, item - outputs);
      consumer.sumOutputs(at.tile, at.block * Base::BN);
    }
  } else {
    if constexpr (MANY) simt::set_max_registers_dec<PRODUCERS>();
    HopperProducer<Schedule> producer(args, maps);
    simt::bar_sync(kStripsDone, THREADS);
    int64_t item = blockIdx.x;
    if (item < outputs) item += (outputs - item + gridDim.x - 1) / gridDim.x * gridDim.x;
    for (; item < end; item += gridDim.x) {
      const LoraOutputs<Base::BM> at(args, item - outputs);
      producer.fill(at.tile, at.block * Base::BN);
    }
  }
}

// Elsewhere it has no body, and a block of it at most one warp: that is how the launcher knows.
template <class Schedule>
__global__ void __launch_bounds__(SIMT_HAS_SM90A ? Schedule::THREADS + kProducerThreads : 32, 1)
    loraHopperKernel(const __grid_constant__ LoraForwardArgs args, const __grid_constant__ HopperMaps maps) {
  if constexpr (SIMT_HAS_SM90A) loraHopper<Schedule>(args, maps);
}

}  // namespace rankone::cuda

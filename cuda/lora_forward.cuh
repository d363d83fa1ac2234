// The fused LoRA product as one grid of blocks that work through a list, each taking every so manieth piece of it:
//
//   strips  t = A x' of a tile of rows, some ranks at a time
//   ranks   w = gate scale M phi(t + a) of a tile's rows, when its strips are done
//   tiles   y = d (W x) + bias of a tile of rows and outputs, then the adapters' B w, when its ranks are done
//
// A piece waits only for pieces ahead of it in the list, and all blocks are resident, so that one can always go on.
// Sums run over ascending k in one accumulator, then over a row's adapters by ascending number.
#pragma once
#include "lora_ranks.cuh"
#include "matmul_tile.cuh"

// Last, as everywhere.
#include "simt/simt.cuh"

namespace rankone::cuda {

// Tiles of outputs, tiles of ranks and how many of these make a strip, whether W is made of elements as they are
// multiplied, pieces of k on their way, there and where A has to be expanded, and blocks of a multiprocessor.
template <class Base_, class Strip_, int RANKS_, bool DIRECT_, int STAGES_, int STRIP_STAGES_, int RESIDENT_>
struct LoraSchedule {
  using Base = Base_;
  using Strip = Strip_;
  static constexpr int RANKS = RANKS_;
  static constexpr bool DIRECT = DIRECT_;
  static constexpr int STAGES = STAGES_, STRIP_STAGES = STRIP_STAGES_, RESIDENT = RESIDENT_, THREADS = Base::THREADS;
  static_assert(Base::THREADS == Strip::THREADS && Base::BM == Strip::BM && Base::BN >= Strip::BN &&
                RANKS <= Strip::BN);
};

template <class Schedule>
struct LoraShared {
  __align__(16) const uint8_t* x[Schedule::Base::BM];  // rows of the tile
  const uint8_t* codes[Schedule::Base::BN];            // of W or A
  const float* scales[Schedule::DIRECT ? 1 : Schedule::Base::BN];
  float nf4[16];
  __align__(128) uint8_t ring[16];  // and what the launch adds: loraShared()
};

inline WeightFormat floatFormat(int32_t dtype, int64_t columns) {
  return {dtype, columns * (dtype == RANKONE_F32 ? 4 : 2), 0, 0, 0};
}

// Bytes of the ring. dtypes: of the factors A that come.
template <class Schedule>
size_t loraRing(const WeightFormat& format, bool hasBase, const bool (&dtypes)[3]) {
  using Base = typename Schedule::Base;
  using Strip = typename Schedule::Strip;
  size_t most = 0;
  const auto more = [&](size_t bytes) { most = bytes > most ? bytes : most; };
  constexpr int STAGES = Schedule::STAGES, STRIP = Schedule::STRIP_STAGES, RANKS = Schedule::RANKS;
  if (hasBase) more(tileBytes<Schedule::DIRECT, STAGES, Base::BN, Base>(format));
  for (int32_t dtype = 0; dtype < 3; ++dtype) {
    if (!dtypes[dtype]) continue;
    const WeightFormat floats = floatFormat(dtype, 0);
    more(dtype == Strip::Element::kFormat ? tileBytes<true, STAGES, RANKS, Strip>(floats)
                                          : tileBytes<false, STRIP, RANKS, Strip>(floats));
  }
  return most;
}

// Drops elements of a thread's pieces of X.
template <class Strip>
struct DropElements {
  const Dropout& dropout;
  const uint32_t* order;  // of the tile
  int rows;

  SIMT_DEV void operator()(uint8_t* x, int64_t step) const {
    using Pieces = TilePieces<Strip, Strip::BM>;
    constexpr int SIZE = sizeof(typename Strip::Element::Word), GROUPS = 4 / SIZE;  // of four, in a piece
    if (!dropout.least) return;
    SIMT_UNROLL for (int i = 0; i < Pieces::COUNT; ++i) {
      if (Pieces::row(i) >= rows) continue;
      uint32_t word[4];
      uint8_t* at = x + pieceAt<Strip::PIECES>(Pieces::row(i), Pieces::piece());
      simt::ld4(word, at);
      SIMT_UNROLL for (int group = 0; group < GROUPS; ++group) {
        const uint32_t kept =
            keptOf(dropout, order[Pieces::row(i)], (step * Strip::PIECES + Pieces::piece()) * GROUPS + group);
        SIMT_UNROLL for (int e = 0; e < 4; ++e) {
          if (kept >> e & 1) continue;
          if constexpr (SIZE == 4) {
            word[e] = 0;
          } else {
            word[group * 2 + e / 2] &= e % 2 ? 0xffffu : 0xffff0000u;
          }
        }
      }
      simt::st4(at, word[0], word[1], word[2], word[3]);
    }
  }
};

// By the Schedule::THREADS first threads of a block.
template <class Schedule, class Shared = LoraShared<Schedule>>
class LoraBlock {
 protected:
  using Base = typename Schedule::Base;
  using Strip = typename Schedule::Strip;
  static constexpr int THREADS = Schedule::THREADS, BM = Base::BM;

 public:
  SIMT_DEV LoraBlock(const LoraForwardArgs& args) : args(args), shared(simt::shared<Shared>()) {
    if (threadIdx.x < 16) shared.nf4[threadIdx.x] = kNf4Values[threadIdx.x];
  }

  // t = A x' of a strip.
  SIMT_DEV void sumStrip(int64_t index) {
    const LoraStrip strip = args.strips[index];
    const LoraTile tile = args.tiles[strip.tile];
    Strip::sync();  // the last piece of work is done with shared memory
    setRows(tile);
    for (int n = threadIdx.x; n < Strip::BN; n += THREADS) {
      const uint8_t* from = nullptr;
      if (n < strip.count) {
        const LoraColumn column = args.columns[strip.first + n];
        const RankoneAdapter& a = args.adapters[args.uses[column.use].adapter];
        from = static_cast<const uint8_t*>(a.a.data) + column.rank * a.aStride * (strip.dtype == RANKONE_F32 ? 4 : 2);
      }
      shared.codes[n] = from;
    }
    Strip::sync();
    Strip sum;
    sum.clear();
    const WeightFormat format = {strip.dtype, args.in * (strip.dtype == RANKONE_F32 ? 4 : 2), 0, 0, 0};
    const int columns = (strip.count + 15) / 16 * 16;
    const DropElements<Strip> drop{args.dropout, args.order + tile.first, tile.rows};
    if (strip.dtype == Strip::Element::kFormat) {
      sumTile<true, Schedule::STAGES, Schedule::RANKS>(sum, shared.x, args.operandBytes, rows(), format, columns,
                                                       args.in, shared.ring, args.operand, drop);
    } else {
      sumTile<false, Schedule::STRIP_STAGES, Schedule::RANKS>(sum, shared.x, args.operandBytes, rows(), format, columns,
                                                              args.in, shared.ring, args.operand, drop);
    }
    SIMT_UNROLL for (int j = 0; j < Strip::COLUMNS; ++j) {
      if (Strip::column(j) >= strip.count) continue;
      const LoraColumn column = args.columns[strip.first + Strip::column(j)];
      SIMT_UNROLL for (int i = 0; i < Strip::ROWS; ++i) {
        const uint32_t pair = pairOf(column.use, Strip::row(i));
        if (pair != kNoPair) args.t[pair * args.tStride + column.rank] = sum.at(i, j) * args.dropout.kept;
      }
    }
    done(args.stripsDone + strip.tile);
  }

  // w of a tile's rows.
  SIMT_DEV void finishTileRanks(int64_t index) {
    const LoraTile tile = args.tiles[index];
    if (tile.uses == 0) return;
    await(args.stripsDone + index, tile.strips);
    for (int use = tile.firstUse; use < tile.firstUse + tile.uses; ++use) {
      const RankoneAdapter& a = args.adapters[args.uses[use].adapter];
      const bool mixes = mixesRanks(a);
      // a row for each warp, or a rank of a row for each thread
      const int64_t width = mixes ? 32 : (a.rank + 3) / 4 * 4;
      for (int64_t e = threadIdx.x; e < BM * width; e += THREADS) {
        const int i = static_cast<int>(e / width);
        const uint32_t pair = pairOf(use, i);
        if (pair == kNoPair) continue;
        if (mixes) {
          finishRanks(args, a, rowOf(tile, i), pair);
        } else {
          finishRank(args, a, rowOf(tile, i), pair, e % width);
        }
      }
    }
    done(args.ranksDone + index);
  }

  // y of a tile's rows and of the outputs from n0 on.
  SIMT_DEV void sumOutputs(int64_t index, int64_t n0) {
    const LoraTile tile = args.tiles[index];
    Base sum;
    sum.clear();
    // On their way while W is summed, where registers are free.
    typename Base::Ranks ranks[Base::AHEAD];
    if (Base::AHEAD > 1) loadGroups(ranks, 0, tile, n0);
    if (args.hasBase) {
      Base::sync();
      setRows(tile);
      for (int n = threadIdx.x; n < Base::BN; n += THREADS) {
        const bool there = n0 + n < args.out;
        shared.codes[n] = there ? args.codes + (n0 + n) * args.format.rowBytes : nullptr;
        if (!Schedule::DIRECT)
          shared.scales[n] = there && args.scales ? args.scales + (n0 + n) * args.format.blocks : nullptr;
      }
      Base::sync();
      sumTile<Schedule::DIRECT, Schedule::STAGES, Base::BN>(sum, shared.x, args.operandBytes, rows(), args.format,
                                                            Base::BN, args.in, shared.ring, args.operand, AsItIs{});
      if (args.format.format == RANKONE_WEIGHT_INT8)
        forColumns(n0, [&](int j, int64_t n) { scaleColumn(sum, j, args.scales[n]); });
    } else {
      setIdentity(sum, tile, n0);
    }
    scaleBase(sum, tile, n0);
    if (args.bias.data)
      forColumns(n0, [&](int j, int64_t n) {
        const float bias = loadFloat(args.bias.data, args.bias.dtype, n);
        SIMT_UNROLL for (int i = 0; i < Base::ROWS; ++i) sum.at(i, j) += bias;
      });
    if (tile.uses > 0) {
      await(args.ranksDone + index, 1);
      for (int k = 0; k < tile.groups; k += Base::AHEAD) {
        if (Base::AHEAD == 1 || k > 0) loadGroups(ranks, k, tile, n0);
        addGroups(sum, ranks, k, tile, n0);
      }
    }
    store(sum, tile, n0);
  }

 protected:
  SIMT_DEV WeightRows rows() const { return {shared.codes, shared.scales, shared.nf4}; }
  SIMT_DEV uint32_t pairOf(int64_t use, int row) const { return args.pairs[use * BM + row]; }
  SIMT_DEV int64_t rowOf(const LoraTile& tile, int row) const { return args.order[tile.first + row]; }

  SIMT_DEV void setRows(const LoraTile& tile) const {
    for (int i = threadIdx.x; i < BM; i += THREADS) {
      const int64_t row = args.operandInOrder ? int64_t{tile.first} + i : i < tile.rows ? rowOf(tile, i) : 0;
      shared.x[i] = i < tile.rows ? args.operand + row * args.operandStride : nullptr;
    }
  }

  // What this block wrote is there for those that await the counter.
  SIMT_DEV void done(uint32_t* counter) const {
    Base::sync();
    if (threadIdx.x == 0) simt::add_release(counter, 1);
  }
  SIMT_DEV void await(const uint32_t* counter, int count) const {
    if (threadIdx.x == 0)
      while (simt::load_acquire(counter) != static_cast<uint32_t>(count)) simt::sleep(100);
    Base::sync();
  }

  // visit(j, n) for this thread's columns.
  template <class Visit>
  SIMT_DEV void forColumns(int64_t n0, Visit&& visit) const {
    SIMT_UNROLL for (int j = 0; j < Base::COLUMNS; ++j) if (n0 + Base::column(j) < args.out)
        visit(j, n0 + Base::column(j));
  }
  SIMT_DEV void scaleColumn(Base& sum, int j, float scale) const {
    SIMT_UNROLL for (int i = 0; i < Base::ROWS; ++i) sum.at(i, j) *= scale;
  }

  // Where the base is the identity.
  SIMT_DEV void setIdentity(Base& sum, const LoraTile& tile, int64_t n0) const {
    if (!args.identity) return;
    forColumns(n0, [&](int j, int64_t n) {
      SIMT_UNROLL for (int i = 0; i < Base::ROWS; ++i) if (Base::row(i) < tile.rows) sum.at(i, j) =
          loadFloat(args.x.data, args.x.dtype, rowOf(tile, Base::row(i)) * args.in + n);
    });
  }

  // The adapters' scales d of the rows' outputs.
  SIMT_DEV void scaleBase(Base& sum, const LoraTile& tile, int64_t n0) const {
    if (tile.baseScales == 0) return;
    for (int use = tile.firstUse; use < tile.firstUse + tile.uses; ++use) {
      const float* scale = args.adapters[args.uses[use].adapter].baseScale;
      if (!scale) continue;
      bool has[Base::ROWS];
      SIMT_UNROLL for (int i = 0; i < Base::ROWS; ++i) has[i] = pairOf(use, Base::row(i)) != kNoPair;
      forColumns(n0, [&](int j, int64_t n) {
        SIMT_UNROLL for (int i = 0; i < Base::ROWS; ++i) if (has[i]) sum.at(i, j) *= scale[n];
      });
    }
  }

  using Ranks = typename Base::Ranks;

  // Base::AHEAD groups from group k of the tile on.
  SIMT_DEV void loadGroups(Ranks (&ranks)[Base::AHEAD], int k, const LoraTile& tile, int64_t n0) const {
    SIMT_UNROLL for (int s = 0; s < Base::AHEAD; ++s) {
      if (k + s >= tile.groups) break;
      const LoraGroup& g = args.groups[tile.firstGroup + k + s];
      Base::loadRanks(ranks[s],
                      [&](int column, int first, uint32_t(&word)[4]) { loadWords(g, n0 + column, first, word); });
    }
  }

  // Adds their gate scale (B M phi + c) to the rows that have them.
  SIMT_DEV void addGroups(Base& sum, const Ranks (&ranks)[Base::AHEAD], int k, const LoraTile& tile, int64_t n0) const {
    SIMT_UNROLL for (int s = 0; s < Base::AHEAD; ++s) {
      if (k + s < tile.groups) addGroup(sum, ranks[s], args.groups[tile.firstGroup + k + s], n0);
    }
  }

  SIMT_DEV void addGroup(Base& sum, const Ranks& ranks, const LoraGroup& g, int64_t n0) const {
    bool has[Base::ROWS];
    SIMT_UNROLL for (int i = 0; i < Base::ROWS; ++i) has[i] = pairOf(g.use, Base::row(i)) != kNoPair;
    const auto load = [&](int column, int first, uint32_t(&word)[4]) { loadWords(g, n0 + column, first, word); };
    const auto u = [&](int i, int first, float(&part)[4]) {
      part[0] = part[1] = part[2] = part[3] = 0;
      if (!has[i] || first >= g.count) return;
      simt::ld4(part, args.w + pairOf(g.use, Base::row(i)) * args.wStride + g.first + first);
    };
    const auto v = [&](const uint32_t(&word)[4], float(&part)[4]) {
      SIMT_UNROLL for (int r = 0; r < 4; ++r) {
        const uint16_t half = static_cast<uint16_t>(word[r / 2] >> r % 2 * 16);
        part[r] = g.dtype == RANKONE_F32    ? simt::f32_from_bits(word[r])
                  : g.dtype == RANKONE_BF16 ? simt::bf16_to_f32(half)
                                            : simt::f16_to_f32(half);
      }
    };
    sum.addRanks(ranks, g.count, load, u, v, g.blocks, has);
    const RankoneAdapter& a = args.adapters[g.adapter];
    if (!g.last || !a.outBias) return;
    SIMT_UNROLL for (int i = 0; i < Base::ROWS; ++i) {
      if (!has[i]) continue;
      const float factor = rankFactor(args, a, pairOf(g.use, Base::row(i)));
      forColumns(n0, [&](int j, int64_t n) { sum.at(i, j) = fmaf(factor, a.outBias[n], sum.at(i, j)); });
    }
  }

  // Four ranks of B's row n as they come: floats in as many words, or 16-bit ones in two. Zeros beyond the last.
  SIMT_DEV void loadWords(const LoraGroup& g, int64_t n, int first, uint32_t (&word)[4]) const {
    word[0] = word[1] = word[2] = word[3] = 0;
    if (n >= args.out || first >= g.count) return;
    const int count = g.count - first;
    if (g.index) {
      SIMT_UNROLL for (int r = 0; r < 4; ++r) {
        if (r < count && g.index[first + r] == n) word[r] = simt::f32_bits(1);
      }
    } else if (g.dtype == RANKONE_F32) {
      const float* from = static_cast<const float*>(g.b) + n * g.stride + first;
      if (count >= 4) return simt::ld4(word, from);
      SIMT_UNROLL for (int r = 0; r < 3; ++r) {
        if (r < count) word[r] = simt::f32_bits(from[r]);
      }
    } else {
      const uint16_t* from = static_cast<const uint16_t*>(g.b) + n * g.stride + first;
      if (count >= 4) {
        uint32_t half[2];
        simt::ld2(half, from);
        word[0] = half[0];
        word[1] = half[1];
        return;
      }
      SIMT_UNROLL for (int r = 0; r < 3; ++r) {
        if (r < count) word[r / 2] |= static_cast<uint32_t>(from[r]) << r % 2 * 16;
      }
    }
  }

  // Neighbouring columns together where pairs of 16-bit elements are aligned.
  SIMT_DEV void store(Base& sum, const LoraTile& tile, int64_t n0) const {
    const int32_t dtype = args.x.dtype;
    const bool paired = Base::PAIRS && dtype != RANKONE_F32 && args.out % 2 == 0;
    SIMT_UNROLL for (int i = 0; i < Base::ROWS; ++i) {
      if (Base::row(i) >= tile.rows) continue;
      const int64_t row = rowOf(tile, Base::row(i)) * args.out;
      forColumns(n0, [&](int j, int64_t n) {
        if (!paired) {
          storeFloat(args.y, dtype, row + n, sum.at(i, j));
        } else if (j % 2 == 0) {
          const float a = sum.at(i, j), b = sum.at(i, j + Base::PAIRS);
          simt::st1x2(static_cast<uint16_t*>(args.y) + row + n,
                      dtype == RANKONE_BF16 ? simt::pack_bf16(a, b) : simt::pack_f16(a, b));
        }
      });
    }
  }

  const LoraForwardArgs& args;
  Shared& shared;
};

// Rows that share the weights in L2 while their tiles are worked on.
constexpr int64_t kGroupedRows = 2048;

// The how manieth tile of BM rows and of outputs the piece `at` of these is.
template <int BM>
struct LoraOutputs {
  int64_t tile, block;

  SIMT_DEV LoraOutputs(const LoraForwardArgs& args, int64_t at) {
    constexpr int64_t most = kGroupedRows / BM;
    const int64_t group = most * args.blockCount, first = at / group * most;
    const int64_t tiles = args.tileCount - first < most ? args.tileCount - first : most;
    tile = first + at % group % tiles;
    block = at % group / tiles;
  }
};

template <class Schedule>
__global__ void __launch_bounds__(Schedule::THREADS, Schedule::RESIDENT)
    loraForwardKernel(const __grid_constant__ LoraForwardArgs args) {
  LoraBlock<Schedule> block(args);
  const int64_t ranks = args.stripCount, outputs = ranks + (args.hasUses ? args.tileCount : 0);
  const int64_t end = outputs + args.tileCount * args.blockCount;
  for (int64_t item = blockIdx.x; item < end; item += gridDim.x) {
    if (item < ranks) {
      block.sumStrip(item);
    } else if (item < outputs) {
      block.finishTileRanks(item - ranks);
    } else {
      const LoraOutputs<Schedule::Base::BM> at(args, item - outputs);
      block.sumOutputs(at.tile, at.block * Schedule::Base::BN);
    }
  }
}

}  // namespace rankone::cuda

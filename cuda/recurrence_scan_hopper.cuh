// The scan's kernel on Hopper (sm_90a): what recurrence_scan.cuh says of its columns, 64 of them a CTA, with the three
// products by K and Q as wgmma. Their other operands are S^T, U^T in registers, which accumulators become without
// leaving them, so that of a chunk only K, Q, V, T and P are read from shared memory. TMA brings these there.
//
//   warps of the recurrence   KS warpgroups of four: warp w has columns 16 w .., its warpgroup KW rows of S
//   warps of output           a warpgroup: one thread of it starts TMA for chunks that are to come; all compute O^T
//
// T X and P U are triangles of 16x16 blocks and stay on mma.sync, whose fragments are those of wgmma.
#pragma once
#include <cstdint>

#include "recurrence_scan_hopper_tiles.cuh"

namespace rankone::cuda {

template <int KW, int KS, bool DELTA, bool CHANNEL>
struct HopperScan : HopperScanTiles<KW, KS, DELTA, CHANNEL> {
  using Tiles = HopperScanTiles<KW, KS, DELTA, CHANNEL>;
  using Columns = typename Tiles::Columns;  // not a using-declaration, which a formatter may move below its uses
  using Columns::floats, Columns::hv, Columns::p, Columns::s, Columns::segment, Columns::v0;
  using Tiles::args, Tiles::keysIn, Tiles::OUTPUT, Tiles::queries, Tiles::stage, Tiles::tokenOfChunk, Tiles::tokensOf,
      Tiles::values;
  using typename Tiles::Shared;
  static constexpr int KD = Shared::KD, WORKERS = KS * 128, THREADS = WORKERS + 128;
  static constexpr int RESIDENT = KS == 1 ? 2 : 1;
  // Of the registers that RESIDENT leaves a thread, how many each role takes in the end.
  static constexpr int WORKER_REGISTERS = KW == 64 ? 152 : KS == 1 ? 168 : 200;
  static constexpr int OUTPUT_REGISTERS = KW == 64 || KS > 1 ? 104 : 88;
  static constexpr int TAKEN = 15;  // barrier: what was handed over may be written again; the others are of 16 columns:
  SIMT_DEV static int ofState(int w) { return 1 + w; }
  SIMT_DEV static int ofU(int w) { return 5 + w; }
  SIMT_DEV static int ofX(int w) { return 9 + w; }

  // A descriptor of 16 columns of K at a time (k), 64 rows or as many tokens.
  SIMT_DEV static uint64_t rowsOf(uint64_t tile, int i) { return tile + i / 4 * (Shared::kSlice / 16) + i % 4 * 2; }

  // ---- the warps of the recurrence: columns 16 w .., rows KW part ..

  SIMT_DEV void handState(const float (&S)[KW / 8][4], int c, int w, int part, int lane) const {
    // With parts no one writes its x before the other has read what it wrote last.
    if (c > 0 && (p.o || KS > 1)) simt::bar_sync(TAKEN, p.o ? THREADS : WORKERS);
    if (!p.o && !p.traceStates) return;
    SIMT_UNROLL for (int i = 0; i < KW / 16; ++i) {
      uint32_t a[4];
      packOperand(a, S[2 * i], S[2 * i + 1]);
      simt::st4(s.state[w][part * (KW / 16) + i][lane], a[0], a[1], a[2], a[3]);
    }
    if (p.o) simt::bar_arrive(ofState(w), (KS + 1) * 32);
    if (p.traceStates) Columns::traceState(c, w, part, lane);
  }

  // What the other part's warp has of (K S)^T.
  SIMT_DEV void addParts(float (&x)[8][4], int w, int part, int lane) const {
    if constexpr (KS > 1) {
      SIMT_UNROLL for (int i = 0; i < 8; ++i) simt::st4(s.x[w][part][i][lane], x[i]);
      simt::bar_sync(ofX(w), 64);
      SIMT_UNROLL for (int i = 0; i < 8; ++i) {
        float other[4];
        simt::ld4(other, s.x[w][part ^ 1][i][lane]);
        SIMT_UNROLL for (int e = 0; e < 4; ++e) x[i][e] += other[e];
      }
    }
  }

  SIMT_DEV void recurrence(int w, int part, int lane) const {
    float S[KW / 8][4];
    float(&accumulators)[KW / 2] = reinterpret_cast<float(&)[KW / 2]>(S);
    Columns::loadState(S, w, part, lane);
    Ring ring;
    SIMT_NOUNROLL for (int c = 0; c < segment.chunks; ++c, ring.step(p.stages)) {
      simt::mbar_wait(&s.full[ring.at], ring.parity);
      const char* head = this->head(ring.at);
      const uint16_t* v = values(ring.at);
      const float *decay = floats(head, p.layout.decay), *kOut = floats(head, p.layout.kOut);
      Columns::clearState(S, decay, part, lane);
      float x[8][4] = {};  // (K S)^T
      if constexpr (DELTA) {
        uint32_t a[KW / 16][4];
        SIMT_UNROLL for (int i = 0; i < KW / 16; ++i) packOperand(a[i], S[2 * i], S[2 * i + 1]);
        const uint64_t keys = simt::wgmma_desc(keysIn(ring.at) + part * (KW / 64) * (Shared::kSlice / 2), 16, 1024);
        simt::wgmma_fence();
        SIMT_UNROLL for (int i = 0; i < KW / 16; ++i)
            simt::wgmma_bf16<64>(reinterpret_cast<float(&)[32]>(x), a[i], rowsOf(keys, i), i > 0);
        simt::wgmma_commit();
      }
      // While that runs: S is read by it only as operands in bf16.
      handState(S, c, w, part, lane);
      Columns::decayState(S, decay, part, lane);
      uint32_t rows[4][4], u[4][4];  // X^T and U^T as operands
      float y[8][4];
      if constexpr (DELTA) {
        simt::wgmma_wait<0>();
        addParts(x, w, part, lane);
        Columns::correct(rows, y, x, v, head, w, lane);
      }
      // As soon as 16 rows of U are there, S gets their part.
      const uint64_t ofK =
          simt::wgmma_desc(stage(ring.at) + part * (KW / 64) * (Shared::kSlice / 2), Shared::kSlice, 1024);
      SIMT_UNROLL for (int i = 0; i < 4; ++i) {
        if constexpr (DELTA) {
          SIMT_UNROLL for (int j = 0; j <= i; ++j) {
            uint32_t b[4];
            simt::ldmatrix_x4_trans(b, head + (i * (i + 1) / 2 + j) * kBlockBytes + lane * 16);
            simt::mma_bf16(y[2 * i], rows[j], b[0], b[2]);
            simt::mma_bf16(y[2 * i + 1], rows[j], b[1], b[3]);
          }
          Columns::finishRows(u[i], y[2 * i], y[2 * i + 1], kOut, i, w, part, lane);
        } else {
          Columns::takeRows(u[i], v, kOut, i, w, part, lane);
        }
        simt::wgmma_fence();
        simt::wgmma_bf16<KW, 1>(accumulators, u[i], ofK + i * 128);
        simt::wgmma_commit();
      }
      if (part == 0 && p.o) simt::bar_arrive(ofU(w), 64);
      if (DELTA && part == 0 && p.traceRows) Columns::traceU(c, w, lane);
      simt::wgmma_wait<0>();
      simt::syncwarp();
      if (lane == 0) simt::mbar_arrive(&s.left[ring.at]);
    }
    Columns::storeState(S, w, part, lane);
  }

  // ---- the warps of output: columns 16 w ..

  // TILES of 16 tokens. Element (i, e) of o is column lane / 4 + 8 (e / 2), token 8 i + 2 (lane % 4) + e % 2.
  template <int TILES>
  SIMT_DEV void output(const Ring& ring, const Ring& ofQ, int c, int w, int thread) const {
    const int lane = thread & 31;
    float o[2 * TILES][4] = {};
    simt::mbar_wait(&s.queries[ofQ.at], ofQ.parity);
    simt::bar_sync(ofState(w), (KS + 1) * 32);
    const uint64_t tile = simt::wgmma_desc(queries(ofQ.at), 16, 1024);
    SIMT_UNROLL for (int i = 0; i < KD / 16; i += 4) {
      uint32_t a[4][4];
      SIMT_UNROLL for (int j = 0; j < 4; ++j) simt::ld4(a[j], s.state[w][i + j][lane]);
      simt::wgmma_fence();
      SIMT_UNROLL for (int j = 0; j < 4; ++j)
          simt::wgmma_bf16<16 * TILES>(reinterpret_cast<float(&)[8 * TILES]>(o), a[j], rowsOf(tile, i + j), i + j > 0);
      simt::wgmma_commit();
      simt::wgmma_wait<0>();
    }
    if (c + args.queryStages < segment.chunks) {
      simt::bar_sync(OUTPUT, 128);  // all have read Q
      Tiles::loadQueries(c + args.queryStages, ofQ.at, thread);
      simt::syncwarp();
    }
    const char* head = this->head(ring.at);  // it is there: who handed S over has waited for it
    if (!CHANNEL) {
      const float* qIn = floats(head, p.layout.qIn);
      SIMT_UNROLL for (int i = 0; i < 2 * TILES; ++i) {
        float f[2];
        simt::ld2(f, qIn + i * 8 + (lane & 3) * 2);
        SIMT_UNROLL for (int e = 0; e < 4; ++e) o[i][e] *= f[e & 1];
      }
    }
    simt::bar_sync(ofU(w), 64);
    SIMT_UNROLL for (int j = 0; j < 4; ++j) {
      uint32_t u[4];
      simt::ld4(u, s.u[w][j][lane]);
      SIMT_UNROLL for (int m = 0; m < TILES; ++m) {
        if (j >= p.layout.rowBlocks(m)) continue;
        uint32_t b[4];
        simt::ldmatrix_x4(b, head + p.layout.p + (p.layout.firstBlock(m) + j) * kBlockBytes + lane * 16);
        simt::mma_bf16(o[2 * m], u, b[0], b[1]);
        simt::mma_bf16(o[2 * m + 1], u, b[2], b[3]);
      }
    }
    if (c + 1 < segment.chunks) simt::bar_arrive(TAKEN, THREADS);
    simt::syncwarp();
    if (lane == 0) simt::mbar_arrive(&s.left[ring.at]);
    SIMT_UNROLL for (int i = 0; i < 2 * TILES; ++i) store(o[i], tokenOfChunk(c) + i * 8, tokensOf(c) - i * 8, w, lane);
  }

  // Eight tokens of 16 columns, of which `tokens` are inside.
  SIMT_DEV void store(const float (&o)[4], int64_t token, int tokens, int w, int lane) const {
    const int v = v0 + w * 16, columns = p.V - v;
    const int64_t stride = static_cast<int64_t>(p.HV) * p.V, at = (token * p.HV + hv) * p.V + v;
    if (p.oDType == RANKONE_F32) {
      SIMT_UNROLL for (int e = 0; e < 4; ++e) {
        const int t = (lane & 3) * 2 + (e & 1), column = (lane >> 2) + (e >> 1) * 8;
        if (t < tokens && column < columns) static_cast<float*>(p.o)[at + t * stride + column] = o[e];
      }
      return;
    }
    const bool bf16 = p.oDType == RANKONE_BF16;
    const uint32_t left = bf16 ? simt::pack_bf16(o[0], o[1]) : simt::pack_f16(o[0], o[1]);
    const uint32_t right = bf16 ? simt::pack_bf16(o[2], o[3]) : simt::pack_f16(o[2], o[3]);
    storeTransposed(static_cast<uint16_t*>(p.o) + at, stride, tokens, columns,
                    p.V % 4 == 0 && reinterpret_cast<uintptr_t>(p.o) % 8 == 0, left, right, lane);
  }

  template <int TILES>
  SIMT_DEV void loadAndOutput(int thread) const {
    Ring ring, ofQ;
    SIMT_NOUNROLL for (int i = 0; i < p.stages && i < segment.chunks; ++i) Tiles::load(i, i, thread);
    SIMT_NOUNROLL for (int i = 0; p.o && i < args.queryStages && i < segment.chunks; ++i)
        Tiles::loadQueries(i, i, thread);
    SIMT_NOUNROLL for (int c = 0; c < segment.chunks; ++c) {
      const int next = c - 1 + p.stages;
      if (c > 0 && next < segment.chunks) {
        const Ring before = ring.before(p.stages);  // of the chunk that all have left, or will have
        // Without an output the other threads have seen none of the phases since they
        // began, and a parity does not tell them which one it is.
        if (thread == 0) simt::mbar_wait(&s.left[before.at], before.parity);
        simt::syncwarp();
        if (tokensOf(next) < p.layout.tokens) simt::bar_sync(OUTPUT, 128);
        Tiles::load(next, before.at, thread);
      }
      simt::syncwarp();
      if (p.o) output<TILES>(ring, ofQ, c, thread >> 5, thread);
      ring.step(p.stages);
      ofQ.step(args.queryStages);
    }
  }

  // Zeros where TMA brings nothing, and barriers.
  SIMT_DEV void begin(int thread) const {
    if (p.layout.tokens * p.layout.n < kChunkRows || p.layout.tokens % 16 || !p.v) {
      const int size = p.stages * Shared::kStage + args.queryStages * Shared::kKeys;
      for (int i = thread * 16; i < size; i += THREADS * 16) simt::st4(s.tiles + i, 0, 0, 0, 0);
      simt::fence_proxy_async();
    }
    if (thread == 0) {
      SIMT_NOUNROLL for (int i = 0; i < kMostHopperStages; ++i) {
        simt::mbar_init(&s.full[i], 1);
        simt::mbar_init(&s.left[i], KS * 4 + (p.o ? 4 : 0));
        simt::mbar_init(&s.queries[i], 1);
      }
      simt::fence_barrier_init();
    }
    simt::syncthreads();
  }

  SIMT_DEV void run(int thread) {
    if (segment.chunks > 0) {
      Tiles::firstToken = p.chunks[segment.chunk].token;
      Tiles::lastTokens = p.chunks[segment.chunk + segment.chunks - 1].tokens;
    }
    begin(thread);
    if (thread < WORKERS) {
      simt::set_max_registers_inc<WORKER_REGISTERS>();
      recurrence((thread >> 5) & 3, thread >> 7, thread & 31);
    } else {
      simt::set_max_registers_dec<OUTPUT_REGISTERS>();
      if (p.layout.tiles == 4) {
        loadAndOutput<4>(thread - WORKERS);
      } else if (p.layout.tiles == 2) {
        loadAndOutput<2>(thread - WORKERS);
      } else {
        loadAndOutput<1>(thread - WORKERS);
      }
    }
  }
};

// Elsewhere it has no body, and a block of it at most one warp: that is how the launcher knows.
template <int KW, int KS, bool DELTA, bool CHANNEL>
__global__ void __launch_bounds__(SIMT_HAS_SM90A ? HopperScan<KW, KS, DELTA, CHANNEL>::THREADS : 32,
                                  SIMT_HAS_SM90A ? HopperScan<KW, KS, DELTA, CHANNEL>::RESIDENT : 1)
    hopperScanKernel(const __grid_constant__ HopperScanArgs args) {
  if constexpr (SIMT_HAS_SM90A) {
    using Form = HopperScan<KW, KS, DELTA, CHANNEL>;
    const ScanArgs& p = args.scan;
    const int columns = (p.V + kHopperColumns - 1) / kHopperColumns, block = static_cast<int>(blockIdx.x % columns);
    const int64_t head = blockIdx.x / columns;
    const int hv = static_cast<int>(head % p.HV);
    Form scan = {{{p, simt::shared<typename Form::Shared>(), p.segments[head / p.HV], hv, hv / (p.HV / p.H),
                   block * kHopperColumns},
                  args,
                  0,
                  0}};
    scan.run(threadIdx.x);
  }
}

}  // namespace rankone::cuda

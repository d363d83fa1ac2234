// The gradients of one chunk of R rows and one key head, from the states and rows that both scans left. Row l belongs
// to token l / n; the decay of its token falls before its first row, and its q and dO stand at its last one, elsewhere
// they are zeros. With G the cumulative log decay, S0 the state before the chunk, D the gradient of that behind it, u
// and w the traces' rows:
//
//   M1[l,j] = scale dO_l . u_j (j <= l),  M2[l,j] = -w_l . u_j (j < l),  both times e^(G_l - G_j)
//   dq_l = scale e^G_l S0 dO_l + sum_j M1[l,j] k_j
//   r_l = -e^G_l S0 w_l + sum_j M2[l,j] k_j,  dbeta_l = w_l . v_l + k_l . r_l
//   dk_j = beta_j r_j + e^(G_last - G_j) D u_j + sum_l M1[l,j] q_l + sum_l M2[l,j] beta_l k_l
//   dv_j = beta_j w_j
//
// and additive updates without M2, r and beta. The gradient of gate t is the sum over all paths that cross it: from S0
// or from a write before t, to D or to a read at t or later. Every such term is a product with its decay, so nothing
// cancels however strong the gates are.
#pragma once
#include <type_traits>

#include "recurrence.h"
#include "recurrence_curves.cuh"
#include "recurrence_gradients_tiles.cuh"
#include "recurrence_tiles.cuh"

namespace rankone::cuda {

struct GradientArgs {
  const Chunk* chunks;
  int32_t H, HV, K, V, n;
  int32_t kStride, vStride, uStride;  // elements between rows of q and k, of v and dO, of u; zeros behind K and V
  float scale;
  bool headGate;
  bool vectorK, vectorV, vectorU,
      vectorTraces;            // q and k, v and dO, u, states and w: all rows at multiples of 16 bytes
  const void* q;               // [B,T,H,kStride]
  const void* k;               // [B,T*n,H,kStride]
  const void* v;               // [B,T*n,HV,vStride]
  const float *qNorm, *kNorm;  // by which rows of q and k are multiplied, or null
  const float* g;              // base-2 log decays: [HV], [B,T,HV] or [B,T,HV,K]
  const float* beta;           // [B,T*n,HV]
  const void* dO;              // [B,T,HV,vStride]
  const void* states;          // [chunks,HV,K,V] S0
  const void* dStates;         // [chunks,HV,K,V] D
  const void* u;               // [B,T*n,HV,uStride]
  const void* w;               // [B,T*n,HV,V]
  float *dq, *dk, *dv, *dbeta;
  float* dg;  // [B,T,HV] or [B,T,HV,K]; of a head gate [chunks,HV], which sumChunkGates adds up; or null
};

enum class ChunkGate { NONE, SCALAR, CHANNEL };

template <class A, ChunkGate kGate>
struct GradientShared {
  using T = typename A::T;
  static constexpr int kTile = kTileRows * A::kStride;
  static constexpr int kSquare = kTileRows * A::kSquare;
  static constexpr int kPairStride = 65;
  // Of gates per channel the pairs of rows are float32 whatever the arithmetic: they are not operands of products.
  using Pair = std::conditional_t<kGate == ChunkGate::CHANNEL, float, T>;
  static constexpr int kPair = kGate == ChunkGate::CHANNEL ? 68 : A::kSquare;

  union {
    struct {
      T dO[kTile], u[kTile], w[kTile], states[kTile], dStates[kTile];
    } byV;
    struct {
      T q[kSquare], k[kSquare];
    } byK;
    float paths[kTileRows * kPairStride];
    float rows[2][kTileRows * kPairStride];  // of a channel gate's columns: S0 dO, S0 w; D u before them
  };
  __align__(16) Pair m1[kTileRows * kPair], m2[kTileRows * kPair];
  float parts[kTileRows * 17];
  float sums[kTileRows], high[kTileRows], low[kTileRows];  // high + low: G
  float fromStart[kTileRows], toEnd[kTileRows];            // e^G_l, e^(G_last - G_l)
  float beta[kTileRows];
  float reads[kTileRows], writes[kTileRows], pairs[kTileRows];  // what dg adds up
  float through[kTileRows];
};

template <class A, ChunkGate kGate, bool kDelta>
class ChunkRows {
 public:
  using Shared = GradientShared<A, kGate>;
  using T = typename A::T;
  static constexpr bool kGated = kGate != ChunkGate::NONE, kChannel = kGate == ChunkGate::CHANNEL;
  static constexpr int kElements = 16;  // of a 64 x 64 product a thread holds

  SIMT_DEV ChunkRows(const GradientArgs& args, Shared& shared)
      : a(args),
        s(shared),
        t(static_cast<int>(threadIdx.x)),
        chunk(args.chunks[blockIdx.x]),
        rows(chunk.tokens * args.n),
        row0(chunk.token * args.n) {}

 protected:
  // ---- rows of the arguments; null behind the chunk's end, and where a token's last row is wanted and l is another

  static SIMT_DEV int head() { return static_cast<int>(blockIdx.y); }
  SIMT_DEV int firstHead() const { return head() * (a.HV / a.H); }
  SIMT_DEV bool ends(int l) const { return l < rows && tokenOf(l + 1, a.n) != tokenOf(l, a.n); }
  SIMT_DEV bool begins(int l) const { return l < rows && tokenOf(l, a.n) * a.n == l; }
  SIMT_DEV int64_t token(int l) const { return chunk.token + tokenOf(l, a.n); }
  SIMT_DEV const T* query(int l) const {
    return ends(l) ? static_cast<const T*>(a.q) + (token(l) * a.H + head()) * a.kStride : nullptr;
  }
  SIMT_DEV const T* key(int l) const {
    return l < rows ? static_cast<const T*>(a.k) + ((row0 + l) * a.H + head()) * a.kStride : nullptr;
  }
  SIMT_DEV const T* ofOutput(int l) const {
    return ends(l) ? static_cast<const T*>(a.dO) + (token(l) * a.HV + hv) * a.vStride : nullptr;
  }
  SIMT_DEV const T* ofRow(const void* rowsOfV, int stride, int l) const {
    return l < rows ? static_cast<const T*>(rowsOfV) + ((row0 + l) * a.HV + hv) * stride : nullptr;
  }
  SIMT_DEV const T* ofState(const void* states, int i) const {
    return i < a.K ? static_cast<const T*>(states) + ((static_cast<int64_t>(blockIdx.x) * a.HV + hv) * a.K + i) * a.V
                   : nullptr;
  }
  SIMT_DEV float queryFactor(int l) const { return a.qNorm ? a.qNorm[token(l) * a.H + head()] : 1.0f; }
  SIMT_DEV float keyFactor(int l) const { return a.kNorm ? a.kNorm[(row0 + l) * a.H + head()] : 1.0f; }

  static SIMT_DEV int most(int left, int columns) { return left < columns ? left : columns; }
  SIMT_DEV void loadRowsByV(int v0) {
    loadTile<A::kBlock>(s.byV.dO, A::kStride, a.vectorV, most(a.vStride - v0, A::kBlock),
                        [&](int l) { return from(ofOutput(l), v0); });
    loadTile<A::kBlock>(s.byV.u, A::kStride, a.vectorU, most(a.uStride - v0, A::kBlock),
                        [&](int l) { return from(ofRow(a.u, a.uStride, l), v0); });
    loadTile<A::kBlock>(s.byV.w, A::kStride, a.vectorTraces, most(a.V - v0, A::kBlock),
                        [&](int l) { return from(ofRow(a.w, a.V, l), v0); });
  }
  SIMT_DEV void loadStatesByV(int k0, int v0) {
    loadTile<A::kBlock>(s.byV.states, A::kStride, a.vectorTraces, most(a.V - v0, A::kBlock),
                        [&](int i) { return from(ofState(a.states, k0 + i), v0); });
    loadTile<A::kBlock>(s.byV.dStates, A::kStride, a.vectorTraces, most(a.V - v0, A::kBlock),
                        [&](int i) { return from(ofState(a.dStates, k0 + i), v0); });
  }
  SIMT_DEV void loadByK(int k0) {
    const int valid = most(a.kStride - k0, kTileRows);
    const auto q = [&](int l) { return from(query(l), k0); };
    const auto k = [&](int l) { return from(key(l), k0); };
    if (a.qNorm) {
      loadScaledTile<kTileRows>(s.byK.q, A::kSquare, valid, q, [&](int l) { return queryFactor(l); });
      loadScaledTile<kTileRows>(s.byK.k, A::kSquare, valid, k, [&](int l) { return keyFactor(l); });
    } else {
      loadTile<kTileRows>(s.byK.q, A::kSquare, a.vectorK, valid, q);
      loadTile<kTileRows>(s.byK.k, A::kSquare, a.vectorK, valid, k);
    }
  }
  static SIMT_DEV const T* from(const T* row, int column) { return row ? row + column : nullptr; }
  static SIMT_DEV void arrived() {
    simt::cp_async_commit();
    simt::cp_async_wait<0>();
    simt::syncthreads();
  }

  // ---- what both kinds of gates begin with

  // Betas, and cumulative gates as sums of two floats: 64 gates lose no digits that e^(G_l - G_j) would show.
  SIMT_DEV void begin() {
    simt::syncthreads();
    if (t < kTileRows) {
      s.beta[t] = kDelta && t < rows ? a.beta[(row0 + t) * a.HV + hv] : 0.0f;
      s.sums[t] = 0;
      if constexpr (kGate == ChunkGate::SCALAR) s.pairs[t] = begins(t) ? gate(t) : 0.0f;
    }
    simt::syncthreads();
    if constexpr (kGate == ChunkGate::SCALAR) {
      if (t == 0) {
        float high = 0, low = 0;
        for (int l = 0; l < kTileRows; ++l) {
          const float x = s.pairs[l], sum = high + x, part = sum - high;
          low += (high - (sum - part)) + (x - part);
          high = sum;
          s.high[l] = high;
          s.low[l] = low;
        }
      }
      simt::syncthreads();
      if (t < kTileRows) {
        s.fromStart[t] = A::ex2(s.high[t] + s.low[t]);
        s.toEnd[t] = decay(kTileRows - 1, t);
      }
    }
  }
  // A reset as a gate that no later growth makes up for.
  static SIMT_DEV float clamped(float g) { return g < kResetBelowBase2 ? -600.0f : g; }
  SIMT_DEV float givenGate(int l) const { return a.headGate ? a.g[hv] : a.g[token(l) * a.HV + hv]; }
  SIMT_DEV float gate(int l) const { return clamped(givenGate(l)); }
  SIMT_DEV bool resets(int l) const { return givenGate(l) < kResetBelowBase2; }
  // e^(G_l - G_j)
  SIMT_DEV float decay(int l, int j) const { return A::ex2((s.high[l] - s.high[j]) + (s.low[l] - s.low[j])); }

  // Products over V of rows with rows; dv, and w . v into dbeta.
  SIMT_DEV void productsByRows() {
    SIMT_UNROLL for (int e = 0; e < kElements; ++e) ofOutputs[e] = ofUpdates[e] = 0;
    float product = 0;
    SIMT_NOUNROLL for (int v0 = 0; v0 < a.V; v0 += A::kBlock) {
      simt::syncthreads();
      loadRowsByV(v0);
      arrived();
      A::template multiply<false, false>(ofOutputs, s.byV.dO, A::kStride, s.byV.u, A::kStride, A::kBlock);
      if constexpr (kDelta) {
        A::template multiply<false, false>(ofUpdates, s.byV.w, A::kStride, s.byV.u, A::kStride, A::kBlock);
      }
      const int valid = most(a.V - v0, A::kBlock);
      for (int i = t; i < kTileRows * A::kBlock; i += kGradientThreads) {
        const int l = i / A::kBlock, c = i % A::kBlock;
        if (l < rows && c < valid)
          a.dv[((row0 + l) * a.HV + hv) * a.V + v0 + c] =
              (kDelta ? s.beta[l] : 1.0f) * floatOf(s.byV.w[l * A::kStride + c]);
      }
      if constexpr (kDelta) {
        const int l = t / 4;
        const T* v = from(ofRow(a.v, a.vStride, l), v0);
        for (int c = t % 4; c < valid && v; c += 4)
          product = fmaf(floatOf(s.byV.w[l * A::kStride + c]), floatOf(v[c]), product);
      }
    }
    if constexpr (kDelta) {
      product += simt::shfl_xor(product, 1);
      product += simt::shfl_xor(product, 2);
      if (t % 4 == 0) s.sums[t / 4] = product;
    }
  }

  // This thread's part of the products of the states' tiles: of row t / 4, a quarter of its columns.
  SIMT_DEV float stateProduct() const {
    const int at = t / 4 * A::kStride + t % 4 * (A::kBlock / 4);
    float sum = 0;
    SIMT_UNROLL for (int c = 0; c < A::kBlock / 4; ++c) sum =
        fmaf(floatOf(s.byV.states[at + c]), floatOf(s.byV.dStates[at + c]), sum);
    return sum;
  }

  // Sums of rows of which every thread has parts, added to `sums`, in the order of the slots.
  SIMT_DEV void addRows(const float (&values)[A::kRows], float* sums) {
    simt::syncthreads();
    SIMT_UNROLL for (int i = 0; i < A::kRows; ++i) s.parts[A::row(rowElement(i)) * 17 + A::slot()] = values[i];
    simt::syncthreads();
    if (t < kTileRows) {
      float sum = sums[t];
      SIMT_UNROLL for (int i = 0; i < A::kSlots; ++i) sum += s.parts[t * 17 + i];
      sums[t] = sum;
    }
    simt::syncthreads();
  }
  // An element of a thread's i-th row.
  static SIMT_DEV int rowElement(int i) { return A::kRows == 4 ? 4 * i : 2 * i; }

  SIMT_DEV void storeBetas() {
    simt::syncthreads();
    if (t < rows && a.dbeta) a.dbeta[(row0 + t) * a.HV + hv] = s.sums[t];
  }
  // Gradients of q and k are those of the group's first value head, plus the next one's, and so on.
  SIMT_DEV void addTo(float* to, float x) const { *to = hv == firstHead() ? x : *to + x; }
  SIMT_DEV float* dQuery(int l) const { return a.dq + (token(l) * a.H + head()) * a.K; }
  SIMT_DEV float* dKey(int l) const { return a.dk + ((row0 + l) * a.H + head()) * a.K; }

  const GradientArgs& a;
  Shared& s;
  const int t;
  const Chunk chunk;
  const int rows;
  const int64_t row0;
  int hv = 0;
  float ofOutputs[kElements], ofUpdates[kElements];  // dO u^T, w u^T
};

}  // namespace rankone::cuda

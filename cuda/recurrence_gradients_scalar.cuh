// Without gate, or with one gate a token and head: e^(G_l - G_j) is a factor of the pair (l, j), so that all sums over
// rows are products of matrices.
#pragma once
#include "recurrence_gradients_rows.cuh"

namespace rankone::cuda {

template <class A, ChunkGate kGate, bool kDelta>
class ScalarGradients : public ChunkRows<A, kGate, kDelta> {
  using Base = ChunkRows<A, kGate, kDelta>;
  using Base::a, Base::s, Base::t, Base::rows, Base::row0, Base::hv;
  using Base::kElements, Base::kGated, Base::ofOutputs, Base::ofUpdates;
  using typename Base::T;

 public:
  using Base::Base;

  SIMT_DEV void run() {
    for (hv = this->firstHead(); hv < this->firstHead() + a.HV / a.H; ++hv) {
      this->begin();
      this->productsByRows();
      storePairs();
      float reads[A::kRows] = {}, writes[A::kRows] = {}, ofBeta[A::kRows] = {}, through = 0;
      for (int k0 = 0; k0 < a.K; k0 += kTileRows) columns(k0, reads, writes, ofBeta, through);
      if constexpr (kDelta) this->addRows(ofBeta, s.sums);
      if constexpr (kGated) storeGates(reads, writes, through);
      if constexpr (kDelta) this->storeBetas();
    }
  }

 private:
  // M1 and beta_l M2 into shared memory; the pairs' part of dbeta, and of dg into s.pairs.
  SIMT_DEV void storePairs() {
    float queries[kElements] = {}, keys[kElements] = {};  // q_l . k_j and k_l . k_j
    if constexpr (kGated || kDelta) {
      SIMT_NOUNROLL for (int k0 = 0; k0 < a.K; k0 += kTileRows) {
        simt::syncthreads();
        this->loadByK(k0);
        this->arrived();
        if constexpr (kGated)
          A::template multiply<false, false>(queries, s.byK.q, A::kSquare, s.byK.k, A::kSquare, kTileRows);
        if constexpr (kDelta)
          A::template multiply<false, false>(keys, s.byK.k, A::kSquare, s.byK.k, A::kSquare, kTileRows);
      }
    }
    simt::syncthreads();
    float ofBeta[A::kRows] = {};
    SIMT_UNROLL for (int e = 0; e < kElements; ++e) {
      const int l = A::row(e), j = A::column(e);
      const float left = !kGated || j > l ? 1.0f : this->decay(l, j);
      const float m1 = j <= l ? a.scale * ofOutputs[e] * left : 0.0f;
      const float m2 = kDelta && j < l ? -ofUpdates[e] * left : 0.0f;
      put(&s.m1[l * Base::Shared::kPair + j], m1);
      if constexpr (kDelta) {
        put(&s.m2[l * Base::Shared::kPair + j], s.beta[l] * m2);
        ofBeta[A::rowIndex(e)] = fmaf(m2, keys[e], ofBeta[A::rowIndex(e)]);
      }
      if constexpr (kGated)
        s.paths[l * Base::Shared::kPairStride + j] =
            j < l ? fmaf(m1, queries[e], kDelta ? s.beta[l] * m2 * keys[e] : 0.0f) : 0.0f;
    }
    if constexpr (kGated) sumPaths();
    if constexpr (kDelta) this->addRows(ofBeta, s.sums);
  }

  // s.pairs[t] = sum of paths[l,j] over j < t <= l.
  SIMT_DEV void sumPaths() {
    simt::syncthreads();
    const int quarter = t % 4 * 16;
    float* row = s.paths + t / 4 * Base::Shared::kPairStride + quarter;
    float own[16], sum = 0;
    SIMT_UNROLL for (int i = 0; i < 16; ++i) {
      own[i] = sum;
      sum += row[i];
    }
    float before = 0;
    SIMT_UNROLL for (int i = 0; i < 3; ++i) {
      const float x = simt::shfl(sum, (t & 28) + i);
      before += i < t % 4 ? x : 0.0f;
    }
    SIMT_UNROLL for (int i = 0; i < 16; ++i) row[i] = before + own[i];
    simt::syncthreads();
    float later = 0;
    SIMT_UNROLL for (int i = 0; i < 16; ++i) {
      const int l = quarter + i;
      later += l >= t / 4 ? s.paths[l * Base::Shared::kPairStride + t / 4] : 0.0f;
    }
    later += simt::shfl_xor(later, 1);
    later += simt::shfl_xor(later, 2);
    if (t % 4 == 0) s.pairs[t / 4] = later;
  }

  // dq and dk in columns k0 .. k0 + 63, and their parts of what sums over K.
  SIMT_DEV void columns(int k0, float (&reads)[A::kRows], float (&writes)[A::kRows], float (&ofBeta)[A::kRows],
                        float& through) {
    float dq[kElements] = {}, read[kElements] = {}, dk[kElements] = {};  // S0 dO, S0 w, D u
    SIMT_NOUNROLL for (int v0 = 0; v0 < a.V; v0 += A::kBlock) {
      simt::syncthreads();
      this->loadRowsByV(v0);
      this->loadStatesByV(k0, v0);
      this->arrived();
      A::template multiply<false, false>(dq, s.byV.dO, A::kStride, s.byV.states, A::kStride, A::kBlock);
      if constexpr (kDelta)
        A::template multiply<false, false>(read, s.byV.w, A::kStride, s.byV.states, A::kStride, A::kBlock);
      A::template multiply<false, false>(dk, s.byV.u, A::kStride, s.byV.dStates, A::kStride, A::kBlock);
      if constexpr (kGated) through += this->stateProduct();
    }
    simt::syncthreads();
    this->loadByK(k0);
    this->arrived();
    SIMT_UNROLL for (int e = 0; e < kElements; ++e) {
      const int l = A::row(e), i = A::rowIndex(e), at = l * A::kSquare + A::column(e);
      const float key = floatOf(s.byK.k[at]);
      dq[e] *= kGated ? a.scale * s.fromStart[l] : a.scale;
      if constexpr (kGated) {
        dk[e] *= s.toEnd[l];
        reads[i] = fmaf(floatOf(s.byK.q[at]), dq[e], reads[i]);
        writes[i] = fmaf(key, dk[e], writes[i]);
      }
      if constexpr (kDelta) {
        read[e] *= kGated ? -s.fromStart[l] : -1.0f;
        ofBeta[i] = fmaf(key, read[e], ofBeta[i]);
        read[e] *= s.beta[l];
        if constexpr (kGated) reads[i] = fmaf(key, read[e], reads[i]);
        dk[e] += read[e];
      }
    }
    constexpr int kPair = Base::Shared::kPair;
    A::template multiply<false, true>(dq, s.m1, kPair, s.byK.k, A::kSquare, kTileRows);
    A::template multiply<true, true>(dk, s.m1, kPair, s.byK.q, A::kSquare, kTileRows);
    if constexpr (kDelta) {
      A::template multiply<true, true>(dk, s.m2, kPair, s.byK.k, A::kSquare, kTileRows);
      A::template multiply<false, true>(dk, s.m2, kPair, s.byK.k, A::kSquare, kTileRows);
    }
    SIMT_UNROLL for (int e = 0; e < kElements; ++e) {
      const int l = A::row(e);
      const int column = k0 + A::column(e);
      if (l >= rows || column >= a.K) continue;
      if (this->ends(l)) this->addTo(this->dQuery(l) + column, dq[e]);
      this->addTo(this->dKey(l) + column, dk[e]);
    }
  }

  SIMT_DEV void storeGates(const float (&reads)[A::kRows], const float (&writes)[A::kRows], float through) {
    if (t < kTileRows) s.reads[t] = s.writes[t] = 0;
    this->addRows(reads, s.reads);
    this->addRows(writes, s.writes);
    through += simt::shfl_xor(through, 1);
    through += simt::shfl_xor(through, 2);
    if (t % 4 == 0) s.through[t / 4] = through;
    simt::syncthreads();
    if (t < kTileRows && a.dg) {
      float sum = 0;
      for (int i = 0; i < kTileRows; ++i) sum += s.through[i];
      sum *= s.fromStart[kTileRows - 1];
      for (int l = kTileRows - 1; l >= t; --l) sum += s.reads[l];
      for (int j = 0; j < t; ++j) sum += s.writes[j];
      sum += s.pairs[t];
      s.parts[t] = this->begins(t) && !this->resets(t) ? sum : 0.0f;
    }
    simt::syncthreads();
    if (!a.dg) return;
    if (!a.headGate) {
      if (this->begins(t)) a.dg[this->token(t) * a.HV + hv] = s.parts[t];
    } else if (t == 0) {
      float sum = 0;
      for (int l = 0; l < rows; ++l) sum += s.parts[l];
      a.dg[static_cast<int64_t>(blockIdx.x) * a.HV + hv] = sum;
    }
  }
};

}  // namespace rankone::cuda

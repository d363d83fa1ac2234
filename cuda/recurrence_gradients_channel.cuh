// With a gate per channel e^(G_l - G_j) differs from column to column of K. Sums over rows are then taken a column at a
// time: four threads, each with 16 rows as writers, meet all rows as readers in ascending order, while the decays from
// their own rows to the reader are running products. No exponent is ever formed that a masked pair could overflow.
#pragma once
#include "recurrence_gradients_rows.cuh"

namespace rankone::cuda {

template <class A, bool kDelta>
class ChannelGradients : public ChunkRows<A, ChunkGate::CHANNEL, kDelta> {
  using Base = ChunkRows<A, ChunkGate::CHANNEL, kDelta>;
  using Base::a, Base::s, Base::t, Base::rows, Base::row0, Base::hv, Base::chunk;
  using Base::kElements, Base::ofOutputs, Base::ofUpdates;
  using typename Base::T;
  static constexpr int kOwn = 16;  // rows of a thread
  static constexpr int kPair = Base::Shared::kPair, kPairStride = Base::Shared::kPairStride;

 public:
  using Base::Base;

  SIMT_DEV void run() {
    for (hv = this->firstHead(); hv < this->firstHead() + a.HV / a.H; ++hv) {
      this->begin();
      this->productsByRows();
      storePairs();
      for (int k0 = 0; k0 < a.K; k0 += kTileRows) columns(k0);
      if constexpr (kDelta) {
        simt::syncthreads();
        if (t < kTileRows)
          for (int i = 0; i < 8; ++i) s.sums[t] += s.parts[t * 17 + i];
        this->storeBetas();
      }
    }
  }

 private:
  // M1 and M2 without their decays.
  SIMT_DEV void storePairs() {
    SIMT_UNROLL for (int e = 0; e < kElements; ++e) {
      const int l = A::row(e), j = A::column(e);
      s.m1[l * kPair + j] = j <= l ? a.scale * ofOutputs[e] : 0.0f;
      if constexpr (kDelta) s.m2[l * kPair + j] = j < l ? -ofUpdates[e] : 0.0f;
    }
    for (int i = t; i < kTileRows * 17; i += kGradientThreads) s.parts[i] = 0;
  }

  SIMT_DEV void spread(const float (&product)[kElements], float* to) {
    SIMT_UNROLL for (int e = 0; e < kElements; ++e) to[A::row(e) * kPairStride + A::column(e)] = product[e];
  }

  // A value of the lane with block b of this lane's column.
  SIMT_DEV float ofBlock(float x, int b) const { return simt::shfl(x, (t & 28) + b); }

  SIMT_DEV void columns(int k0) {
    float outputs[kElements] = {}, updates[kElements] = {}, ofEnds[kElements] = {};  // S0 dO, S0 w, D u
    float through = 0;
    SIMT_NOUNROLL for (int v0 = 0; v0 < a.V; v0 += A::kBlock) {
      simt::syncthreads();
      this->loadRowsByV(v0);
      this->loadStatesByV(k0, v0);
      this->arrived();
      A::template multiply<false, false>(outputs, s.byV.dO, A::kStride, s.byV.states, A::kStride, A::kBlock);
      if constexpr (kDelta)
        A::template multiply<false, false>(updates, s.byV.w, A::kStride, s.byV.states, A::kStride, A::kBlock);
      A::template multiply<false, false>(ofEnds, s.byV.u, A::kStride, s.byV.dStates, A::kStride, A::kBlock);
      through += this->stateProduct();
    }
    through += simt::shfl_xor(through, 1);
    through += simt::shfl_xor(through, 2);
    simt::syncthreads();
    spread(ofEnds, s.rows[0]);
    simt::syncthreads();

    const int c = t / 4, block = t % 4;
    const int column = k0 + c;
    float gates[kOwn], queries[kOwn], keys[kOwn], dk[kOwn], dg[kOwn];
    uint32_t reset = 0;
    SIMT_UNROLL for (int i = 0; i < kOwn; ++i) {
      const int l = block * kOwn + i;
      gates[i] = 1;
      queries[i] = keys[i] = 0;
      if (column >= a.K) continue;
      if (const T* q = this->query(l)) queries[i] = rounded(floatOf(q[column]) * this->queryFactor(l));
      if (const T* k = this->key(l)) keys[i] = rounded(floatOf(k[column]) * this->keyFactor(l));
      if (this->begins(l)) {
        const float g = a.g[(this->token(l) * a.HV + hv) * a.K + column];
        gates[i] = g < kResetBelowBase2 ? 0.0f : A::ex2(g);
        reset |= static_cast<uint32_t>(g < kResetBelowBase2) << i;
      }
    }
    // What D owes to the writes: dk to begin with, and the paths that end in D.
    float whole = 1;
    SIMT_UNROLL for (int i = kOwn - 1; i >= 0; --i) {
      dk[i] = whole * s.rows[0][(block * kOwn + i) * kPairStride + c];
      whole *= gates[i];
    }
    float later = 1, all = 1, earlier = 0, written = 0;
    SIMT_UNROLL for (int b = 0; b < 4; ++b) {
      const float x = ofBlock(whole, b);
      all *= x;
      later *= b > block ? x : 1.0f;
    }
    SIMT_UNROLL for (int i = 0; i < kOwn; ++i) {
      dk[i] *= later;
      dg[i] = written;
      written = fmaf(keys[i], dk[i], written);
    }
    SIMT_UNROLL for (int b = 0; b < 3; ++b) {
      const float x = ofBlock(written, b);
      earlier += b < block ? x : 0.0f;
    }
    float across = fmaf(all, through, earlier);  // of paths that cross all of the block
    simt::syncthreads();
    spread(outputs, s.rows[0]);
    if constexpr (kDelta) spread(updates, s.rows[1]);
    simt::syncthreads();

    float left[kOwn];  // e^(G_l - G_j) of the own rows j, at the reader l
    SIMT_UNROLL for (int j = 0; j < kOwn; ++j) left[j] = 1;
    float fromStart = 1;
    SIMT_NOUNROLL for (int b = 0; b * kOwn < rows; ++b) {
      SIMT_UNROLL for (int i = 0; i < kOwn; ++i) {
        const int l = b * kOwn + i;
        const float gate = ofBlock(gates[i], b), query = ofBlock(queries[i], b), key = ofBlock(keys[i], b);
        const float beta = s.beta[l], reading = beta * key;
        fromStart *= gate;
        const float ofState = a.scale * fromStart * s.rows[0][l * kPairStride + c];
        const float ofUpdate = kDelta ? -fromStart * s.rows[1][l * kPairStride + c] : 0.0f;
        const float decay = block <= b ? gate : 1.0f;
        float dq = 0, r = 0, paths = 0;
        SIMT_UNROLL for (int j4 = 0; j4 < kOwn; j4 += 4) {
          float m1[4], m2[4] = {};
          simt::ld4(m1, &s.m1[l * kPair + block * kOwn + j4]);
          if constexpr (kDelta) simt::ld4(m2, &s.m2[l * kPair + block * kOwn + j4]);
          SIMT_UNROLL for (int e = 0; e < 4; ++e) {
            const int j = j4 + e;
            const bool ahead = j >= i && block == b;  // of the reader, or the reader itself
            left[j] = ahead ? 1.0f : left[j] * decay;
            const float owed = kDelta ? fmaf(m2[e], reading, m1[e] * query) : m1[e] * query;
            const float decayed = left[j] * keys[j];
            dq = fmaf(m1[e], decayed, dq);
            if constexpr (kDelta) r = fmaf(m2[e], decayed, r);
            dk[j] = fmaf(left[j], owed, dk[j]);
            if (!ahead) {
              paths = fmaf(decayed, owed, paths);
              if (j + 1 < kOwn) dg[j + 1] += paths;
            }
          }
        }
        // From S0 and from earlier blocks to this reader.
        float into = fmaf(query, ofState, reading * ofUpdate);
        SIMT_UNROLL for (int other = 0; other < 3; ++other) {
          const float x = ofBlock(paths, other);
          into += other < block ? x : 0.0f;
        }
        across += block < b ? into : 0.0f;
        SIMT_UNROLL for (int e = 0; e <= i; ++e) dg[e] += block == b ? into : 0.0f;
        dq += simt::shfl_xor(dq, 1);
        dq += simt::shfl_xor(dq, 2);
        if (block == b && column < a.K && this->ends(l)) this->addTo(this->dQuery(l) + column, dq + ofState);
        if constexpr (kDelta) {
          r += simt::shfl_xor(r, 1);
          r += simt::shfl_xor(r, 2);
          r += ofUpdate;
          dk[i] = fmaf(block == b ? beta : 0.0f, r, dk[i]);
          float product = key * r;
          SIMT_UNROLL for (int mask = 4; mask < 32; mask *= 2) product += simt::shfl_xor(product, mask);
          if (t % 32 == 0) s.parts[l * 17 + t / 32] += product;
        }
      }
    }
    SIMT_UNROLL for (int i = 0; i < kOwn; ++i) {
      const int l = block * kOwn + i;
      if (l >= rows || column >= a.K) continue;
      this->addTo(this->dKey(l) + column, dk[i]);
      if (a.dg && this->begins(l))
        a.dg[(this->token(l) * a.HV + hv) * a.K + column] = reset >> i & 1 ? 0.0f : dg[i] + across;
    }
  }

  // As the tiles hold it.
  static SIMT_DEV float rounded(float x) {
    T y;
    put(&y, x);
    return floatOf(y);
  }
};

}  // namespace rankone::cuda

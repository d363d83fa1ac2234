// Reverse mode of TTT-Linear, one mini-batch at a time from the models that a forward leaves at their starts; gradients
// flow through the inner gradient G, its norm and the learning rates. Part of ttt_linear.inl.
namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

class TttReverse {
 public:
  TttReverse(const TttBackward& p, int64_t n, int64_t h)
      : p_(p),
        at_(n * p.H + h),
        head_(p, n, h),
        ld_(head_.ld()),
        size_(TttHead::modelFloats(p.D)),
        batches_((head_.tokens() + p.C - 1) / p.C),
        scratch_(alignFloats((batches_ + 1) * size_) + 2 * alignFloats(size_) + 8 * alignFloats(p.C * ld_) +
                 2 * alignFloats(p.C * p.C) + alignFloats(p.C) + 2 * alignFloats(ld_)),
        models_(scratch_.take((batches_ + 1) * size_)),
        dModel_(scratch_.take(size_)),
        turned_(scratch_.take(size_)) {
    for (float** rows : {&dO_, &dQ_, &dK_, &dV_, &dG_, &dZ_, &mid_, &rest_}) *rows = scratch_.take(p.C * ld_);
    for (float** squares : {&dP_, &dA_}) *squares = scratch_.take(p.C * p.C);
    dEta_ = scratch_.take(p.C);
    sumGamma_ = scratch_.take(ld_);
    sumBeta_ = scratch_.take(ld_);
  }

  // dW, db, dGamma, dBeta: of this sequence and head alone.
  void run(float* dW, float* db, double* dGamma, double* dBeta) {
    head_.start(models_);
    for (int64_t c = 0; c + 1 < batches_; ++c) {
      if (stopped(p_)) return;
      float* model = models_ + c * size_;
      head_.inner(model, c * p_.C, p_.C);
      std::memcpy(model + size_, model, static_cast<size_t>(size_) * sizeof(float));
      head_.learn(model + size_);
    }
    const int64_t square = p_.D * p_.D;
    head_.takeModel(p_.dFinalW ? p_.dFinalW + at_ * square : nullptr, p_.dFinalB ? p_.dFinalB + at_ * p_.D : nullptr,
                    dModel_);
    for (int64_t i = 0; i < p_.D; ++i) dGamma[i] = dBeta[i] = 0;
    for (int64_t c = batches_ - 1; c >= 0; --c) {
      if (stopped(p_)) return;
      const int64_t t0 = c * p_.C, left = head_.tokens() - t0;
      reverse(models_ + c * size_, t0, left < p_.C ? left : p_.C);
      for (int64_t i = 0; i < p_.D; ++i) {
        dGamma[i] += sumGamma_[i];
        dBeta[i] += sumBeta_[i];
      }
    }
    head_.giveModel(dModel_, dW, db);
  }

 private:
  void reverse(const float* model, int64_t t0, int64_t count) {
    head_.inner(model, t0, count);
    head_.outer(model);
    head_.takeRows(p_.dO, t0, count, dO_);
    std::memset(sumGamma_, 0, static_cast<size_t>(ld_) * sizeof(float));
    std::memset(sumBeta_, 0, static_cast<size_t>(ld_) * sizeof(float));
    throughOutput(model, count);
    throughUpdate(count);
    throughInner(model, count);
    give(t0, count);
  }

  // O = Q + gamma ohat + beta, and ohat = LN(Q W + b - P G). Leaves dZb in mid_.
  void throughOutput(const float* model, int64_t count) {
    const TttBatch& x = head_.batch();
    for (int64_t t = 0; t < count; ++t) {
      const int64_t at = t * ld_;
      overRow(p_.D, [&](int64_t i, int) {
        const Vec d = load(dO_ + at + i);
        store(sumGamma_ + i, fma(d, load(x.ohat + at + i), load(sumGamma_ + i)));
        store(sumBeta_ + i, load(sumBeta_ + i) + d);
        store(rest_ + i, d * load(head_.gamma() + i));
        store(dQ_ + at + i, d);
      });
      throughNorm(rest_, x.ohat + at, x.oBy[t], p_.D, mid_ + at);
    }
    transposeSquare(model, ld_, turned_);
    product<true>({mid_, ld_, 1}, count, p_.D, turned_, ld_, dQ_);
    // dP = -dZb G^T below the diagonal, dG = -P^T dZb.
    for (int64_t i = 0; i < count; ++i)
      for (int64_t j = 0; j < count; ++j)
        dP_[i * p_.C + j] = j <= i ? -rowDot(mid_ + i * ld_, x.G + j * ld_, ld_) : 0.0f;
    product<false>({x.P, 1, p_.C}, count, count, mid_, ld_, dG_, -1);
    for (int64_t j = 0; j < count; ++j) {
      double sum = 0;
      for (int64_t i = j; i < count; ++i) sum += static_cast<double>(dP_[i * p_.C + j]) * (x.A[i * p_.C + j] + 1);
      dEta_[j] = static_cast<float>(sum);
      for (int64_t i = 0; i < count; ++i) dA_[i * p_.C + j] = dP_[i * p_.C + j] * x.eta[j];
    }
    product<true>({dA_, p_.C, 1}, count, count, x.k, ld_, dQ_);
    product<false>({dA_, 1, p_.C}, count, count, x.q, ld_, dK_);
  }

  // W' = W - (eta K)^T G and b' = b - sum of eta G; dModel_ is that of W' and b' here.
  void throughUpdate(int64_t count) {
    const TttBatch& x = head_.batch();
    const float* dB = dModel_ + head_.size();
    product<false>({x.k, ld_, 1}, count, p_.D, dModel_, ld_, rest_);  // K dW'
    transposeSquare(dModel_, ld_, turned_);
    product<false>({x.G, ld_, 1}, count, p_.D, turned_, ld_, dZ_);  // G dW'^T
    for (int64_t j = 0; j < count; ++j) {
      const int64_t at = j * ld_;
      const Vec eta = splat(x.eta[j]);
      dEta_[j] -= rowDot(x.k + at, dZ_ + at, ld_) + rowDot(x.G + at, dB, ld_);
      overRow(p_.D, [&](int64_t i, int) {
        store(dG_ + at + i, fnma(eta, load(rest_ + at + i) + load(dB + i), load(dG_ + at + i)));
        store(dK_ + at + i, fnma(eta, load(dZ_ + at + i), load(dK_ + at + i)));
      });
    }
    // What the output owes to W and b.
    product<true>({x.q, 1, ld_}, p_.D, count, mid_, ld_, dModel_);
    addRows(mid_, count, dModel_ + head_.size());
  }

  // G = LN'(gamma raw) at zhat, raw = gamma zhat + beta - v + k, zhat = LN(K W + b).
  void throughInner(const float* model, int64_t count) {
    const TttBatch& x = head_.batch();
    const float by = 1 / static_cast<float>(p_.D);
    for (int64_t t = 0; t < count; ++t) {
      const int64_t at = t * ld_;
      const float *dG = dG_ + at, *zhat = x.zhat + at, *G = x.G + at, *raw = x.raw + at;
      throughNorm(dG, zhat, x.zBy[t], p_.D, rest_);  // of gamma raw
      Vec gz = zero(), dz = zero(), dg = zero();
      overRow(p_.D, [&](int64_t i, int) {
        gz = fma(load(head_.gamma() + i) * load(raw + i), load(zhat + i), gz);
        dz = fma(load(dG + i), load(zhat + i), dz);
        dg = fma(load(dG + i), load(G + i), dg);
      });
      const Vec alongG = splat(sum(gz) * by * x.zBy[t]), alongD = splat(sum(dz) * by * x.zBy[t]);
      const Vec byRoot = splat(-sum(dg) * by * x.zBy[t]);  // the root's gradient, times zhat / D
      overRow(p_.D, [&](int64_t i, int) {
        const Vec gamma = load(head_.gamma() + i), d = load(rest_ + i), dRaw = d * gamma, z = load(zhat + i);
        store(sumGamma_ + i, fma(d, load(raw + i), fma(dRaw, z, load(sumGamma_ + i))));
        store(sumBeta_ + i, load(sumBeta_ + i) + dRaw);
        store(dV_ + at + i, -dRaw);
        store(dK_ + at + i, load(dK_ + at + i) + dRaw);
        const Vec own = fma(load(dG + i), alongG, gamma * load(raw + i) * alongD);
        store(mid_ + at + i, fma(dRaw, gamma, -own));
      });
      throughNorm(mid_ + at, zhat, x.zBy[t], p_.D, dZ_ + at);
      overRow(p_.D, [&](int64_t i, int) { store(dZ_ + at + i, fma(byRoot, load(zhat + i), load(dZ_ + at + i))); });
    }
    transposeSquare(model, ld_, turned_);
    product<true>({dZ_, ld_, 1}, count, p_.D, turned_, ld_, dK_);
    product<true>({x.k, 1, ld_}, p_.D, count, dZ_, ld_, dModel_);
    addRows(dZ_, count, dModel_ + head_.size());
  }

  void addRows(const float* rows, int64_t count, float* to) const {
    for (int64_t t = 0; t < count; ++t)
      for (int64_t i = 0; i < ld_; i += kLanes) store(to + i, load(to + i) + load(rows + t * ld_ + i));
  }

  void give(int64_t t0, int64_t count) const {
    const size_t bytes = static_cast<size_t>(p_.D) * sizeof(float);
    for (int64_t t = 0; t < count; ++t) {
      const int64_t row = head_.rowAt(t0 + t);
      std::memcpy(p_.dq + row * p_.D, dQ_ + t * ld_, bytes);
      std::memcpy(p_.dk + row * p_.D, dK_ + t * ld_, bytes);
      std::memcpy(p_.dv + row * p_.D, dV_ + t * ld_, bytes);
      p_.dEta[row] = dEta_[t];
    }
  }

  const TttBackward& p_;
  const int64_t at_;
  TttHead head_;
  const int64_t ld_, size_, batches_;
  Scratch scratch_;
  float *models_, *dModel_, *turned_;
  float *dO_, *dQ_, *dK_, *dV_, *dG_, *dZ_, *mid_, *rest_, *dP_, *dA_, *dEta_, *sumGamma_, *sumBeta_;
};

// to = the sum over sequences of [N][count], in their order.
template <class T>
void overSequences(const T* shares, int64_t N, int64_t count, float* to) {
  for (int64_t i = 0; i < count; ++i) {
    double total = 0;
    for (int64_t n = 0; n < N; ++n) total += shares[n * count + i];
    to[i] = static_cast<float>(total);
  }
}

}  // namespace

void tttLinearBackward(const TttBackward& p) {
  const int64_t heads = p.N * p.H, tokens = p.N > 0 ? p.B * p.T / p.N + 1 : 1, square = p.D * p.D;
  AlignedBuffer norms(static_cast<size_t>(2 * heads * p.D) * sizeof(double));
  AlignedBuffer models(p.ownStart ? 0 : static_cast<size_t>(heads * (square + p.D)) * sizeof(float));
  double *dGamma = static_cast<double*>(norms.data()), *dBeta = dGamma + heads * p.D;
  float *dW = p.ownStart ? p.dW : models.f32(), *db = p.ownStart ? p.db : dW + heads * square;
  const Split s = splitWork(heads, tokens * square * 24);
  parallelFor(s.tasks, p.cancel, [&](int64_t task) {
    for (int64_t i = s.begin(task); i < s.end(task); ++i)
      TttReverse(p, i / p.H, i % p.H).run(dW + i * square, db + i * p.D, dGamma + i * p.D, dBeta + i * p.D);
  });
  overSequences(dGamma, p.N, p.H * p.D, p.dGamma);
  overSequences(dBeta, p.N, p.H * p.D, p.dBeta);
  if (p.ownStart) return;
  overSequences(dW, p.N, p.H * square, p.dW);
  overSequences(db, p.N, p.H * p.D, p.db);
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone

// TTT-Linear in the dual form of its paper. The state is a linear model W, b whose inner loss on a token is
// |f(k) - v|^2 / 2 with f(x) = x + LN(x W + b); a mini-batch of C tokens learns from the model that it found:
//
//     Z = K W + b,  G = the loss's gradient at Z,  P_ij = eta_j (1 + q_i . k_j) for j <= i
//     O = Q + LN(Q W + b - P G);  W <- W - (eta K)^T G,  b <- b - sum of eta_j G_j
//
// Everything is float32 in one head's nearest caches. Limit: the products, 2 D^2 multiply-adds a token for Z and Q W
// and D^2 for W, C D beside them; backward four times that with the forward computed again. Sun et al., 2024
// (arXiv:2407.04620).
#include "kernels/elementwise.inl"
#include "kernels/ttt_linear_rows.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

// A mini-batch of one head: rows of ld floats, [C][ld] each.
struct TttBatch {
  int64_t count = 0, ld = 0, D = 0;
  float *q, *k, *v;        // the inputs
  float *zhat, *raw, *G;   // the normalised Z; gamma zhat + beta - v + k; the gradient at Z
  float* ohat;             // the normalised Q W + b - P G
  float *A, *P;            // [C][C]
  float *eta, *zBy, *oBy;  // [C]
  float* etaK;             // eta_j k_j
  float* spare;

  static size_t floats(int64_t C, int64_t ld) {
    return 9 * alignFloats(C * ld) + 2 * alignFloats(C * C) + 3 * alignFloats(C);
  }
  TttBatch(Scratch& from, int64_t C, int64_t ld_, int64_t D_) : ld(ld_), D(D_) {
    for (float** rows : {&q, &k, &v, &zhat, &raw, &G, &ohat, &etaK, &spare}) *rows = from.take(C * ld);
    for (float** squares : {&A, &P}) *squares = from.take(C * C);
    for (float** values : {&eta, &zBy, &oBy}) *values = from.take(C);
  }
};

// One sequence and head.
class TttHead {
 public:
  TttHead(const TttProblem& p, int64_t n, int64_t h)
      : p_(p),
        n_(n),
        h_(h),
        ld_(roundUp(p.D, kLanes)),
        scratch_(TttBatch::floats(p.C, ld_) + 2 * alignFloats(ld_)),
        batch_(scratch_, p.C, ld_, p.D),
        gamma_(scratch_.take(ld_)),
        beta_(scratch_.take(ld_)) {
    takeRow(p.gamma + h * p.D, gamma_);
    takeRow(p.beta + h * p.D, beta_);
  }

  int64_t tokens() const { return p_.length(n_); }
  int64_t size() const { return ld_ * ld_; }
  // A model: W [ld][ld], then b [ld].
  static int64_t modelFloats(int64_t D) {
    const int64_t ld = roundUp(D, kLanes);
    return ld * ld + ld;
  }

  void takeRow(const float* from, float* to) const {
    std::memset(to, 0, static_cast<size_t>(ld_) * sizeof(float));
    std::memcpy(to, from, static_cast<size_t>(p_.D) * sizeof(float));
  }
  // W and b, or zeros.
  void takeModel(const float* W, const float* b, float* model) const {
    std::memset(model, 0, static_cast<size_t>(modelFloats(p_.D)) * sizeof(float));
    for (int64_t i = 0; W && i < p_.D; ++i) takeRow(W + i * p_.D, model + i * ld_);
    if (b) takeRow(b, model + size());
  }
  void giveModel(const float* model, float* W, float* b) const {
    const size_t bytes = static_cast<size_t>(p_.D) * sizeof(float);
    for (int64_t i = 0; W && i < p_.D; ++i) std::memcpy(W + i * p_.D, model + i * ld_, bytes);
    if (b) std::memcpy(b, model + size(), bytes);
  }
  void start(float* model) const {
    const int64_t at = p_.ownStart ? n_ * p_.H + h_ : h_;
    takeModel(p_.W + at * p_.D * p_.D, p_.b + at * p_.D, model);
  }

  int64_t rowAt(int64_t t) const { return (p_.start(n_) + t) * p_.H + h_; }

  void takeRows(const FloatView& x, int64_t t0, int64_t count, float* to) const {
    for (int64_t t = 0; t < count; ++t, to += ld_) {
      if (ld_ > p_.D) store(to + ld_ - kLanes, zero());
      widen(x.data, x.dtype, rowAt(t0 + t) * p_.D, p_.D, to);
    }
  }

  // Tokens [t0, t0 + count) with the model that they find. All of the batch but ohat and oBy.
  void inner(const float* model, int64_t t0, int64_t count) {
    TttBatch& x = batch_;
    x.count = count;
    takeRows(p_.q, t0, count, x.q);
    takeRows(p_.k, t0, count, x.k);
    takeRows(p_.v, t0, count, x.v);
    for (int64_t t = 0; t < count; ++t) x.eta[t] = element(p_.eta, rowAt(t0 + t));
    biased(x.k, model, x.zhat);
    for (int64_t t = 0; t < count; ++t) {
      float *zhat = x.zhat + t * ld_, *raw = x.raw + t * ld_;
      x.zBy[t] = standardise(zhat, p_.D, p_.eps);
      overRow(p_.D, [&](int64_t i, int) {
        const int64_t at = t * ld_ + i;
        const Vec r = fma(load(gamma_ + i), load(zhat + i), load(beta_ + i)) - load(x.v + at) + load(x.k + at);
        store(raw + i, r);
        store(x.spare + i, r * load(gamma_ + i));
        store(x.etaK + at, load(x.k + at) * x.eta[t]);
      });
      throughNorm(x.spare, zhat, x.zBy[t], p_.D, x.G + t * ld_);
    }
    for (int64_t i = 0; i < count; ++i)
      for (int64_t j = 0; j < count; ++j) {
        x.A[i * p_.C + j] = j <= i ? rowDot(x.q + i * ld_, x.k + j * ld_, ld_) : 0.0f;
        x.P[i * p_.C + j] = j <= i ? (x.A[i * p_.C + j] + 1) * x.eta[j] : 0.0f;
      }
  }
  // ohat and oBy.
  void outer(const float* model) {
    TttBatch& x = batch_;
    biased(x.q, model, x.ohat);
    product<true>({x.P, p_.C, 1}, x.count, x.count, x.G, ld_, x.ohat, -1);
    for (int64_t t = 0; t < x.count; ++t) x.oBy[t] = standardise(x.ohat + t * ld_, p_.D, p_.eps);
  }
  // What the tokens have taught.
  void learn(float* model) const {
    const TttBatch& x = batch_;
    product<true>({x.etaK, 1, ld_}, p_.D, x.count, x.G, ld_, model, -1);
    product<true>({x.eta, 0, 1}, 1, x.count, x.G, ld_, model + size(), -1);
  }

  TttBatch& batch() { return batch_; }
  const float* gamma() const { return gamma_; }
  const float* beta() const { return beta_; }
  int64_t ld() const { return ld_; }

 private:
  // to = x W + b
  void biased(const float* x, const float* model, float* to) const {
    for (int64_t t = 0; t < batch_.count; ++t)
      std::memcpy(to + t * ld_, model + size(), static_cast<size_t>(ld_) * sizeof(float));
    product<true>({x, ld_, 1}, batch_.count, p_.D, model, ld_, to);
  }

  const TttProblem& p_;
  const int64_t n_, h_, ld_;
  Scratch scratch_;
  TttBatch batch_;
  float *gamma_, *beta_;
};

bool stopped(const TttProblem& p) { return p.cancel && p.cancel->load(std::memory_order_relaxed); }

void tttForwardHead(const TttForward& p, int64_t n, int64_t h) {
  TttHead head(p, n, h);
  Scratch scratch(alignFloats(TttHead::modelFloats(p.D)));
  float* model = scratch.take(TttHead::modelFloats(p.D));
  head.start(model);
  TttBatch& x = head.batch();
  for (int64_t t0 = 0; t0 < head.tokens(); t0 += p.C) {
    if (stopped(p)) return;
    const int64_t count = head.tokens() - t0 < p.C ? head.tokens() - t0 : p.C;
    head.inner(model, t0, count);
    head.outer(model);
    for (int64_t t = 0; t < count; ++t) {
      const int64_t at = t * head.ld();
      overRow(p.D, [&](int64_t i, int) {
        const Vec y = fma(load(head.gamma() + i), load(x.ohat + at + i), load(head.beta() + i));
        store(x.spare + i, y + load(x.q + at + i));
      });
      narrow(x.spare, p.D, p.o, p.oDType, head.rowAt(t0 + t) * p.D);
    }
    head.learn(model);
  }
  const int64_t at = n * p.H + h;
  head.giveModel(model, p.finalW ? p.finalW + at * p.D * p.D : nullptr, p.finalB ? p.finalB + at * p.D : nullptr);
}

}  // namespace

void tttLinear(const TttForward& p) {
  const int64_t heads = p.N * p.H, tokens = p.N > 0 ? p.B * p.T / p.N + 1 : 1;
  const Split s = splitWork(heads, tokens * p.D * p.D * 6);
  parallelFor(s.tasks, p.cancel, [&](int64_t task) {
    for (int64_t i = s.begin(task); i < s.end(task); ++i) tttForwardHead(p, i / p.H, i % p.H);
  });
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone

#include "kernels/ttt_linear_backward.inl"

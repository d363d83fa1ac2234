// The layer parts around the recurrence against float64, at sizes around every vector and block length.
#include <algorithm>
#include <cmath>

#include "check.h"
#include "compare.h"
#include "invocation.h"
#include "random.h"

namespace rankone::test {
namespace {

void forEachDType(uint64_t seed, const std::function<void(Random&)>& body) {
  for (const DType dtype : {DType::F32, DType::BF16, DType::F16}) {
    Random random(seed, dtype);
    body(random);
  }
}

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double silu(double x) { return x * sigmoid(x); }
double siluSlope(double x) { return sigmoid(x) * (1 + x * (1 - sigmoid(x))); }

// What the additions of a sum may lose where its terms cancel, by their magnitude.
constexpr double kRounding = 0x1p-25;

constexpr int64_t kWidths[] = {1, 3, 15, 16, 17, 33, 64, 65, 300};

// op(a) op(b): element (row, column) of a matrix [rows, columns], or of [columns, rows] when transposed.
struct Matrix {
  const Values& values;
  int64_t rows, columns;
  bool transposed, batched;

  int64_t place(int64_t batch, int64_t i, int64_t j) const {
    return (batched ? batch * rows * columns : 0) + (transposed ? j * rows + i : i * columns + j);
  }
  double at(int64_t batch, int64_t i, int64_t j) const { return values[place(batch, i, j)]; }
  Shape shape(int64_t batch) const {
    const Shape inner = transposed ? Shape{columns, rows} : Shape{rows, columns};
    return batched ? Shape{batch, inner[0], inner[1]} : inner;
  }
};

void testMatmul(int64_t batch, int64_t M, int64_t N, int64_t K, unsigned form, Random& random) {
  const bool tA = form & 1, tB = form & 2, batchedA = form & 4, batchedB = form & 8, biased = form & 16;
  if (!batchedA && !batchedB) batch = 1;
  const Shape shapeA = Matrix{{}, M, K, tA, batchedA}.shape(batch),
              shapeB = Matrix{{}, K, N, tB, batchedB}.shape(batch);
  const Array a = random.normals(shapeA), b = random.normals(shapeB), bias = biased ? random.normals({N}) : Array();
  const Shape shapeY = batchedA || batchedB ? Shape{batch, M, N} : Shape{M, N};
  const Array dY = random.normals(shapeY);
  const Values va = a.values(), vb = b.values(), vBias = bias.values(), vdY = dY.values();
  const Matrix left{va, M, K, tA, batchedA}, right{vb, K, N, tB, batchedB};
  Reference y{Values(batch * M * N), Values(batch * M * N)}, da{Values(va.size()), Values(va.size())},
      db{Values(vb.size()), Values(vb.size())};
  const auto add = [](Reference& sum, int64_t at, double term) {
    sum.values[at] += term;
    sum.noise[at] += std::fabs(term) * kRounding;
  };
  Values dBias(N);
  for (int64_t i = 0; i < batch; ++i)
    for (int64_t m = 0; m < M; ++m)
      for (int64_t n = 0; n < N; ++n) {
        const int64_t at = (i * M + m) * N + n;
        if (biased) add(y, at, vBias[n]);
        dBias[n] += vdY[at];
        for (int64_t k = 0; k < K; ++k) {
          add(y, at, left.at(i, m, k) * right.at(i, k, n));
          add(da, left.place(i, m, k), vdY[at] * right.at(i, k, n));
          add(db, right.place(i, k, n), vdY[at] * left.at(i, m, k));
        }
      }
  char label[96];
  std::snprintf(label, sizeof label, "batch %d M %d N %d K %d form %u", int(batch), int(M), int(N), int(K), form);
  const auto call = [&](const char* name) {
    return Invocation(name).in("a", a).in("b", b).set("transposeA", tA).set("transposeB", tB);
  };
  const Results forward = call("matmul").in("bias", bias).run();
  expectNear(label, forward["y"], y, Rows::Whole, 2e-6);
  const Results gradients = call("matmulBackward").in("dY", dY).set("withBias", biased).run();
  expectNear(label, gradients["da"], da, Rows::Whole, 2e-6);
  expectNear(label, gradients["db"], db, Rows::Whole, 2e-6);
  check(gradients.has("dBias") == biased, "%s: dBias", label);
  if (biased) expectNear(label, gradients["dBias"], dBias, 1e-5);
}

TEST("matmul: small and odd sizes") {
  forEachDType(11, [](Random& random) {
    for (unsigned form = 0; form < 32; ++form)
      for (int i = 0; i < (quick() ? 2 : 12); ++i) {
        const auto size = [&] { return random.below(12) ? kWidths[random.below(8)] : 0; };
        const int64_t M = size(), N = size(), K = size();
        testMatmul(1 + random.below(3), M, N, K, form, random);
      }
  });
}

TEST("matmul: tiles, blocks, rows of one") {
  forEachDType(12, [](Random& random) {
    constexpr int64_t kSizes[][3] = {{1, 300, 520}, {200, 1, 70}, {130, 200, 300}, {97, 33, 600}, {5, 700, 65}};
    for (const auto& [M, N, K] : kSizes)
      for (unsigned form : {0u, 1u, 2u, 3u, 12u, 23u}) {
        if ((quick() || random.dtype != DType::F32) && (form % 3 || M * N * K > 2'000'000)) continue;
        testMatmul(2, M, N, K, form, random);
      }
  });
}

TEST("embedding") {
  forEachDType(13, [](Random& random) {
    for (int64_t D : kWidths)
      for (const Shape& shape : {Shape{}, Shape{1}, Shape{0}, Shape{7, 31}, Shape{3, 2, 50}}) {
        const int64_t V = 40, count = sizeOf(shape);
        const Array ids = random.indices(shape, V), weight = random.normals({V, D});
        Shape outShape = shape;
        outShape.push_back(D);
        const Array dY = random.normals(outShape);
        Values y(count * D), dWeight(V * D);
        for (int64_t i = 0; i < count * D; ++i) {
          const int64_t at = static_cast<int64_t>(ids.at(i / D)) * D + i % D;
          y[i] = weight.at(at);
          dWeight[at] += dY.at(i);
        }
        expectNear("y", Invocation("embedding").in("ids", ids).in("weight", weight).run()["y"], y, 0);
        const Results grads = Invocation("embeddingBackward").in("ids", ids).in("dY", dY).set("numEmbeddings", V).run();
        expectNear("dWeight", grads["dWeight"], dWeight, 1e-6);
      }
  });
}

void testShortConv(int64_t B, int64_t T, int64_t D, int64_t W, bool act, bool carried, Random& random) {
  const Array x = random.normals({B, T, D}), weight = random.normals({D, W}), dY = random.normals({B, T, D});
  const Shape stateShape{B, D, W - 1};
  Array bias, initial, dFinal;
  if (carried) {
    bias = random.normals({D});
    initial = random.normals(stateShape).to(DType::F32);
    dFinal = random.normals(stateShape).to(DType::F32);
  }
  Values y(x.size()), yNoise(x.size()), final(sizeOf(stateShape)), dx(x.size()), dWeight(D * W), dBias(D),
      dInitial(final.size());
  for (int64_t b = 0; b < B; ++b)
    for (int64_t d = 0; d < D; ++d) {
      const int64_t state = (b * D + d) * (W - 1);
      Values line(W - 1 + T), dLine(line.size());  // what was carried, then the new tokens
      for (int64_t i = 0; i < W - 1; ++i) {
        line[i] = carried ? initial.at(state + i) : 0;
        dLine[T + i] = carried ? dFinal.at(state + i) : 0;
      }
      for (int64_t t = 0; t < T; ++t) line[W - 1 + t] = x.at((b * T + t) * D + d);
      for (int64_t t = 0; t < T; ++t) {
        const int64_t at = (b * T + t) * D + d;
        double sum = carried ? bias.at(d) : 0;
        yNoise[at] = std::fabs(sum) * kRounding;
        for (int64_t w = 0; w < W; ++w) {
          const double term = weight.at(d * W + w) * line[t + w];
          sum += term;
          yNoise[at] += std::fabs(term) * kRounding;
        }
        y[at] = act ? silu(sum) : sum;
        const double dSum = dY.at(at) * (act ? siluSlope(sum) : 1);
        dBias[d] += dSum;
        for (int64_t w = 0; w < W; ++w) {
          dWeight[d * W + w] += dSum * line[t + w];
          dLine[t + w] += dSum * weight.at(d * W + w);
        }
      }
      for (int64_t i = 0; i < W - 1; ++i) {
        final[state + i] = line[T + i];
        dInitial[state + i] = dLine[i];
      }
      for (int64_t t = 0; t < T; ++t) dx[(b * T + t) * D + d] = dLine[W - 1 + t];
    }
  const auto call = [&](const char* name) {
    Invocation c(name);
    c.in("x", x).in("weight", weight).in("bias", bias).in("initialState", initial);
    return c.choose("activation", act ? "silu" : "none");
  };
  char label[80];
  std::snprintf(label, sizeof label, "B %d T %d D %d W %d carried %d", int(B), int(T), int(D), int(W), carried);
  const Results forward = call("shortConv").set("outputFinalState", 1).run();
  expectNear(label, forward["y"], {y, yNoise}, Rows::Whole, 1e-6);
  expectNear(label, forward["finalState"], final, 0);
  const Results grads = call("shortConvBackward").in("dY", dY).in("dFinalState", dFinal).run();
  expectNear(label, grads["dx"], dx, 1e-6);
  expectNear(label, grads["dWeight"], dWeight, 3e-6);
  check(grads.has("dBias") == carried && grads.has("dInitialState") == carried, "%s: optional gradients", label);
  if (!carried) return;
  expectNear(label, grads["dBias"], dBias, 1e-5);
  expectNear(label, grads["dInitialState"], dInitial, 1e-6);
}

TEST("shortConv") {
  forEachDType(14, [](Random& random) {
    constexpr int64_t kShapes[][4] = {{1, 1, 1, 1},    {2, 1, 37, 4},   {2, 3, 9, 7},    {2, 64, 16, 4}, {2, 65, 70, 3},
                                      {1, 90, 530, 2}, {3, 150, 33, 5}, {2, 70, 21, 64}, {1, 2, 5, 64},  {2, 0, 6, 4},
                                      {0, 5, 6, 4},    {2, 5, 0, 4},    {1, 7, 17, 1}};
    for (const auto& [B, T, D, W] : kShapes)
      for (bool act : {false, true})
        for (bool carried : {false, true}) testShortConv(B, T, D, W, act, carried, random);
  });
}

void testNorm(int64_t rows, int64_t D, bool weighted, bool gated, Random& random) {
  constexpr double kEps = 1e-3;
  const Shape shape{rows, D};
  const Array x = random.normals(shape), dY = random.normals(shape);
  const Array weight = weighted ? random.normals({D}) : Array(), gate = gated ? random.normals(shape) : Array();
  Values y(x.size()), dx(x.size()), dxNoise(x.size()), dWeight(D), dGate(x.size());
  for (int64_t row = 0; row < rows; ++row) {
    double squares = 0, projection = 0;
    for (int64_t i = 0; i < D; ++i) squares += x.at(row * D + i) * x.at(row * D + i);
    const double factor = 1 / std::sqrt(squares / static_cast<double>(D) + kEps);
    Values dNorm(D);
    for (int64_t i = 0; i < D; ++i) {
      const int64_t at = row * D + i;
      const double w = weighted ? weight.at(i) : 1, g = gated ? gate.at(at) : 0, opened = gated ? silu(g) : 1;
      y[at] = x.at(at) * factor * w * opened;
      dGate[at] = dY.at(at) * x.at(at) * factor * w * siluSlope(g);
      dNorm[i] = dY.at(at) * opened * w;
      dWeight[i] += dY.at(at) * opened * x.at(at) * factor;
      projection += dNorm[i] * x.at(at);
    }
    for (int64_t i = 0; i < D; ++i) {
      const double along = x.at(row * D + i) * projection * factor * factor / static_cast<double>(D);
      dx[row * D + i] = factor * (dNorm[i] - along);
      dxNoise[row * D + i] = factor * (std::fabs(dNorm[i]) + std::fabs(along)) * kRounding;
    }
  }
  const std::string name = gated ? "rmsNormGated" : "rmsNorm";
  const auto call = [&](const std::string& function) {
    Invocation c(function);
    c.in("x", x).in("weight", weight).set("eps", kEps);
    return gated ? c.in("gate", gate) : c;
  };
  expectNear(name, call(name).run()["y"], y, 2e-6);
  const Results grads = call(name + "Backward").in("dY", dY).run();
  expectNear(name + " dx", grads["dx"], {dx, dxNoise}, Rows::Whole, 2e-6);
  check(grads.has("dWeight") == weighted, "%s: dWeight", name.c_str());
  if (weighted) expectNear(name + " dWeight", grads["dWeight"], dWeight, 2e-6);
  if (gated) expectNear(name + " dGate", grads["dGate"], dGate, 2e-6);
}

TEST("rmsNorm and rmsNormGated") {
  forEachDType(15, [](Random& random) {
    for (int64_t D : kWidths)
      for (int64_t rows : {0, 1, 3, 70, 400})
        for (bool weighted : {false, true})
          for (bool gated : {false, true}) testNorm(rows, D, weighted, gated, random);
    for (bool gated : {false, true}) testNorm(2, 4097, true, gated, random);
  });
}

TEST("swiglu") {
  forEachDType(16, [](Random& random) {
    for (int64_t size : {0, 1, 3, 15, 16, 17, 1023, 1025, 5000}) {
      const Shape shape{size};
      const Array gate = random.fill(shape, [&] { return 10 * random.normal(); });
      const Array up = random.normals(shape), dY = random.normals(shape);
      Values y(size), dGate(size), dUp(size);
      for (int64_t i = 0; i < size; ++i) {
        y[i] = silu(gate.at(i)) * up.at(i);
        dGate[i] = dY.at(i) * up.at(i) * siluSlope(gate.at(i));
        dUp[i] = dY.at(i) * silu(gate.at(i));
      }
      expectNear("y", Invocation("swiglu").in("gate", gate).in("up", up).run()["y"], y, 1e-6);
      const Results grads = Invocation("swigluBackward").in("gate", gate).in("up", up).in("dY", dY).run();
      expectNear("dGate", grads["dGate"], dGate, 1e-6);
      expectNear("dUp", grads["dUp"], dUp, 1e-6);
    }
  });
}

void testCrossEntropy(int64_t rows, int64_t V, Random& random) {
  const Array logits = random.fill({rows, V}, [&] { return 5 * random.normal(); });
  const Array targets = random.indices({rows}, V);
  for (int64_t i = 0; i < rows; i += 4) targets.tensor().as<int32_t>()[i] = -100;
  Values losses(rows), dLogits(rows * V);
  double sum = 0, counted = 0;
  for (int64_t row = 0; row < rows; ++row) counted += targets.at(row) != -100;
  for (int64_t row = 0; row < rows; ++row) {
    if (targets.at(row) == -100) continue;
    const int64_t target = row * V + static_cast<int64_t>(targets.at(row));
    double total = 0;
    for (int64_t i = row * V; i < (row + 1) * V; ++i) total += std::exp(logits.at(i));
    for (int64_t i = row * V; i < (row + 1) * V; ++i)
      dLogits[i] = 0.5 * (std::exp(logits.at(i)) / total - (i == target)) / counted;
    losses[row] = std::log(total) - logits.at(target);
    sum += losses[row];
  }
  const Results forward = Invocation("crossEntropy").in("logits", logits).in("targets", targets).run();
  expectNear("losses", forward["losses"], losses, 1e-6);
  expectNear("loss", forward["loss"], {counted ? sum / counted : 0}, 1e-6);
  const Array dLoss({}, Values{0.5});
  const Results grads =
      Invocation("crossEntropyBackward").in("logits", logits).in("targets", targets).in("dLoss", dLoss).run();
  expectNear("dLogits", grads["dLogits"], dLogits, 2e-6);
}

TEST("crossEntropy") {
  forEachDType(17, [](Random& random) {
    for (int64_t V : kWidths)
      if (V > 1)  // with one class all is zero
        for (int64_t rows : {0, 1, 2, 70}) testCrossEntropy(rows, V, random);
    testCrossEntropy(3, 5000, random);
  });
}

TEST("adamW, in place") {
  Random random(18);
  constexpr double kLr = 1e-2, kBeta1 = 0.8, kBeta2 = 0.95, kEps = 1e-6, kDecay = 0.1;
  constexpr int kStep = 3;
  constexpr DType kGradients[] = {DType::F32, DType::BF16, DType::F16};
  for (int64_t size : {0, 1, 3, 15, 17, 1025, 5000, 33, 34, 35}) {
    const Array param = random.normals({size}), grad = random.normals({size}).to(kGradients[size % 3]),
                m = random.normals({size}), v = random.fill({size}, [&] { return random.uniform(); });
    Values p1(size), m1(size), v1(size);
    for (int64_t i = 0; i < size; ++i) {
      const double g = grad.at(i);
      m1[i] = kBeta1 * m.at(i) + (1 - kBeta1) * g;
      v1[i] = kBeta2 * v.at(i) + (1 - kBeta2) * g * g;
      const double mHat = m1[i] / (1 - std::pow(kBeta1, kStep)), vHat = v1[i] / (1 - std::pow(kBeta2, kStep));
      p1[i] = param.at(i) * (1 - kLr * kDecay) - kLr * mHat / (std::sqrt(vHat) + kEps);
    }
    Invocation call("adamW");
    call.in("param", param).in("grad", grad).in("m", m).in("v", v).set("lr", kLr).set("beta1", kBeta1);
    call.set("beta2", kBeta2).set("eps", kEps).set("weightDecay", kDecay).set("step", kStep).run();
    expectNear("param", param, p1, 1e-6);
    expectNear("m", m, m1, 1e-6);
    expectNear("v", v, v1, 1e-6);
  }
}

}  // namespace
}  // namespace rankone::test

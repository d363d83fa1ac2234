// OpenBLAS as a peer: y = a b^T + bias by sgemm or sbgemm, and da = dY b, db = dY^T a.
//   openblas LIBRARY...        the first that loads
// OPENBLAS_CORETYPE must be in the environment before the library is loaded.
#include <dlfcn.h>

#include <algorithm>
#include <cstring>

#include "protocol.h"

namespace {

using bfloat16 = uint16_t;

constexpr int kRowMajor = 101, kNoTrans = 111, kTrans = 112;

using Sgemm = void (*)(int, int, int, int, int, int, float, const float*, int, const float*, int, float, float*, int);
using Sbgemm = void (*)(int, int, int, int, int, int, float, const bfloat16*, int, const bfloat16*, int, float, float*,
                        int);
using ToBfloat16 = void (*)(int, const float*, int, bfloat16*, int);

struct Blas {
  Sgemm sgemm;
  Sbgemm sbgemm;          // null where it was built without
  ToBfloat16 toBfloat16;  // the same
  void (*setThreads)(int);
};

struct Forward : peer::Run {
  const Blas& blas;
  const bool half;
  int M, N, K;
  peer::Tensor a, b, y;
  std::vector<std::vector<float>> copies;  // of b, beside it: gone through in turn
  size_t turn = 0;
  std::vector<bfloat16> halfA, halfB;
  std::vector<float> bias;

  Forward(const Blas& blas, const peer::Problem& problem)
      : blas(blas), half(problem.setting("dtype") == "bf16"), a(problem.tensor("a")), b(problem.tensor("b")) {
    M = static_cast<int>(a.shape[0]), K = static_cast<int>(a.shape[1]), N = static_cast<int>(b.shape[0]);
    if (problem.has("bias")) bias = problem.tensor("bias").data;
    y.shape = {M, N};
    y.data.resize(y.size());
    if (half) halfA = rounded(a), halfB = rounded(b);
    for (int i = 1; !half && i < problem.copies(); i++) copies.push_back(b.data);
  }

  std::vector<bfloat16> rounded(const peer::Tensor& x) const {
    std::vector<bfloat16> result(x.data.size());
    const int width = static_cast<int>(x.shape[1]);
    for (int64_t row = 0; row < x.shape[0]; row++)
      blas.toBfloat16(width, &x.data[row * width], 1, &result[row * width], 1);
    return result;
  }

  void run() override {
    for (int row = 0; row < M && !bias.empty(); row++) std::copy(bias.begin(), bias.end(), &y.data[int64_t{row} * N]);
    const float start = bias.empty() ? 0 : 1;
    const size_t copy = turn++ % (copies.size() + 1);
    const float* weight = copy ? copies[copy - 1].data() : b.data.data();
    if (half)
      blas.sbgemm(kRowMajor, kNoTrans, kTrans, M, N, K, 1, halfA.data(), K, halfB.data(), K, start, y.data.data(), N);
    else
      blas.sgemm(kRowMajor, kNoTrans, kTrans, M, N, K, 1, a.data.data(), K, weight, K, start, y.data.data(), N);
  }

  std::map<std::string, peer::Tensor> results() override { return {{"y", y}}; }
};

struct Backward : peer::Run {
  const Blas& blas;
  int M, N, K;
  peer::Tensor a, b, dY, da, db;

  Backward(const Blas& blas, const peer::Problem& problem)
      : blas(blas), a(problem.tensor("a")), b(problem.tensor("b")), dY(problem.tensor("dY")), da(a), db(b) {
    M = static_cast<int>(a.shape[0]), K = static_cast<int>(a.shape[1]), N = static_cast<int>(b.shape[0]);
  }

  void run() override {
    blas.sgemm(kRowMajor, kNoTrans, kNoTrans, M, K, N, 1, dY.data.data(), N, b.data.data(), K, 0, da.data.data(), K);
    blas.sgemm(kRowMajor, kTrans, kNoTrans, N, K, M, 1, dY.data.data(), N, a.data.data(), K, 0, db.data.data(), K);
  }

  std::map<std::string, peer::Tensor> results() override { return {{"da", da}, {"db", db}}; }
};

}  // namespace

int main(int count, char** arguments) {
  peer::Server server;
  std::string tried;
  void* library = nullptr;
  for (int i = 1; i < count && !library; i++) {
    library = dlopen(arguments[i], RTLD_NOW | RTLD_GLOBAL);
    tried += (tried.empty() ? "" : ", ") + std::string(arguments[i]);
  }
  if (!library) return server.fail("no library of " + tried);
  auto find = [&](const char* name) { return dlsym(library, name); };
  Blas blas{};
  blas.sgemm = reinterpret_cast<Sgemm>(find("cblas_sgemm"));
  blas.sbgemm = reinterpret_cast<Sbgemm>(find("cblas_sbgemm"));
  blas.toBfloat16 = reinterpret_cast<ToBfloat16>(find("cblas_sbstobf16"));
  blas.setThreads = reinterpret_cast<void (*)(int)>(find("openblas_set_num_threads"));
  const auto core = reinterpret_cast<const char* (*)()>(find("openblas_get_corename"));
  const auto config = reinterpret_cast<const char* (*)()>(find("openblas_get_config"));
  if (!blas.sgemm || !blas.setThreads || !core || !config) return server.fail(tried + " is not OpenBLAS");
  // "OpenBLAS 0.3.21 DYNAMIC_ARCH NO_AFFINITY ...": the name and the number.
  std::istringstream words(config());
  std::string name, number;
  words >> name >> number;
  peer::Library served;
  served.version = name + " " + number + ", kernels " + core();
  served.properties = {{"core", core()}, {"bf16", blas.sbgemm && blas.toBfloat16 ? "1" : "0"}};
  served.open = [&](const peer::Problem& problem) -> std::unique_ptr<peer::Run> {
    blas.setThreads(problem.threads());
    if (problem.has("dY")) return std::make_unique<Backward>(blas, problem);
    return std::make_unique<Forward>(blas, problem);
  };
  return server.serve(served);
}

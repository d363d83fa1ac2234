// ggml as a peer: its operators on tensors in its own layouts, which ts/cli/peers/ggml.ts makes of the problem.
//   ggml FOLDER                with libggml-base.so and libggml-cpu-*.so
// The graph, its buffers and the threads are there before anything is timed.
#include <cstring>

#include "ggml_library.h"
#include "protocol.h"

namespace {

class Operator : public peer::Run {
 public:
  Operator(const ggml::Library& g, const peer::Problem& problem) : g_(g), backend_(g.newBackend()) {
    const int threads = problem.threads();
    g.setThreads(backend_, threads);
    if (threads > 1) {
      // Without a pool of its own every graph starts and joins new threads.
      ggml::ThreadPoolParameters parameters;
      g.fillThreadPool(&parameters, threads);
      pool_ = g.newThreadPool(&parameters);
      g.setThreadPool(backend_, pool_);
    }
    context_ = g.init({TENSORS * g.tensorOverhead() + g.graphOverhead(), nullptr, true});
    weights_ = typeOf(problem.setting("dtype"));
    graph_ = g.newGraph(context_);
    build(problem);
    buffer_ = g.allocate(context_, backend_);
    if (!buffer_) throw std::runtime_error("ggml has no memory for the tensors");
    for (const auto& [name, tensor] : inputs_) fill(tensor, problem.tensor(name));
    if (sequences_) {
      auto* ids = static_cast<int32_t*>(g.getData(sequences_));
      for (int64_t i = 0; i < g.elements(sequences_); i++) ids[i] = static_cast<int32_t>(i);
    }
  }

  ~Operator() override {
    g_.freeBuffer(buffer_);
    g_.free(context_);
    g_.freeBackend(backend_);
    if (pool_) g_.freeThreadPool(pool_);
  }

  void run() override {
    if (const int status = g_.compute(backend_, graph_))
      throw std::runtime_error("ggml_backend_graph_compute: status " + std::to_string(status));
  }

  // Left alone, workers poll for a quarter of a second. The next graph wakes them.
  void rest() override {
    if (pool_) g_.pauseThreadPool(pool_);
  }

  std::map<std::string, peer::Tensor> results() override {
    std::map<std::string, peer::Tensor> results;
    for (const auto& [name, tensor] : outputs_) {
      peer::Tensor& result = results[name];
      result.shape = {g_.elements(tensor)};
      result.data.resize(result.size());
      memcpy(result.data.data(), g_.getData(tensor), result.data.size() * sizeof(float));
    }
    return results;
  }

 private:
  static constexpr size_t TENSORS = 32;

  static ggml::Type typeOf(const std::string& dtype) {
    if (dtype == "f32") return ggml::F32;
    if (dtype == "f16") return ggml::F16;
    if (dtype == "bf16") return ggml::BF16;
    if (dtype == "q8_0") return ggml::Q8_0;
    throw std::runtime_error("dtype " + dtype);
  }

  // ggml counts extents from the fastest on.
  ggml::Tensor* input(const peer::Problem& problem, const std::string& name, ggml::Type type = ggml::F32) {
    int64_t extents[4] = {1, 1, 1, 1};
    const auto& shape = problem.tensor(name).shape;
    std::reverse_copy(shape.begin(), shape.end(), extents);
    ggml::Tensor* tensor = g_.newTensor4d(context_, type, extents[0], extents[1], extents[2], extents[3]);
    inputs_[name] = tensor;
    if (type != ggml::F32) typed_ = tensor;
    return tensor;
  }

  void output(const std::string& name, ggml::Tensor* tensor) {
    g_.expand(graph_, tensor);
    outputs_[name] = tensor;
  }

  void build(const peer::Problem& problem) {
    const std::string& op = problem.setting("op");
    const auto in = [&](const char* name) { return input(problem, name); };
    if (op == "gated_linear_attn") {
      const float scale = std::stof(problem.setting("scale"));
      ggml::Tensor *k = in("k"), *v = in("v"), *q = in("q"), *gate = in("g"), *state = in("state");
      output("out", g_.gatedLinearAttention(context_, k, v, q, gate, state, scale));
    } else if (op == "gated_delta_net") {
      ggml::Tensor *q = in("q"), *k = in("k"), *v = in("v"), *gate = in("g"), *beta = in("beta"), *state = in("state");
      output("out", g_.gatedDeltaNet(context_, q, k, v, gate, beta, state, 1));
    } else if (op == "ssm_scan") {
      ssmScan(problem);
    } else if (op == "mul_mat") {
      ggml::Tensor *b = input(problem, "b", weights_), *a = in("a");
      ggml::Tensor* y = g_.mulMat(context_, b, a);
      output("y", problem.has("bias") ? g_.add(context_, y, in("bias")) : y);
    } else {
      throw std::runtime_error("op " + op);
    }
  }

  // A layer of Mamba-2 around the scan, as llama.cpp builds it: dt + bias before, D x after.
  void ssmScan(const peer::Problem& problem) {
    const auto in = [&](const char* name) { return input(problem, name); };
    ggml::Tensor *state = in("state"), *x = in("x"), *dt = in("dt"), *A = in("A"), *B = in("B"), *C = in("C");
    if (problem.has("dtBias")) dt = g_.add(context_, dt, in("dtBias"));
    const auto& shape = problem.tensor("x").shape;  // [B,T,HV,P]
    sequences_ = g_.newTensor4d(context_, ggml::I32, shape[0], 1, 1, 1);
    ggml::Tensor* scan = g_.ssmScan(context_, state, x, dt, A, B, C, sequences_, 1);
    output("out", scan);
    if (!problem.has("D")) return;
    const size_t head = shape[3] * sizeof(float), token = shape[2] * head, sequence = shape[1] * token;
    ggml::Tensor* y = g_.view4d(context_, scan, shape[3], shape[2], shape[1], shape[0], head, token, sequence, 0);
    output("y", g_.add(context_, y, g_.mul(context_, x, in("D"))));
  }

  void fill(ggml::Tensor* tensor, const peer::Tensor& from) {
    void* data = g_.getData(tensor);
    const float* values = from.data.data();
    const int64_t size = from.size(), width = from.shape.back();
    if (tensor != typed_)
      memcpy(data, values, size * sizeof(float));
    else if (weights_ == ggml::F16)
      g_.toFloat16(values, static_cast<uint16_t*>(data), size);
    else if (weights_ == ggml::BF16)
      g_.toBfloat16(values, static_cast<uint16_t*>(data), size);
    else
      g_.quantize(weights_, values, data, 0, size / width, width, nullptr);
  }

  const ggml::Library& g_;
  ggml::Backend* backend_;
  ggml::ThreadPool* pool_ = nullptr;
  ggml::Context* context_;
  ggml::Graph* graph_;
  ggml::Buffer* buffer_;
  ggml::Type weights_;
  // The one tensor that is not float32, and the list of sequences of a scan.
  ggml::Tensor* typed_ = nullptr;
  ggml::Tensor* sequences_ = nullptr;
  std::map<std::string, ggml::Tensor*> inputs_, outputs_;
};

}  // namespace

int main(int count, char** arguments) {
  peer::Server server;
  try {
    const ggml::Library library(count > 1 ? arguments[1] : ".");
    peer::Library served;
    served.version = "ggml " + std::string(library.version()) + ", " + library.name;
    served.open = [&](const peer::Problem& problem) { return std::make_unique<Operator>(library, problem); };
    return server.serve(served);
  } catch (const std::exception& error) {
    return server.fail(error.what());
  }
}

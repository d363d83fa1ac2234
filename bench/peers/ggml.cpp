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
    const int copies = problem.copies();
    context_ = g.init({copies * (TENSORS * g.tensorOverhead() + g.graphOverhead()), nullptr, true});
    weights_ = typeOf(problem.setting("dtype"));
    for (int i = 0; i < copies; i++) {
      graphs_.push_back(g.newGraph(context_));
      build(problem);
    }
    buffer_ = g.allocate(context_, backend_);
    if (!buffer_) throw std::runtime_error("ggml has no memory for the tensors");
    std::map<std::string, ggml::Tensor*> filled;
    for (const Input& input : inputs_) {
      ggml::Tensor*& first = filled[input.name];
      if (first)
        memcpy(g.getData(input.tensor), g.getData(first), g.bytes(first));
      else
        fill(first = input.tensor, input.type, problem.tensor(input.name));
    }
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
    if (const int status = g_.compute(backend_, graphs_[turn_++ % graphs_.size()]))
      throw std::runtime_error("ggml_backend_graph_compute: status " + std::to_string(status));
  }

  // Left alone, workers poll for a quarter of a second. The next graph wakes them.
  void rest() override {
    if (pool_) g_.pauseThreadPool(pool_);
  }

  // Those of the first copy.
  std::map<std::string, peer::Tensor> results() override {
    turn_ = 0;
    run();
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
    if (dtype == "q4_0") return ggml::Q4_0;
    throw std::runtime_error("dtype " + dtype);
  }

  // ggml counts extents from the fastest on.
  ggml::Tensor* input(const peer::Problem& problem, const std::string& name, ggml::Type type = ggml::F32) {
    int64_t extents[4] = {1, 1, 1, 1};
    const auto& shape = problem.tensor(name).shape;
    std::reverse_copy(shape.begin(), shape.end(), extents);
    ggml::Tensor* tensor = g_.newTensor4d(context_, type, extents[0], extents[1], extents[2], extents[3]);
    inputs_.push_back({name, tensor, type});
    return tensor;
  }

  void output(const std::string& name, ggml::Tensor* tensor) {
    g_.expand(graphs_.back(), tensor);
    outputs_.emplace(name, tensor);
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
    } else if (op == "flash_attn_ext") {
      const float scale = std::stof(problem.setting("scale"));
      ggml::Tensor *q = in("q"), *k = input(problem, "k", weights_), *v = input(problem, "v", weights_);
      ggml::Tensor* mask = problem.has("mask") ? input(problem, "mask", ggml::F16) : nullptr;
      output("o", g_.flashAttention(context_, q, k, v, mask, scale, 0.0f, 0.0f));
    } else if (op == "mul_mat") {
      ggml::Tensor *b = input(problem, "b", weights_), *a = in("a");
      ggml::Tensor* y = g_.mulMat(context_, b, a);
      output("y", problem.has("bias") ? g_.add(context_, y, in("bias")) : y);
    } else if (op == "lora") {
      // As llama.cpp builds it.
      const ggml::Type adapters = typeOf(problem.setting("adapters"));
      ggml::Tensor *w = input(problem, "weight", weights_), *x = in("x");
      ggml::Tensor* y = g_.mulMat(context_, w, x);
      ggml::Tensor* t = g_.mulMat(context_, input(problem, "a", adapters), x);
      ggml::Tensor* added = g_.mulMat(context_, input(problem, "b", adapters), t);
      output("y", g_.add(context_, y, g_.scale(context_, added, std::stof(problem.setting("scale")))));
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

  void fill(ggml::Tensor* tensor, ggml::Type type, const peer::Tensor& from) {
    void* data = g_.getData(tensor);
    const float* values = from.data.data();
    const int64_t size = from.size(), width = from.shape.back();
    if (type == ggml::F32)
      memcpy(data, values, size * sizeof(float));
    else if (type == ggml::F16)
      g_.toFloat16(values, static_cast<uint16_t*>(data), size);
    else if (type == ggml::BF16)
      g_.toBfloat16(values, static_cast<uint16_t*>(data), size);
    else
      g_.quantize(type, values, data, 0, size / width, width, nullptr);
  }

  struct Input {
    std::string name;
    ggml::Tensor* tensor;
    ggml::Type type;
  };

  const ggml::Library& g_;
  ggml::Backend* backend_;
  ggml::ThreadPool* pool_ = nullptr;
  ggml::Context* context_;
  // One for each copy of the inputs; the next run's.
  std::vector<ggml::Graph*> graphs_;
  size_t turn_ = 0;
  ggml::Buffer* buffer_;
  ggml::Type weights_;
  // The list of sequences of a scan.
  ggml::Tensor* sequences_ = nullptr;
  std::vector<Input> inputs_;
  std::map<std::string, ggml::Tensor*> outputs_;  // of the first copy
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

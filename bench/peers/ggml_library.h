// The functions of ggml that the peer calls, found in the shared libraries of an installed package: no headers of
// ggml's are needed, and none of its structures but two small ones.
#pragma once

#include <dirent.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace ggml {

struct Tensor;
struct Context;
struct Graph;
struct Backend;
struct Buffer;
struct ThreadPool;

// ggml_type
enum Type : int { F32 = 0, F16 = 1, Q4_0 = 2, Q8_0 = 8, I32 = 26, BF16 = 30 };

struct InitParameters {
  size_t size;
  void* memory;
  bool noAllocation;
};

// ggml_threadpool_params, which the library fills in: 512 flags and a few numbers.
struct alignas(16) ThreadPoolParameters {
  char bytes[4096];
};

class Library {
 public:
  // ggml chooses among its builds for instruction sets by the score that each gives itself on this machine.
  explicit Library(const std::string& folder) {
    base_ = open(folder + "/libggml-base.so", RTLD_GLOBAL);
    DIR* files = opendir(folder.c_str());
    int best = 0;
    while (const dirent* entry = files ? readdir(files) : nullptr) {
      const std::string file = entry->d_name;
      if (file.rfind("libggml-cpu", 0) != 0 || file.find(".so") == std::string::npos) continue;
      void* handle = dlopen((folder + "/" + file).c_str(), RTLD_NOW | RTLD_LOCAL);
      if (!handle) continue;
      const auto score = reinterpret_cast<int (*)()>(dlsym(handle, "ggml_backend_score"));
      // A package with a single build has no scores.
      const int own = score ? score() : 1;
      if (own <= best) continue;
      best = own, cpu_ = handle, name = file;
    }
    if (files) closedir(files);
    if (!cpu_) throw std::runtime_error("no libggml-cpu*.so in " + folder + " runs on this processor");
    bind();
  }

  std::string name;

  Context* (*init)(InitParameters);
  void (*free)(Context*);
  size_t (*tensorOverhead)();
  size_t (*graphOverhead)();
  Tensor* (*newTensor4d)(Context*, int, int64_t, int64_t, int64_t, int64_t);
  void* (*getData)(const Tensor*);
  int64_t (*elements)(const Tensor*);
  size_t (*bytes)(const Tensor*);
  Tensor* (*view4d)(Context*, Tensor*, int64_t, int64_t, int64_t, int64_t, size_t, size_t, size_t, size_t);
  Graph* (*newGraph)(Context*);
  void (*expand)(Graph*, Tensor*);
  Tensor* (*add)(Context*, Tensor*, Tensor*);
  Tensor* (*mul)(Context*, Tensor*, Tensor*);
  Tensor* (*scale)(Context*, Tensor*, float);
  Tensor* (*mulMat)(Context*, Tensor*, Tensor*);
  Tensor* (*flashAttention)(Context*, Tensor*, Tensor*, Tensor*, Tensor*, float, float, float);
  Tensor* (*gatedLinearAttention)(Context*, Tensor*, Tensor*, Tensor*, Tensor*, Tensor*, float);
  // The last argument of the next two, copies of the state to keep, is one that older versions do not read.
  Tensor* (*gatedDeltaNet)(Context*, Tensor*, Tensor*, Tensor*, Tensor*, Tensor*, Tensor*, int64_t);
  Tensor* (*ssmScan)(Context*, Tensor*, Tensor*, Tensor*, Tensor*, Tensor*, Tensor*, Tensor*, int64_t);
  void (*toFloat16)(const float*, uint16_t*, int64_t);
  void (*toBfloat16)(const float*, uint16_t*, int64_t);
  size_t (*quantize)(int, const float*, void*, int64_t, int64_t, int64_t, const float*);
  const char* (*version)();

  Backend* (*newBackend)();
  void (*freeBackend)(Backend*);
  void (*setThreads)(Backend*, int);
  void (*setThreadPool)(Backend*, ThreadPool*);
  void (*fillThreadPool)(ThreadPoolParameters*, int);
  ThreadPool* (*newThreadPool)(ThreadPoolParameters*);
  void (*freeThreadPool)(ThreadPool*);
  void (*pauseThreadPool)(ThreadPool*);
  Buffer* (*allocate)(Context*, Backend*);
  void (*freeBuffer)(Buffer*);
  int (*compute)(Backend*, Graph*);

 private:
  static void* open(const std::string& file, int scope) {
    void* handle = dlopen(file.c_str(), RTLD_NOW | scope);
    if (!handle) throw std::runtime_error(dlerror());
    return handle;
  }

  template <class F>
  void find(F& function, const char* symbol) {
    void* address = dlsym(base_, symbol);
    if (!address) address = dlsym(cpu_, symbol);
    if (!address) throw std::runtime_error(name + " has no " + symbol);
    function = reinterpret_cast<F>(address);
  }

  void bind() {
    find(init, "ggml_init");
    find(free, "ggml_free");
    find(tensorOverhead, "ggml_tensor_overhead");
    find(graphOverhead, "ggml_graph_overhead");
    find(newTensor4d, "ggml_new_tensor_4d");
    find(getData, "ggml_get_data");
    find(elements, "ggml_nelements");
    find(bytes, "ggml_nbytes");
    find(view4d, "ggml_view_4d");
    find(newGraph, "ggml_new_graph");
    find(expand, "ggml_build_forward_expand");
    find(add, "ggml_add");
    find(mul, "ggml_mul");
    find(scale, "ggml_scale");
    find(mulMat, "ggml_mul_mat");
    find(flashAttention, "ggml_flash_attn_ext");
    find(gatedLinearAttention, "ggml_gated_linear_attn");
    find(gatedDeltaNet, "ggml_gated_delta_net");
    find(ssmScan, "ggml_ssm_scan");
    find(toFloat16, "ggml_fp32_to_fp16_row");
    find(toBfloat16, "ggml_fp32_to_bf16_row");
    find(quantize, "ggml_quantize_chunk");
    find(version, "ggml_version");
    find(newBackend, "ggml_backend_cpu_init");
    find(freeBackend, "ggml_backend_free");
    find(setThreads, "ggml_backend_cpu_set_n_threads");
    find(setThreadPool, "ggml_backend_cpu_set_threadpool");
    find(fillThreadPool, "ggml_threadpool_params_init");
    find(newThreadPool, "ggml_threadpool_new");
    find(freeThreadPool, "ggml_threadpool_free");
    find(pauseThreadPool, "ggml_threadpool_pause");
    find(allocate, "ggml_backend_alloc_ctx_tensors");
    find(freeBuffer, "ggml_backend_buffer_free");
    find(compute, "ggml_backend_graph_compute");
  }

  void* base_ = nullptr;
  void* cpu_ = nullptr;
};

}  // namespace ggml

// The collectives that the example needs, over MPI_COMM_WORLD. Blocking: a rank has nothing else to do meanwhile.
#include <mpi.h>
#include <napi.h>

#include <limits>

namespace {

void check(Napi::Env env, int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw Napi::Error::New(env, std::string(call) + ": " + std::string(text, static_cast<size_t>(length)));
}

Napi::Value init(const Napi::CallbackInfo& info) {
  int provided = 0, rank = 0, size = 0;
  check(info.Env(), MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread");
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  check(info.Env(), MPI_Comm_rank(MPI_COMM_WORLD, &rank), "MPI_Comm_rank");
  check(info.Env(), MPI_Comm_size(MPI_COMM_WORLD, &size), "MPI_Comm_size");
  Napi::Object world = Napi::Object::New(info.Env());
  world["rank"] = rank;
  world["size"] = size;
  return world;
}

void allGather(const Napi::CallbackInfo& info) {
  const auto floats = [&](size_t i) {
    if (info.Length() <= i || !info[i].IsTypedArray() ||
        info[i].As<Napi::TypedArray>().TypedArrayType() != napi_float32_array)
      throw Napi::TypeError::New(info.Env(), "allGather: expected two Float32Arrays");
    return info[i].As<Napi::Float32Array>();
  };
  Napi::Float32Array part = floats(0), all = floats(1);
  int size = 0;
  check(info.Env(), MPI_Comm_size(MPI_COMM_WORLD, &size), "MPI_Comm_size");
  if (all.ElementLength() != part.ElementLength() * static_cast<size_t>(size) ||
      part.ElementLength() > static_cast<size_t>(std::numeric_limits<int>::max()))
    throw Napi::RangeError::New(info.Env(), "allGather: expected room for one part of every rank");
  const int count = static_cast<int>(part.ElementLength());
  check(info.Env(), MPI_Allgather(part.Data(), count, MPI_FLOAT, all.Data(), count, MPI_FLOAT, MPI_COMM_WORLD),
        "MPI_Allgather");
}

void barrier(const Napi::CallbackInfo& info) { check(info.Env(), MPI_Barrier(MPI_COMM_WORLD), "MPI_Barrier"); }

void finalize(const Napi::CallbackInfo& info) { check(info.Env(), MPI_Finalize(), "MPI_Finalize"); }

Napi::Object registerFunctions(Napi::Env env, Napi::Object to) {
  to["init"] = Napi::Function::New(env, init);
  to["allGather"] = Napi::Function::New(env, allGather);
  to["barrier"] = Napi::Function::New(env, barrier);
  to["finalize"] = Napi::Function::New(env, finalize);
  return to;
}

}  // namespace

NODE_API_MODULE(mpi, registerFunctions)

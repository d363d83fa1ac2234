// Asynchronous calls. Inputs are copied at the call: a JavaScript reference does not keep an ArrayBuffer from being
// transferred away. New outputs are written straight into arrays that nobody else has seen yet; `out` arrays and
// arguments that are updated in place are written on completion, on the environment's own thread.
//
// The copies are not told to the garbage collector (napi_adjust_external_memory), as states and saved activations are:
// no collection can free them, they go when the call ends, and each report of some megabytes would bring one on.
#include <cstring>
#include <exception>

#include "core/parallel.h"
#include "napi/call.h"
#include "napi/environment.h"
#include "napi/errors.h"
#include "napi/tasks.h"

namespace rankone {
namespace {

struct Job : Task {
  const char* name = nullptr;
  Call call;
  Holds holds;
  std::vector<AlignedBuffer> copies;
  std::exception_ptr error;

  // Of the environment's thread. They die with the environment, so there is nothing to release when it has ended.
  struct WriteBack {
    uint32_t index;  // in `kept`
    const char* kind;
    const char* name;
    const void* from;
    size_t bytes, elementSize;
  };
  std::vector<WriteBack> writeBacks;
  napi_ref kept = nullptr;  // the results, then the arrays to write back to

  void settle(Napi::Env env) override;
  void letGo() override;
};

void copyInputs(const Arguments& arguments, Job& job, std::vector<napi_value>& kept) {
  Call& call = job.call;
  for (size_t i = 0; i < call.spec->inputs.size(); ++i) {
    Tensor& t = call.inputs[i];
    if (!t.present() || t.dtype == DType::I32 || t.dtype == DType::I64) continue;  // index arrays are copies already
    AlignedBuffer copy(t.bytes());
    if (t.bytes()) std::memcpy(copy.data(), t.data, t.bytes());
    t.data = copy.data();
    job.copies.push_back(std::move(copy));
    const InputSpec& in = call.spec->inputs[i];
    if (in.access != Access::Update) continue;
    job.writeBacks.push_back({static_cast<uint32_t>(kept.size()), "", in.name, t.data, t.bytes(), dtypeSize(t.dtype)});
    kept.push_back(arguments.input(static_cast<int>(i)));
  }
}

void copyOut(const Arguments& arguments, Job& job, std::vector<napi_value>& kept) {
  Call& call = job.call;
  for (size_t i = 0; i < call.spec->outputs.size(); ++i) {
    Tensor& t = call.outputs[i];
    if (!arguments.outGiven(static_cast<int>(i))) continue;
    job.copies.emplace_back(t.bytes());
    t.data = job.copies.back().data();
    job.writeBacks.push_back({static_cast<uint32_t>(kept.size()), "out.", call.spec->outputs[i].name, t.data, t.bytes(),
                              dtypeSize(t.dtype)});
    kept.push_back(arguments.output(static_cast<int>(i)));
  }
}

// On a pool thread.
void runJob(const std::shared_ptr<Job>& job) {
  AsyncContext& context = *job->context;
  {
    std::lock_guard<std::mutex> hold(context.lock);
    if (context.closed) return;
    ++context.running;
  }
  try {
    if (job->cancel.load()) fail(ErrorKind::Abort, "aborted");
    job->call.spec->run(job->call);
  } catch (...) {
    job->error = std::current_exception();
    job->holds.state.poison();
  }
  completed(*job);
  std::lock_guard<std::mutex> hold(context.lock);
  --context.running;
  context.idle.notify_all();
}

void writeBack(Napi::Env env, const Job& job, napi_value kept) {
  std::vector<ArrayView> views(job.writeBacks.size());
  for (size_t i = 0; i < views.size(); ++i) {
    const Job::WriteBack& w = job.writeBacks[i];
    napi_value array;
    check(env, napi_get_element(env, kept, w.index, &array));
    if (!viewOf(env, array, views[i]) || views[i].length * w.elementSize != w.bytes)
      fail(ErrorKind::Range,
           "%s%s: expected the array to stay as it was until the call ended, but it was detached or resized", w.kind,
           w.name);
  }
  for (size_t i = 0; i < views.size(); ++i)
    if (job.writeBacks[i].bytes) std::memcpy(views[i].data, job.writeBacks[i].from, job.writeBacks[i].bytes);
}

// What was disposed, evicted or replaced during the call is free by the time its promise is settled.
void Job::letGo() {
  call.planned.reset();
  call.base.reset();
  call.bank.reset();
  call.memory.clear();
}

void Job::settle(Napi::Env env) {
  Job& job = *this;
  napi_value kept;
  try {
    check(env, napi_get_reference_value(env, job.kept, &kept));
    try {
      if (job.error) std::rethrow_exception(job.error);
      writeBack(env, job, kept);
    } catch (...) {
      job.holds.state.poison();  // it went ahead, and its caller has no results of that
      job.holds = Holds();
      throw;
    }
    job.holds = Holds();  // free again before anybody awaiting the promise goes on
    if (job.call.spec->makesSaved && job.call.saved)
      check(env, napi_set_element(env, kept, static_cast<uint32_t>(job.call.spec->outputs.size()),
                                  wrapSaved(env, std::move(job.call.saved))));
    if (job.call.spec->makesBase)
      check(env, napi_set_element(env, kept, static_cast<uint32_t>(job.call.spec->outputs.size()),
                                  wrapPacked(env, std::move(job.call.packed))));
    check(env, napi_resolve_deferred(env, job.deferred, kept));
  } catch (...) {
    napi_reject_deferred(env, job.deferred, jsError(env, job.name, std::current_exception()).Value());
  }
  napi_delete_reference(env, job.kept);
}

void finished(napi_env rawEnv, napi_value, void* context, void* data) {
  if (!rawEnv) return;  // the environment is closing; context.tasks goes with it
  const Napi::Env env(rawEnv);
  AsyncContext& async = *static_cast<AsyncContext*>(context);
  const auto found = async.tasks.find(static_cast<Task*>(data)->number);
  if (found == async.tasks.end()) return;
  const std::shared_ptr<Task> task = found->second;
  withdraw(env, task);
  task->letGo();
  try {
    task->settle(env);
  } catch (...) {
    // Only while the environment is being terminated; there is nobody to tell.
  }
}

void closeAsync(AsyncContext& context) {
  {
    std::unique_lock<std::mutex> hold(context.lock);
    context.closed = true;
    for (auto& [number, task] : context.tasks) task->cancel.store(true);
    context.idle.wait(hold, [&] { return context.running == 0; });
  }
  for (auto& [number, device] : context.devices) device->close();
  context.tasks.clear();  // each points back here
  context.devices.clear();
  napi_release_threadsafe_function(context.finished, napi_tsfn_abort);
}

}  // namespace

napi_value callAsync(napi_env rawEnv, napi_callback_info info) {
  const Napi::Env env(rawEnv);
  return answered(env, "rankone", [&] {
    const Arguments arguments(env, info);
    return guarded(env, arguments.entry().name, [&] {
      auto job = std::make_shared<Job>();
      Call& call = job->call;
      job->name = arguments.entry().name;
      arguments.read(call, job->holds, job->copies);
      call.cancel = &job->cancel;
      call.spec->plan(call);
      arguments.bindOut(call);

      std::vector<napi_value> kept(call.spec->outputs.size() + 1, env.Null());
      if (!call.device) {
        copyInputs(arguments, *job, kept);
        copyOut(arguments, *job, kept);
      }
      allocateOutputs(env, arguments, call, kept.data());
      arguments.reportOutputs(call, header::kAll);
      napi_value results, promise;
      check(env, napi_create_array_with_length(env, kept.size(), &results));
      for (size_t i = 0; i < kept.size(); ++i) defineElement(env, results, static_cast<uint32_t>(i), kept[i]);
      check(env, napi_create_reference(env, results, 1, &job->kept));
      check(env, napi_create_promise(env, &job->deferred, &promise));

      try {
        if (call.device) {
          execute(call);
          afterDevice(env, job, call.device, [job = job.get()](std::exception_ptr error) { job->error = error; });
        } else {
          enlist(env, job);
          submitJob([job] { runJob(job); });
        }
      } catch (...) {
        job->error = std::current_exception();
        withdraw(env, job);
        job->settle(env);
      }
      arguments.header()[header::kJob] = static_cast<double>(job->number);
      return promise;
    });
  });
}

void enlist(Napi::Env env, const std::shared_ptr<Task>& task) {
  task->context = Environment::of(env).async;
  AsyncContext& async = *task->context;
  if (async.tasks.empty()) check(env, napi_ref_threadsafe_function(env, async.finished));
  task->number = ++async.lastTask;
  async.tasks.emplace(task->number, task);
}

void withdraw(Napi::Env env, const std::shared_ptr<Task>& task) {
  AsyncContext& async = *Environment::of(env).async;
  if (async.tasks.erase(task->number) && async.tasks.empty()) napi_unref_threadsafe_function(env, async.finished);
}

void completed(Task& task) {
  AsyncContext& context = *task.context;
  std::lock_guard<std::mutex> hold(context.lock);
  // The task stays in context.tasks until its completion has been handled, so a plain pointer will do.
  if (!context.closed) napi_call_threadsafe_function(context.finished, &task, napi_tsfn_nonblocking);
}

Napi::Value cancel(const Napi::CallbackInfo& info) {
  AsyncContext& async = *Environment::of(info.Env()).async;
  const auto found = async.tasks.find(static_cast<uint64_t>(info[0].ToNumber().DoubleValue()));
  if (found != async.tasks.end()) found->second->cancel.store(true);
  return info.Env().Undefined();
}

void openAsync(Napi::Env env) {
  Environment& environment = Environment::of(env);
  AsyncContext* context = environment.async.get();
  check(env, napi_create_threadsafe_function(env, nullptr, nullptr, Napi::String::New(env, "rankone"), 0, 1, nullptr,
                                             nullptr, context, finished, &context->finished));
  check(env, napi_unref_threadsafe_function(env, context->finished));
  // After the function, so that the hook runs before the function's own.
  auto* kept = new std::shared_ptr<AsyncContext>(environment.async);
  check(env,
        napi_add_env_cleanup_hook(
            env,
            [](void* data) {
              std::unique_ptr<std::shared_ptr<AsyncContext>> context(static_cast<std::shared_ptr<AsyncContext>*>(data));
              closeAsync(**context);
            },
            kept));
}

}  // namespace rankone

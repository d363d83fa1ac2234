// A launch: its blocks over threads of the host.

#include <algorithm>
#include <mutex>
#include <thread>

#include "machine.h"
#include "memory.h"

namespace simt::emulator {

Options options;

namespace {

enum : Status { OK = 0, INVALID_ARGUMENT = 1, INVALID_CONFIGURATION = 9, TIMED_OUT = 702, TOO_MANY_BLOCKS = 720 };

std::mutex mutex;

int hostThreads(const Launched& launch) {
  // The history of bytes is kept without locks; and reports are the same at every run.
  if (launch.checked) return 1;
  const int all = options.threads > 0 ? options.threads : static_cast<int>(std::thread::hardware_concurrency());
  return std::max(1, std::min(all, static_cast<int>(launch.blocks)));
}

}  // namespace

Status launch(const LaunchConfig& config, void (*body)(const void*), const void* call) {
  const std::lock_guard<std::mutex> hold(mutex);
  createSpace();
  const dim3 grid = config.grid, block = config.block;
  const uint64_t threads = uint64_t(block.x) * block.y * block.z;
  const uint64_t blocks = uint64_t(grid.x) * grid.y * grid.z;
  if (blocks == 0 || grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535) return INVALID_CONFIGURATION;
  if (threads == 0 || threads > MAX_THREADS || block.z > 64) return INVALID_CONFIGURATION;
  const size_t most = options.sharedBytes > 0 ? std::min(options.sharedBytes, MAX_SHARED) : MAX_SHARED;
  if (config.sharedBytes > most) return INVALID_ARGUMENT;
  if (blocks >= 1 << 22) return INVALID_ARGUMENT;  // of this emulator: bits of an epoch

  Launched launch;
  launch.config = config;
  launch.body = body;
  launch.call = call;
  launch.checked = config.checked && options.checks;
  launch.seed = options.seed;
  launch.blocks = static_cast<uint32_t>(blocks);
  const uint32_t resident = options.residentBlocks > 0
                                ? std::min(launch.blocks, static_cast<uint32_t>(options.residentBlocks))
                                : launch.blocks;
  if (config.how == Launch::CORESIDENT && resident < launch.blocks) return TOO_MANY_BLOCKS;

  const int workers = hostThreads(launch);
  launch.residentBlocks = std::max(1u, (resident + workers - 1) / workers);
  nextEpoch();
  forgetCounters();
  std::vector<std::unique_ptr<Worker>>& all = launch.workers;
  for (int i = 0; i < workers; ++i) all.push_back(std::make_unique<Worker>(launch, i));
  std::vector<std::thread> others;
  for (int i = 1; i < workers; ++i) others.emplace_back([&, i] { all[i]->run(); });
  all[0]->run();
  for (std::thread& other : others) other.join();

  Statistics statistics;
  statistics.launches = 1;
  for (const auto& worker : all) add(statistics, worker->statistics);
  addStatistics(config.kernel, statistics);
  if (launch.deadlocked) {
    std::string text = "no thread can go on";
    for (const auto& worker : all) text += worker->stuck;
    if (launch.nextBlock < launch.blocks) {
      text += "\n      " + std::to_string(launch.blocks - launch.nextBlock) + " blocks not started, of " +
              std::to_string(resident) + " that fit at once";
    }
    find(Kind::SYNCHRONISATION, "deadlock", text);
  }
  settleFindings(config.kernel);
  return launch.aborted ? TIMED_OUT : OK;
}

}  // namespace simt::emulator

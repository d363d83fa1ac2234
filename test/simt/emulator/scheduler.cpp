// Which thread runs next, and what to do when none can.

#include <sched.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>

#include "machine.h"
#include "memory.h"

namespace simt::emulator {

__thread const Indices* indices;

namespace {

// Polls without progress anywhere, after which sleepers count as stuck: one that looks for nothing may sleep so often.
constexpr int PATIENCE = 10000;

void enter() {
  Thread& thread = *running();
  thread.block->launch->body(thread.block->launch->call);
  thread.block->worker->finish(thread);
}

// Blocks with their stacks and shared memory, for later launches.
std::mutex poolMutex;
std::vector<std::unique_ptr<Block>> pool;

std::unique_ptr<Block> takeBlock() {
  const std::lock_guard<std::mutex> hold(poolMutex);
  if (!pool.empty()) {
    std::unique_ptr<Block> block = std::move(pool.back());
    pool.pop_back();
    return block;
  }
  std::unique_ptr<Block> block = std::make_unique<Block>();
  block->shared = takeSharedSlot();
  return block;
}

}  // namespace

Worker::~Worker() {
  const std::lock_guard<std::mutex> hold(poolMutex);
  for (auto& block : blocks_) pool.push_back(std::move(block));
  for (auto& block : spare_) pool.push_back(std::move(block));
}

void Worker::ready(Thread& thread) {
  if (thread.state != State::ASLEEP) ++activity;
  thread.state = State::READY;
  if (count_ == ring_.size()) {
    std::rotate(ring_.begin(), ring_.begin() + static_cast<long>(first_), ring_.end());
    first_ = 0;
    ring_.resize(ring_.size() * 2);
  }
  ring_[(first_ + count_++) & (ring_.size() - 1)] = &thread;
}

void Worker::abort(Thread& thread) {
  launch.aborted = true;
  switchToMain(thread);
  __builtin_unreachable();
}

void Worker::finish(Thread& thread) {
  thread.inside = true;
  checkExit(thread);
  thread.state = State::DONE;
  ++activity;
  threadExits(thread);
  if (++thread.block->done == thread.block->threadCount()) {
    ended_ = thread.block;
    switchToMain(thread);
  }
  switchFrom(thread);
  __builtin_unreachable();
}

bool Worker::startBlock() {
  if (exhausted_ || resident_.size() >= launch.residentBlocks) return false;
  const uint32_t number = launch.nextBlock.fetch_add(1);
  if (number >= launch.blocks) {
    exhausted_ = true;
    return false;
  }
  if (spare_.empty()) spare_.push_back(takeBlock());
  blocks_.push_back(std::move(spare_.back()));
  spare_.pop_back();
  Block& block = *blocks_.back();
  resident_.push_back(&block);

  const LaunchConfig& config = launch.config;
  const dim3 size = config.block, grid = config.grid;
  const int threads = static_cast<int>(size.x * size.y * size.z), warps = (threads + WARP - 1) / WARP;
  block.worker = this;
  block.launch = &launch;
  block.serial = number + 1;
  block.index = dim3(number % grid.x, number / grid.x % grid.y, number / grid.x / grid.y);
  block.done = 0;
  block.mbarriers.clear();
  std::fill(std::begin(block.mbarrierClocks), std::end(block.mbarrierClocks), 1);
  for (Barrier& barrier : block.barriers) barrier = Barrier();
  block.warpgroups.assign((warps + WARPGROUP - 1) / WARPGROUP, Agreement());
  block.warps.clear();
  block.warps.resize(warps);
  block.threads.resize(threads);
  std::memset(block.shared, 0xff, config.sharedBytes);  // NaNs
  Ref<Clocks> nothing;
  if (launch.checked) {
    block.shadow.reset(config.sharedBytes, warps);
    nothing = Ref<Clocks>(new Clocks{0, Counts(components(block)), {}});
  }
  if (resident_.size() == 1) random_ = launch.seed * 2654435761u + number;
  for (int w = 0; w < warps; ++w) {
    Warp& warp = block.warps[w];
    warp.block = &block;
    warp.id = w;
    warp.lanes = &block.threads[w * WARP];
    const int lanes = std::min(WARP, threads - w * WARP);
    warp.exists = warp.live = lanes == WARP ? ~0u : (1u << lanes) - 1;
    warp.actorClock = 1;
  }
  for (int t = 0; t < threads; ++t) {
    Thread& thread = block.threads[t];
    if (block.stacks.size() == static_cast<size_t>(t)) block.stacks.push_back(createStack());
    thread = Thread();
    thread.stack = block.stacks[t];
    thread.context = prepareStack(thread.stack, t, enter);
    const unsigned u = static_cast<unsigned>(t);
    thread.threadIndex = dim3(u % size.x, u / size.x % size.y, u / (size.x * size.y));
    thread.blockIndex = block.index;
    thread.blockSize = size;
    thread.gridSize = grid;
    thread.shared = block.shared;
    thread.block = &block;
    thread.warp = &block.warps[t / WARP];
    thread.id = t;
    thread.lane = t % WARP;
    thread.known = nothing;
    thread.clock = 1;
    ready(thread);
  }
  ++statistics.blocks;
  return true;
}

void Worker::endBlock(Block& block) {
  finishTransfers(block);
  checkEnd(block);
  if (launch.checked) {
    for (Warp& warp : block.warps) foldTraffic(warp, statistics);
  }
  resident_.erase(std::find(resident_.begin(), resident_.end(), &block));
  const auto held = std::find_if(blocks_.begin(), blocks_.end(), [&](const auto& b) { return b.get() == &block; });
  spare_.push_back(std::move(*held));
  blocks_.erase(held);
  launch.progress.fetch_add(1);
}

// Lets the sleepers look again. False where nobody in the whole launch can go on: every worker has found that out at
// the same progress of the launch, however long the system lets one of them wait for a processor.
bool Worker::poll() {
  const uint64_t progress = launch.progress.load();
  const bool moved = progress != seenProgress_ || activity != seenActivity_;
  seenProgress_ = progress;
  seenActivity_ = activity;
  idleRounds_ = moved ? 0 : idleRounds_ + 1;
  const bool idle = idleRounds_ > PATIENCE;
  idleAt_ = idle ? progress : BUSY;
  if (idle && std::all_of(launch.workers.begin(), launch.workers.end(), [&](const auto& worker) {
        const uint64_t at = worker->idleAt_;
        return at == progress || at == ENDED;
      }))
    return false;
  if (idleRounds_ > 0) sched_yield();
  std::vector<Thread*> awake;
  awake.swap(sleeping);
  for (Thread* thread : awake) ready(*thread);
  return true;
}

void Worker::run() {
  while (!launch.aborted) {
    if (count_ == 0 && resident_.empty() && !startBlock()) break;
    if (Thread* thread = next()) {
      indices = thread;
      simt_switch_context(&context_, thread->context);
      if (ended_) endBlock(*std::exchange(ended_, nullptr));
      continue;
    }
    if (launch.aborted) break;
    bool moved = false;
    for (Block* block : resident_) moved |= finishTransfers(*block);
    if (moved) continue;
    // A block none of whose threads sleeps waits for itself.
    const bool stuck = std::any_of(resident_.begin(), resident_.end(), [&](const Block* block) {
      return std::none_of(sleeping.begin(), sleeping.end(), [&](const Thread* t) { return t->block == block; });
    });
    if (!stuck && (startBlock() || poll())) continue;
    launch.deadlocked = true;
    launch.aborted = true;
  }
  if (launch.deadlocked) describeDeadlock();
  idleAt_ = ENDED;
  indices = nullptr;
}

// "0-31, 40"
static std::string ranges(const std::vector<int>& numbers) {
  std::string text;
  for (size_t i = 0; i < numbers.size();) {
    size_t j = i;
    while (j + 1 < numbers.size() && numbers[j + 1] == numbers[j] + 1) ++j;
    text += (text.empty() ? "" : ", ") + std::to_string(numbers[i]);
    if (j > i) text += "-" + std::to_string(numbers[j]);
    i = j + 1;
  }
  return text;
}

void Worker::describeDeadlock() {
  constexpr int MOST = 4;
  int shown = 0;
  for (const Block* block : resident_) {
    if (++shown > MOST) {
      stuck += "\n      and " + std::to_string(resident_.size() - MOST) + " more blocks";
      break;
    }
    std::map<std::string, std::vector<int>> by;
    for (const Thread& thread : block->threads) by[describeThread(thread)].push_back(thread.id);
    for (const auto& [where, threads] : by) {
      stuck += "\n      " + describeBlock(*block) + " threads " + ranges(threads) + " " + where;
    }
  }
}

std::string describeBlock(const Block& block) {
  return "block (" + std::to_string(block.index.x) + ", " + std::to_string(block.index.y) + ", " +
         std::to_string(block.index.z) + ")";
}

std::string describeThread(const Thread& thread) {
  switch (thread.state) {
    case State::DONE: return "have ended";
    case State::READY: return "are ready";
    case State::ASLEEP: return "poll in " + mark(thread.site, thread.what);
    default: return "wait in " + mark(thread.site, thread.what);
  }
}

}  // namespace simt::emulator

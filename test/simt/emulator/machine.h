// The emulated machine: threads, warps, blocks, and the worker that runs blocks on one thread of the host.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "clocks.h"
#include "fiber.h"
#include "report.h"
#include "shadow.h"
#include "simt/emulator.cuh"
#include "traffic.h"

// The macros of kernels.
#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim

namespace simt::emulator {

constexpr int WARP = 32;
constexpr int WARPGROUP = 4;
constexpr int BARRIERS = 16;
constexpr int MAX_THREADS = 1024;
constexpr int MBARRIER_ACTORS = 32;  // which more mbarriers share
constexpr size_t MAX_SHARED = 227 << 10;

struct Block;
struct Warp;
struct Worker;
struct Launched;

enum class State : uint8_t { READY, AT_WARP, AT_BARRIER, AT_MBARRIER, ASLEEP, DONE };

// cp.async: the bytes move when the thread waits for them.
struct Copy {
  unsigned char* to;
  const unsigned char* from;
  int size, bytes;
  uint32_t place;
};

// A TMA store: shared memory is read when the thread waits for that, global memory written when it waits for all.
struct Store {
  TensorMap map;
  int at[4];
  const unsigned char* from;
  uint32_t place;
  std::vector<unsigned char> bytes;  // once read
};

// Accumulators of wgmma under way.
struct Accumulators {
  float* d;
  int count;
  Site site;
  std::vector<float> values;
  int pending;  // products that are still to be added
};

// The indices come first: kernels see them through `indices`, which is thus the running thread.
struct alignas(64) Thread : Indices {
  Block* block;
  Warp* warp;
  int id, lane;

  void* context;
  State state;
  bool inside;  // the emulator: its own accesses are none of the kernel's

  // Where it waits, or waited last, and with what.
  Site site;
  const char* what;
  void* argument;
  unsigned char* stack;
  uint64_t* mbarrier;
  uint32_t parity;

  std::vector<std::vector<Copy>> copies;  // committed groups, oldest first
  std::vector<Copy> openCopies;
  std::vector<std::vector<Store>> stores;  // likewise
  std::vector<Store> openStores;
  std::vector<Accumulators> accumulators;

  const uint32_t* polled;  // the last load_acquire, and what it saw
  uint32_t polledValue;

  Ref<Clocks> known;
  uint32_t clock;
  uint32_t fenceClock;  // writes up to it are seen by the async proxy
};

// A warp-wide operation that some of the lanes have come to.
struct Meeting {
  const char* what;
  uint32_t mask, arrived;
  bool aligned;
  Site site;
  void (*execute)(Warp&, void* const* arguments, uint32_t mask);
};

// A wgmma that one warp has issued.
struct Issued {
  Product product;
  uint32_t registers[WARP][4];  // A
  float* d[WARP];
  uint32_t place;
};

struct Warp {
  Block* block;
  int id;
  Thread* lanes;  // the first of its threads
  uint32_t exists, live;
  std::vector<Meeting> meetings;
  std::vector<std::vector<Issued>> products;  // committed groups, oldest first
  std::vector<Issued> openProducts;
  size_t issued;        // wgmma so far
  bool fenced;          // wgmma.fence since the last wait
  uint32_t actorClock;  // of its wgmma reads
  TrafficOfWarp traffic;
};

struct Barrier {
  int arrived = 0;
  int expected = 0;  // of the round under way; 0: all threads that have not ended
  std::vector<Thread*> waiting;
  uint32_t lanes[MAX_THREADS / WARP] = {};  // that arrived
  Site sites[MAX_THREADS / WARP] = {};      // where the first of them did
  Gathering gathered;
};

// A TMA load under way.
struct Transfer {
  TensorMap map;
  int at[4];
  unsigned char* to;
  uint32_t place;
  Thread* thread;
};

struct Mbarrier {
  uint64_t* address;
  uint32_t count, left, phase;
  int64_t bytes;                    // expected and not yet here
  int actor;                        // of its copies
  const Thread* fences;             // who initialised it and has not fenced yet, or null
  std::vector<Transfer> transfers;  // under way
  Gathering gathered;
  Ref<Clocks> ended;  // what the phases that ended let their waiters know
};

// The wgmma of a warpgroup, as the first of its warps issued them: the others must issue the same.
struct Agreed {
  uint64_t descA, descB;
  int columns;
  Site site;
};
using Agreement = std::vector<Agreed>;

struct Block {
  Worker* worker;
  Launched* launch;
  uint32_t serial;  // from 1
  dim3 index;
  unsigned char* shared;
  std::vector<unsigned char*> stacks;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::vector<Agreement> warpgroups;
  Barrier barriers[BARRIERS];
  std::vector<std::unique_ptr<Mbarrier>> mbarriers;
  uint32_t mbarrierClocks[MBARRIER_ACTORS];
  SharedShadow shadow;
  int done;

  int threadCount() const { return static_cast<int>(threads.size()); }
  int warpCount() const { return static_cast<int>(warps.size()); }
};

// Components of clocks: threads, warps' wgmma, mbarriers' copies.
inline int warpActor(const Block& block, int warp) { return block.threadCount() + warp; }
inline int mbarrierActor(const Block& block, int actor) { return block.threadCount() + block.warpCount() + actor; }
inline int components(const Block& block) { return mbarrierActor(block, MBARRIER_ACTORS); }

struct Launched {
  LaunchConfig config;
  void (*body)(const void*);
  const void* call;
  bool checked;
  unsigned seed;
  uint32_t blocks, residentBlocks;
  std::atomic<uint32_t> nextBlock{0};
  std::atomic<uint64_t> progress{0};  // of blocks, as others may see it
  std::vector<std::unique_ptr<Worker>> workers;
  std::atomic<bool> aborted{false}, deadlocked{false};
};

struct Worker {
  explicit Worker(Launched& launch, int number) : launch(launch), number(number) {}
  ~Worker();
  // Runs blocks until none is left or the launch is given up.
  void run();

  void ready(Thread&);
  // From a thread that waits: others run until it is ready again.
  void suspend(Thread&, State, Site, const char* what);
  // Ends the launch from within a thread.
  [[noreturn]] void abort(Thread&);
  [[noreturn]] void finish(Thread&);

  Launched& launch;
  int number;
  Statistics statistics;
  std::vector<Thread*> sleeping;
  uint64_t activity = 0;  // threads woken by others
  std::string stuck;      // its part of the report of a deadlock

 private:
  static constexpr uint64_t BUSY = ~uint64_t{0}, ENDED = BUSY - 1;

  bool startBlock();
  void endBlock(Block&);
  Thread* next();
  void switchFrom(Thread&);
  void switchToMain(Thread&);
  bool poll();
  void describeDeadlock();

  void* context_ = nullptr;
  std::vector<Thread*> ring_ = std::vector<Thread*>(64);
  size_t first_ = 0, count_ = 0;
  uint32_t random_ = 0;
  int idleRounds_ = 0;
  uint64_t seenProgress_ = 0, seenActivity_ = 0;
  std::atomic<uint64_t> idleAt_{BUSY};  // the launch's progress at which nobody here could go on
  std::vector<Block*> resident_;
  std::vector<std::unique_ptr<Block>> blocks_, spare_;
  Block* ended_ = nullptr;
  bool exhausted_ = false;
};

// How threads give way. Inlined, as returns after a switch of stacks are mispredicted, each of them.

inline uint32_t step(uint32_t& random) {
  random = random * 1664525u + 1013904223u;
  return random >> 8;
}

inline Thread* Worker::next() {
  if (count_ == 0 || launch.aborted.load(std::memory_order_relaxed)) return nullptr;
  const size_t mask = ring_.size() - 1;
  if (launch.seed) std::swap(ring_[first_], ring_[(first_ + step(random_) % count_) & mask]);
  Thread* thread = ring_[first_];
  first_ = (first_ + 1) & mask;
  --count_;
  return thread;
}

inline __attribute__((always_inline)) void Worker::switchToMain(Thread& from) {
  indices = nullptr;
  simt_switch_context(&from.context, context_);
}

inline __attribute__((always_inline)) void Worker::switchFrom(Thread& from) {
  Thread* to = next();
  if (to == &from) return;
  if (!to) return switchToMain(from);
  indices = to;
  simt_switch_context(&from.context, to->context);
}

inline __attribute__((always_inline)) void Worker::suspend(Thread& thread, State state, Site site, const char* what) {
  thread.state = state;
  thread.site = site;
  thread.what = what;
  if (state == State::ASLEEP) sleeping.push_back(&thread);
  switchFrom(thread);
}

inline Thread* running() { return const_cast<Thread*>(static_cast<const Thread*>(indices)); }

// In every function that kernels call: templates that both kernels and the emulator use may have been compiled with
// hooks.
class Inside {
 public:
  Inside() : thread_(*running()) { thread_.inside = true; }
  ~Inside() { thread_.inside = false; }
  Inside(const Inside&) = delete;
  Inside& operator=(const Inside&) = delete;

 private:
  Thread& thread_;
};

// ---- between the files

void checkExit(Thread&);       // what a thread must not leave behind
void threadExits(Thread&);     // barriers and warps that need not wait for it any more
void checkEnd(Block&);         // what a block must not leave behind
bool finishTransfers(Block&);  // TMA loads that are under way; false where there were none
std::string describeThread(const Thread&);
std::string describeBlock(const Block&);

void nextEpoch();       // of global memory: launches are ordered
void forgetCounters();  // of acquire and release
void add(Statistics& to, const Statistics&);

}  // namespace simt::emulator

// syncthreads and named barriers, mbarriers, and what orders blocks: acquire and release.

#include <algorithm>
#include <map>

#include "copies.h"
#include "warp.h"

namespace simt::emulator {

namespace {

// Adds what `thread` knows and has done, and starts a new period of its clock.
void release(Thread& thread, Gathering& to) {
  to.add(thread.known);
  to.add(thread.id, thread.clock++);
}

int threadsThatLive(const Block& block) { return block.threadCount() - block.done; }

[[noreturn]] void misuse(Thread& me, Site site, const char* what, const std::string& text) {
  find(
      Kind::SYNCHRONISATION, mark(site, what) + text,
      text + "\n      " + mark(site, what) + " by thread " + std::to_string(me.id) + " of " + describeBlock(*me.block));
  me.block->worker->abort(me);
}

void complete(Block& block, Barrier& barrier, Thread* last) {
  for (Warp& warp : block.warps) {
    const uint32_t came = barrier.lanes[warp.id];
    if (came == 0 || (came & warp.live) == warp.live) continue;
    find(Kind::SYNCHRONISATION, mark(barrier.sites[warp.id], "barrier"),
         "only part of warp " + std::to_string(warp.id) + " of " + describeBlock(block) + " came to " +
             mark(barrier.sites[warp.id], "the barrier"));
  }
  if (block.launch->checked) {
    const Ref<Clocks> known = barrier.gathered.take();
    if (last) last->known = known;
    for (Thread* thread : barrier.waiting) thread->known = known;
  }
  barrier.arrived = 0;
  std::fill(std::begin(barrier.lanes), std::end(barrier.lanes), 0);
  std::vector<Thread*> waiting;
  waiting.swap(barrier.waiting);
  for (Thread* thread : waiting) block.worker->ready(*thread);
  // Keeps the vector's memory.
  waiting.clear();
  if (barrier.waiting.empty()) barrier.waiting.swap(waiting);
}

// Apart from arriveAt, whose frame is to be small: many threads wait in it.
[[noreturn]] __attribute__((noinline)) void refuse(Thread& me, const Barrier& barrier, int id, int expected, Site site,
                                                   const char* what) {
  const std::string name = "barrier " + std::to_string(id);
  const Site first = barrier.sites[me.warp->id];
  if (barrier.expected != expected) misuse(me, site, what, name + " is waited for with different numbers of threads");
  if (barrier.lanes[me.warp->id] >> me.lane & 1) misuse(me, site, what, "a thread arrives twice at " + name);
  misuse(me, site, what,
         "lanes of a warp come to a barrier from different places, " + mark(first, nullptr) + " and " +
             mark(site, nullptr));
}

inline __attribute__((always_inline)) void arriveAt(int id, int expected, bool waits, Site site, const char* what) {
  Thread& me = *running();
  Block& block = *me.block;
  Barrier& barrier = block.barriers[id];
  const int warp = me.warp->id;
  if (barrier.arrived == 0) barrier.expected = expected;
  if (barrier.lanes[warp] == 0) barrier.sites[warp] = site;
  if (barrier.expected != expected || barrier.lanes[warp] >> me.lane & 1 || barrier.sites[warp].line != site.line ||
      barrier.sites[warp].file != site.file) {
    refuse(me, barrier, id, expected, site, what);
  }
  barrier.lanes[warp] |= 1u << me.lane;
  ++barrier.arrived;
  if (me.lane == 0) ++block.worker->statistics.barriers;
  if (block.launch->checked) release(me, barrier.gathered);
  if (barrier.arrived == (expected ? expected : threadsThatLive(block))) {
    complete(block, barrier, waits ? &me : nullptr);
  } else if (waits) {
    barrier.waiting.push_back(&me);
    block.worker->suspend(me, State::AT_BARRIER, site, what);
  }
}

}  // namespace

void syncthreads(Site site) {
  const Inside inside;
  arriveAt(0, 0, true, site, "syncthreads");
}

void barrier(int id, int threads, bool waits, Site site) {
  const Inside inside;
  const char* what = waits ? "bar_sync" : "bar_arrive";
  if (id < 0 || id >= BARRIERS) misuse(*running(), site, what, "there is no barrier " + std::to_string(id));
  if (threads <= 0 || threads % WARP) {
    misuse(*running(), site, what, std::to_string(threads) + " threads are not a number of whole warps");
  }
  arriveAt(id, threads, waits, site, what);
}

void threadExits(Thread& thread) {
  Block& block = *thread.block;
  warpLoses(*thread.warp, thread.lane);
  Barrier& all = block.barriers[0];
  // The thread is not yet counted among the ended.
  if (all.arrived && all.expected == 0 && all.arrived == threadsThatLive(block) - 1) complete(block, all, nullptr);
}

// ---- mbarriers

namespace {

Mbarrier* findMbarrier(Block& block, const uint64_t* address) {
  for (const auto& m : block.mbarriers) {
    if (m->address == address) return m.get();
  }
  return nullptr;
}

Mbarrier& mbarrierAt(Thread& me, uint64_t* address, Site site, const char* what) {
  Mbarrier* m = findMbarrier(*me.block, address);
  if (!m) misuse(me, site, what, "not an initialised mbarrier");
  // Its users must come after its initialisation.
  if (me.block->launch->checked) check(me, {address, 8, false, placeOf(site, what), Proxy::GENERIC});
  return *m;
}

void endPhase(Block& block, Mbarrier& m) {
  if (m.left || m.bytes) return;
  m.phase ^= 1;
  m.left = m.count;
  const bool checked = block.launch->checked;
  if (checked) {
    m.gathered.add(mbarrierActor(block, m.actor), block.mbarrierClocks[m.actor]++);
    const Ref<Clocks> now = m.gathered.take();
    m.ended = m.ended ? joined(m.ended, now) : now;
  }
  for (Thread& thread : block.threads) {
    if (thread.state != State::AT_MBARRIER || thread.mbarrier != m.address || thread.parity == m.phase) continue;
    if (checked) thread.known = joined(thread.known, m.ended);
    block.worker->ready(thread);
  }
}

void finishTransfersOf(Block& block, Mbarrier& m) {
  while (!m.transfers.empty()) {
    const Transfer transfer = m.transfers.front();
    m.transfers.erase(m.transfers.begin());
    m.bytes -= static_cast<int64_t>(finishLoad(block, transfer, m));
    endPhase(block, m);
  }
}

}  // namespace

void initBarrier(uint64_t* bar, uint32_t arrivals, Site site) {
  const Inside inside;
  Thread& me = *running();
  Block& block = *me.block;
  if (!isSharedOf(me, bar, 8) || reinterpret_cast<size_t>(bar) % 8) {
    misuse(me, site, "mbar_init", "an mbarrier is 8 aligned bytes of shared memory");
  }
  if (arrivals == 0 || arrivals >= 1 << 20) misuse(me, site, "mbar_init", "1 to 2^20 - 1 arrivals");
  if (block.launch->checked) check(me, {bar, 8, true, placeOf(site, "mbar_init")});
  Mbarrier* m = findMbarrier(block, bar);
  if (!m) {
    const int actor = static_cast<int>(block.mbarriers.size()) % MBARRIER_ACTORS;
    block.mbarriers.push_back(std::make_unique<Mbarrier>());
    m = block.mbarriers.back().get();
    m->address = bar;
    m->actor = actor;
  }
  m->count = m->left = arrivals;
  m->phase = 0;
  m->bytes = 0;
  m->fences = &me;
}

static void fenceBarriers(Thread& me) {
  for (const auto& m : me.block->mbarriers) {
    if (m->fences == &me) m->fences = nullptr;
  }
}

void fenceBarrierInit(Site) {
  const Inside inside;
  fenceBarriers(*running());
}

void fenceProxyAsync(Site) {
  const Inside inside;
  Thread& me = *running();
  fenceBarriers(me);
  me.fenceClock = me.clock++;
}

void arrive(uint64_t* bar, uint32_t bytes, Site site) {
  const Inside inside;
  Thread& me = *running();
  const char* what = bytes ? "mbar_expect_tx" : "mbar_arrive";
  Mbarrier& m = mbarrierAt(me, bar, site, what);
  if (m.left == 0) misuse(me, site, what, "more arrivals in a phase than the mbarrier was initialised with");
  if (me.block->launch->checked) release(me, m.gathered);
  m.bytes += bytes;
  --m.left;
  endPhase(*me.block, m);
}

void wait(uint64_t* bar, uint32_t parity, Site site) {
  const Inside inside;
  Thread& me = *running();
  Mbarrier& m = mbarrierAt(me, bar, site, "mbar_wait");
  // Copies may take until someone needs them.
  if (m.phase == parity) finishTransfersOf(*me.block, m);
  if (m.phase != parity) {
    if (me.block->launch->checked && m.ended) me.known = joined(me.known, m.ended);
    return;
  }
  me.mbarrier = bar;
  me.parity = parity;
  me.block->worker->suspend(me, State::AT_MBARRIER, site, "mbar_wait");
}

void beginTransfer(Thread& me, uint64_t* bar, Transfer transfer, Site site, const char* what) {
  Mbarrier& m = mbarrierAt(me, bar, site, what);
  if (m.fences) {
    find(Kind::PROXY, mark(site, what) + " bar",
         "an mbarrier whose initialisation was not followed by fence_barrier_init\n      " + mark(site, what));
  }
  m.transfers.push_back(std::move(transfer));
}

bool finishTransfers(Block& block) {
  bool any = false;
  for (size_t i = 0; i < block.mbarriers.size(); ++i) {
    any |= !block.mbarriers[i]->transfers.empty();
    finishTransfersOf(block, *block.mbarriers[i]);
  }
  return any;
}

// ---- between blocks

namespace {

// What those who added to a counter knew. Checked launches, which one thread of the host runs.
std::map<const uint32_t*, std::map<uint32_t, Counts>> released;

bool usableCounter(Thread& me, const uint32_t* p, bool write, Site site, const char* what) {
  if (!isGlobal(p) || reinterpret_cast<size_t>(p) % 4) {
    misuse(me, site, what, "a counter is an aligned word of global memory");
  }
  if (!me.block->launch->checked) return true;
  return check(me, {p, 4, write, placeOf(site, what), Proxy::GENERIC, -1, true});
}

void acquire(Thread& me, const uint32_t* p) {
  const auto found = released.find(p);
  if (found == released.end()) return;
  Ref<Clocks> all(new Clocks{0, me.known->counts, {}});
  Ref<Foreign> foreign(new Foreign{0, found->second});
  const auto own = foreign->blocks.find(me.block->serial);
  if (own != foreign->blocks.end()) {
    raise(all->counts, own->second);
    foreign->blocks.erase(own);
  }
  all->foreign = joined(me.known->foreign, foreign);
  me.known = all;
}

}  // namespace

void forgetCounters() { released.clear(); }

uint32_t loadAcquire(const uint32_t* p, Site site) {
  const Inside inside;
  Thread& me = *running();
  Worker& worker = *me.block->worker;
  const bool usable = usableCounter(me, p, false, site, "load_acquire");
  uint32_t value = usable ? __atomic_load_n(p, __ATOMIC_ACQUIRE) : 0;
  if (usable && me.polled == p && me.polledValue == value) {
    // It sees the same again: others' turn.
    worker.suspend(me, State::ASLEEP, site, "load_acquire");
    value = __atomic_load_n(p, __ATOMIC_ACQUIRE);
  }
  me.polled = p;
  me.polledValue = value;
  if (me.block->launch->checked) acquire(me, p);
  return value;
}

void addRelease(uint32_t* p, uint32_t v, Site site) {
  const Inside inside;
  Thread& me = *running();
  if (!usableCounter(me, p, true, site, "add_release")) return;
  if (me.block->launch->checked) {
    std::map<uint32_t, Counts>& known = released[p];
    Counts& own = known[me.block->serial];
    raise(own, me.known->counts);
    if (own.size() <= static_cast<size_t>(me.id)) own.resize(me.id + 1);
    own[me.id] = std::max(own[me.id], me.clock++);
    if (me.known->foreign) raise(known, me.known->foreign->blocks);
  }
  __atomic_fetch_add(p, v, __ATOMIC_RELEASE);
  me.block->launch->progress.fetch_add(1);
}

void pause(Site site) {
  const Inside inside;
  running()->block->worker->suspend(*running(), State::ASLEEP, site, "sleep");
}

}  // namespace simt::emulator

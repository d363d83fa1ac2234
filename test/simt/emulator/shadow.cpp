// The checks of every access: bounds, initialisation, order, proxies, asynchronous copies under way.
#include "shadow.h"

#include <cstring>

#include "machine.h"
#include "memory.h"

namespace simt::emulator {

namespace {

enum : uint8_t { INITIALISED_SHARED = 1, IN_FLIGHT_WRITE = 2, GENERIC_WRITE = 4 };

// Which launch, of which the history of global memory speaks.
uint32_t epoch;

uint64_t pack(uint32_t block, int thread, uint32_t clock) {
  return uint64_t(block) << 42 | uint64_t(thread) << 32 | clock;
}

bool happenedBefore(const Thread& me, int component, uint32_t clock) {
  return component == me.id ? clock <= me.clock : clock <= me.known->counts[component];
}

bool happenedBefore(const Thread& me, uint64_t event) {
  const auto block = static_cast<uint32_t>(event >> 42), clock = static_cast<uint32_t>(event);
  const int thread = static_cast<int>(event >> 32 & 1023);
  if (block == me.block->serial) return happenedBefore(me, thread, clock);
  if (!me.known->foreign) return false;
  const auto found = me.known->foreign->blocks.find(block);
  return found != me.known->foreign->blocks.end() && clock <= found->second[thread];
}

std::string who(const Block& block, int component) {
  if (component >= mbarrierActor(block, 0)) return "a TMA copy";
  if (component >= block.threadCount()) return "wgmma of warp " + std::to_string(component - block.threadCount());
  return "thread " + std::to_string(component);
}

std::string who(const Thread& thread) {
  return "thread " + std::to_string(thread.id) + " of " + describeBlock(*thread.block);
}

std::string blockName(const Thread& thread, uint32_t serial) {
  const dim3 grid = thread.gridSize;
  const uint32_t n = serial - 1;
  return "block (" + std::to_string(n % grid.x) + ", " + std::to_string(n / grid.x % grid.y) + ", " +
         std::to_string(n / grid.x / grid.y) + ")";
}

const char* verb(bool write) { return write ? "write" : "read"; }

std::string keyOf(uint32_t a, uint32_t b, const char* what) {
  return std::to_string(a) + " " + std::to_string(b) + " " + what;
}

std::string doing(const Thread& me, const Access& access) {
  return std::string(verb(access.write)) + " by " + who(me) + ", " + mark(access.place);
}

// ---- shared memory

bool checkSharedByte(Thread& me, const Access& access, size_t offset, bool quiet) {
  Block& block = *me.block;
  SharedCell& cell = block.shadow.cell(offset);
  const bool write = access.write;
  const auto name = [&] { return "shared byte " + std::to_string(offset); };
  const int self = access.actor >= 0 ? access.actor : me.id;
  bool fine = true;
  if (!access.finishing && !quiet) {
    if (cell.flags & IN_FLIGHT_WRITE) {
      find(Kind::IN_FLIGHT, keyOf(access.place, cell.asyncPlace, "w"),
           name() + " is still being written by " + mark(cell.asyncPlace) + "\n      " + doing(me, access));
      fine = false;
    } else if (write && cell.reading) {
      find(Kind::IN_FLIGHT, keyOf(access.place, cell.asyncPlace, "r"),
           name() + " is still being read by " + mark(cell.asyncPlace) + "\n      " + doing(me, access));
      fine = false;
    }
    if (fine && !write && !(cell.flags & INITIALISED_SHARED)) {
      find(Kind::UNINITIALISED, keyOf(access.place, 0, "s"),
           name() + " has not been written\n      " + doing(me, access));
      fine = false;
    }
    if (fine && cell.writeClock && cell.writer != self && !happenedBefore(me, cell.writer, cell.writeClock)) {
      find(Kind::RACE, keyOf(access.place, cell.writePlace, write ? "ww" : "rw"),
           name() + "\n      " + doing(me, access) + "\n      not ordered after the write by " +
               who(block, cell.writer) + ", " + mark(cell.writePlace));
      fine = false;
    }
    if (fine && access.proxy == Proxy::ASYNC && cell.flags & GENERIC_WRITE &&
        cell.writeClock > block.threads[cell.writer].fenceClock) {
      find(Kind::PROXY, keyOf(access.place, cell.writePlace, "p"),
           name() + " needs fence.proxy.async of its writer\n      asynchronous " + doing(me, access) +
               "\n      after the write by " + who(block, cell.writer) + ", " + mark(cell.writePlace));
      fine = false;
    }
  }
  const uint32_t clock = access.actor < 0 ? me.clock
                         : access.actor < mbarrierActor(block, 0)
                             ? me.warp->actorClock
                             : block.mbarrierClocks[access.actor - mbarrierActor(block, 0)];
  if (!write) {
    const int slot = access.actor >= 0 ? block.warpCount() + me.warp->id : me.warp->id;
    SharedRead& read = block.shadow.read(offset, slot);
    cell.readers |= uint64_t(1) << slot;
    read = {clock, static_cast<uint32_t>(self), access.place};
    return fine;
  }
  for (uint64_t left = cell.readers; left && fine && !access.finishing; left &= left - 1) {
    const SharedRead& read = block.shadow.read(offset, __builtin_ctzll(left));
    if (read.component == self || happenedBefore(me, read.component, read.clock)) continue;
    find(Kind::RACE, keyOf(access.place, read.place, "wr"),
         name() + "\n      " + doing(me, access) + "\n      not ordered after the read by " +
             who(block, read.component) + ", " + mark(read.place));
    fine = false;
  }
  cell.readers = 0;
  cell.writeClock = clock;
  cell.writePlace = access.place;
  cell.writer = static_cast<uint16_t>(self);
  cell.flags = INITIALISED_SHARED | (access.proxy == Proxy::GENERIC ? GENERIC_WRITE : 0);
  return fine;
}

// The common case, ordinary accesses that are in order: how many of the bytes it has dealt with.
size_t passShared(Thread& me, const Access& access, size_t offset) {
  SharedShadow& shadow = me.block->shadow;
  SharedCell* cells = shadow.cells(offset, access.bytes);
  const uint32_t* known = me.known->counts.data();
  const int id = me.id, slot = me.warp->id;
  const uint64_t own = uint64_t(1) << slot;
  for (size_t i = 0; i < access.bytes; ++i) {
    SharedCell& cell = cells[i];
    if (cell.writer != id && cell.writeClock > known[cell.writer]) return i;
    SharedRead& read = shadow.read(offset + i, slot);
    if (!access.write) {
      if ((cell.flags & (INITIALISED_SHARED | IN_FLIGHT_WRITE)) != INITIALISED_SHARED) return i;
      cell.readers |= own;
      read = {me.clock, static_cast<uint32_t>(id), access.place};
      continue;
    }
    if (cell.flags & IN_FLIGHT_WRITE || cell.reading) return i;
    for (uint64_t left = cell.readers; left; left &= left - 1) {
      const SharedRead& earlier = shadow.read(offset + i, __builtin_ctzll(left));
      if (earlier.component != static_cast<uint32_t>(id) && earlier.clock > known[earlier.component]) return i;
    }
    cell.readers = 0;
    cell.writeClock = me.clock;
    cell.writePlace = access.place;
    cell.writer = static_cast<uint16_t>(id);
    cell.flags = INITIALISED_SHARED | GENERIC_WRITE;
  }
  return access.bytes;
}

bool checkShared(Thread& me, const Access& access) {
  SharedShadow& shadow = me.block->shadow;
  const size_t offset = static_cast<size_t>(static_cast<const unsigned char*>(access.address) - me.shared);
  if (offset >= shadow.bytes() || shadow.bytes() - offset < access.bytes) {
    find(Kind::OUT_OF_BOUNDS, keyOf(access.place, 0, "s"),
         "byte " + std::to_string(static_cast<long>(offset)) + " of " + std::to_string(shadow.bytes()) +
             " of shared memory\n      " + doing(me, access));
    return false;
  }
  const bool ordinary = access.proxy == Proxy::GENERIC && access.actor < 0 && !access.finishing && access.bytes <= 16;
  bool fine = true;
  for (size_t i = ordinary ? passShared(me, access, offset) : 0; i < access.bytes; ++i) {
    fine &= checkSharedByte(me, access, offset + i, !fine);
  }
  return true;
}

// ---- global memory

bool checkGlobalByte(Thread& me, const Access& access, GlobalCell& cell, bool quiet) {
  if (cell.state >> STATE_BITS != epoch) {
    cell.state = (cell.state & (ALLOCATED | INITIALISED)) | epoch << STATE_BITS;
    cell.write = cell.reads[0] = cell.reads[1] = 0;
  }
  const auto name = [&] { return "global memory " + std::to_string(offsetOf(access.address)); };
  const auto other = [&](uint64_t event) {
    return "thread " + std::to_string(event >> 32 & 1023) + " of " + blockName(me, static_cast<uint32_t>(event >> 42));
  };
  const bool write = access.write;
  bool fine = true;
  if (!quiet) {
    if (!write && !(cell.state & INITIALISED)) {
      find(Kind::UNINITIALISED, keyOf(access.place, 0, "g"),
           "global memory that has not been written\n      " + doing(me, access));
      fine = false;
    }
    if (fine && cell.write && !(access.atomic && cell.state & WRITE_ATOMIC) && !happenedBefore(me, cell.write)) {
      find(Kind::RACE, keyOf(access.place, cell.writePlace, write ? "gww" : "grw"),
           name() + "\n      " + doing(me, access) + "\n      not ordered after the write by " + other(cell.write) +
               ", " + mark(cell.writePlace));
      fine = false;
    }
  }
  const uint64_t now = pack(me.block->serial, me.id, me.clock);
  // Atomic reads conflict with plain writes, which nobody makes to a counter that others poll.
  if (!write && access.atomic) return fine;
  if (!write) {
    if (!cell.reads[0] || cell.reads[0] >> 32 == now >> 32 || happenedBefore(me, cell.reads[0])) {
      cell.reads[0] = now;
      cell.readPlaces[0] = access.place;
    } else {
      cell.reads[1] = cell.reads[0];
      cell.readPlaces[1] = cell.readPlaces[0];
      cell.reads[0] = now;
      cell.readPlaces[0] = access.place;
    }
    return fine;
  }
  for (int i = 0; i < 2 && fine && !quiet; ++i) {
    if (!cell.reads[i] || happenedBefore(me, cell.reads[i])) continue;
    find(Kind::RACE, keyOf(access.place, cell.readPlaces[i], "gwr"),
         name() + "\n      " + doing(me, access) + "\n      not ordered after the read by " + other(cell.reads[i]) +
             ", " + mark(cell.readPlaces[i]));
    fine = false;
  }
  cell.reads[0] = cell.reads[1] = 0;
  cell.write = now;
  cell.writePlace = access.place;
  cell.state = (cell.state & ~uint32_t(WRITE_ATOMIC)) | INITIALISED | (access.atomic ? WRITE_ATOMIC : 0);
  return fine;
}

bool checkGlobal(Thread& me, const Access& access) {
  bool fine = true;
  for (size_t i = 0; i < access.bytes; ++i) {
    const auto* p = static_cast<const unsigned char*>(access.address) + i;
    if (!isGlobal(p) || !(globalCell(p).state & ALLOCATED)) {
      find(Kind::OUT_OF_BOUNDS, keyOf(access.place, 0, "g"),
           "global memory that is not allocated\n      " + doing(me, access));
      return false;
    }
    fine &= checkGlobalByte(me, access, globalCell(p), !fine);
  }
  return true;
}

}  // namespace

void nextEpoch() { epoch = epoch + 1 < 1u << (32 - STATE_BITS) ? epoch + 1 : 1; }

bool check(Thread& me, const Access& access) {
  return isShared(access.address) ? checkShared(me, access) : checkGlobal(me, access);
}

void nonCoherent(const void* p, size_t bytes, Site site) {
  const Inside inside;
  Thread& me = *running();
  if (!me.block->launch->checked) return;
  const uint32_t place = placeOf(site, "ld4_nc");
  for (size_t i = 0; i < bytes; ++i) {
    const auto* byte = static_cast<const unsigned char*>(p) + i;
    if (!isGlobal(byte)) {
      find(Kind::OUT_OF_BOUNDS, keyOf(place, 0, "nc"), "not in global memory\n      " + mark(place));
      return;
    }
    const GlobalCell& cell = globalCell(byte);
    if (cell.state >> STATE_BITS != epoch || !cell.write) continue;
    find(Kind::RACE, keyOf(place, cell.writePlace, "nc"),
         "memory that this launch writes\n      non-coherent read by " + who(me) + ", " + mark(place) +
             "\n      write, " + mark(cell.writePlace));
    return;
  }
}

void beginWrite(Thread& me, const void* address, size_t bytes, uint32_t place) {
  const auto offset = static_cast<size_t>(static_cast<const unsigned char*>(address) - me.shared);
  for (size_t i = 0; i < bytes; ++i) {
    SharedCell& cell = me.block->shadow.cell(offset + i);
    cell.flags |= IN_FLIGHT_WRITE;
    cell.asyncPlace = place;
  }
}

void beginRead(Thread& me, const void* address, size_t bytes, uint32_t place) {
  const auto offset = static_cast<size_t>(static_cast<const unsigned char*>(address) - me.shared);
  for (size_t i = 0; i < bytes; ++i) {
    SharedCell& cell = me.block->shadow.cell(offset + i);
    ++cell.reading;
    cell.asyncPlace = place;
  }
}

void endRead(Block& block, const void* address, size_t bytes) {
  const auto offset = static_cast<size_t>(static_cast<const unsigned char*>(address) - block.shared);
  for (size_t i = 0; i < bytes; ++i) {
    SharedCell& cell = block.shadow.cell(offset + i);
    if (cell.reading) --cell.reading;
  }
}

void SharedShadow::reset(size_t bytes, int warps) {
  bytes_ = bytes;
  const int slots = 2 * warps;
  // Reads need no reset: cells tell which of them count.
  if (cells_.size() < bytes) cells_.resize(bytes);
  if (reads_.size() < cells_.size() * static_cast<size_t>(slots))
    reads_.resize(cells_.size() * static_cast<size_t>(slots));
  stamps_.resize((cells_.size() >> PAGE) + 1);
  if (++stamp_ == 0) {
    std::fill(stamps_.begin(), stamps_.end(), 0);
    stamp_ = 1;
  }
}

void SharedShadow::clear(size_t page) {
  const size_t first = page << PAGE, last = std::min(first + (size_t(1) << PAGE), cells_.size());
  std::memset(&cells_[first], 0, (last - first) * sizeof(SharedCell));
  stamps_[page] = stamp_;
}

}  // namespace simt::emulator

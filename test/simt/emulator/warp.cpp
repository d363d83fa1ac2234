// Operations of a whole warp: lanes meet, the last one carries the operation out for all.

#include "warp.h"

#include <cstring>

#include "machine.h"

namespace simt::emulator {

namespace {

void complete(Warp& warp, size_t index, Thread* last) {
  const Meeting meeting = warp.meetings[index];
  warp.meetings.erase(warp.meetings.begin() + static_cast<long>(index));
  void* arguments[WARP];
  for (int i = 0; i < WARP; ++i) arguments[i] = meeting.arrived >> i & 1 ? warp.lanes[i].argument : nullptr;
  if (meeting.execute) meeting.execute(warp, arguments, meeting.arrived);
  for (uint32_t left = meeting.arrived; left; left &= left - 1) {
    Thread& thread = warp.lanes[__builtin_ctz(left)];
    if (&thread != last) warp.block->worker->ready(thread);
  }
}

bool isWhole(const Warp& warp, const Meeting& meeting) {
  return (meeting.arrived & warp.live) == (meeting.mask & warp.live);
}

// Apart from meet, whose frame is to be small: many threads wait in it.
[[noreturn]] __attribute__((noinline)) void refuse(Thread& me, uint32_t mask, const char* what, Site site) {
  const bool member = mask >> me.lane & 1;
  find(Kind::SYNCHRONISATION, mark(site, what),
       mark(site, what) + (member ? " by a warp some of whose lanes do not exist or have ended"
                                  : " by a lane that is not in its mask"));
  me.block->worker->abort(me);
}

}  // namespace

void meet(const char* what, uint32_t mask, bool aligned, void* argument, Execute execute, Site site) {
  Thread& me = *running();
  Warp& warp = *me.warp;
  mask &= warp.exists;
  if (!(mask >> me.lane & 1) || (aligned && warp.live != ~0u)) refuse(me, mask, what, site);
  me.argument = argument;
  size_t index = 0;
  for (; index < warp.meetings.size(); ++index) {
    const Meeting& other = warp.meetings[index];
    if (other.execute == execute && other.mask == mask && !(other.arrived >> me.lane & 1) &&
        (!aligned || (other.site.line == site.line && other.site.file == site.file))) {
      break;
    }
  }
  if (index == warp.meetings.size()) warp.meetings.push_back({what, mask, 0, aligned, site, execute});
  Meeting& meeting = warp.meetings[index];
  meeting.arrived |= 1u << me.lane;
  if (isWhole(warp, meeting)) {
    complete(warp, index, &me);
  } else {
    me.block->worker->suspend(me, State::AT_WARP, site, what);
  }
}

void warpLoses(Warp& warp, int lane) {
  warp.live &= ~(1u << lane);
  for (size_t i = 0; i < warp.meetings.size();) {
    if (isWhole(warp, warp.meetings[i]) && !warp.meetings[i].aligned) {
      complete(warp, i, nullptr);
    } else {
      ++i;
    }
  }
}

int lane() { return running()->lane; }

// ---- syncwarp, shuffles

void syncwarp(uint32_t mask, Site site) {
  const Inside inside;
  meet(
      "syncwarp", mask, false, nullptr,
      [](Warp& warp, void* const*, uint32_t lanes) {
        if (!warp.block->launch->checked) return;
        Gathering all;
        for (uint32_t left = lanes; left; left &= left - 1) all.add(warp.lanes[__builtin_ctz(left)].known);
        for (uint32_t left = lanes; left; left &= left - 1) {
          Thread& thread = warp.lanes[__builtin_ctz(left)];
          all.add(thread.id, thread.clock++);
        }
        const Ref<Clocks> known = all.take();
        for (uint32_t left = lanes; left; left &= left - 1) warp.lanes[__builtin_ctz(left)].known = known;
      },
      site);
}

namespace {

struct Shuffle {
  uint64_t value, result;
  int source;
};

}  // namespace

uint64_t shuffle(uint64_t value, int source, Site site) {
  const Inside inside;
  Shuffle mine = {value, 0, source};
  meet(
      "shfl", ~0u, false, &mine,
      [](Warp& warp, void* const* arguments, uint32_t lanes) {
        ++warp.block->worker->statistics.shuffles;
        for (uint32_t left = lanes; left; left &= left - 1) {
          auto& to = *static_cast<Shuffle*>(arguments[__builtin_ctz(left)]);
          const auto* from = static_cast<Shuffle*>(arguments[to.source]);
          to.result = from ? from->value : ~uint64_t(0);  // of a lane that has ended: undefined
        }
      },
      site);
  return mine.result;
}

uint32_t ballot(bool predicate, Site site) {
  const Inside inside;
  Shuffle mine = {predicate, 0, 0};
  meet(
      "ballot", ~0u, false, &mine,
      [](Warp& warp, void* const* arguments, uint32_t lanes) {
        ++warp.block->worker->statistics.shuffles;
        uint32_t bits = 0;
        for (int i = 0; i < WARP; ++i) {
          if (lanes >> i & 1) bits |= static_cast<uint32_t>(static_cast<Shuffle*>(arguments[i])->value) << i;
        }
        for (int i = 0; i < WARP; ++i) {
          if (lanes >> i & 1) static_cast<Shuffle*>(arguments[i])->result = bits;
        }
      },
      site);
  return static_cast<uint32_t>(mine.result);
}

void setMaxRegisters(int count, Site site) {
  const Inside inside;
  if (count < 24 || count > 256 || count % 8) {
    find(Kind::SYNCHRONISATION, mark(site, "setmaxnreg"),
         mark(site, "setmaxnreg") + ": a multiple of 8 from 24 to 256, not " + std::to_string(count));
  }
  meet(
      "setmaxnreg", ~0u, true, nullptr, [](Warp&, void* const*, uint32_t) {}, site);
}

// ---- matrices of 8x8 16-bit elements

namespace {

struct Matrices {
  uint32_t* registers;
  const uint32_t* values;
  unsigned char* row;
  int count;
  bool transposed;
  bool usable;
};

// Whether the lane's row may be touched.
bool checkRow(Thread& me, const void* p, bool write, const char* what, Site site) {
  if (reinterpret_cast<size_t>(p) % 16) {
    find(Kind::MISALIGNED, mark(site, what),
         "address of a row, 16 bytes\n      " + mark(site, what) + " by thread " + std::to_string(me.id));
    return false;
  }
  if (!me.block->launch->checked) return true;
  const uint32_t place = placeOf(site, what);
  if (!isSharedOf(me, p, 16)) {
    find(Kind::OUT_OF_BOUNDS, mark(site, what),
         "not in shared memory\n      " + mark(site, what) + " by thread " + std::to_string(me.id) + " of " +
             describeBlock(*me.block));
    return false;
  }
  if (!check(me, {p, 16, write, place})) return false;
  recordAccess(me, p, 16, write, place);
  return true;
}

}  // namespace

void ldmatrix(uint32_t* r, const void* p, int matrices, bool transposed, Site site) {
  const Inside inside;
  Thread& me = *running();
  Matrices mine = {r, nullptr, static_cast<unsigned char*>(const_cast<void*>(p)), matrices, transposed, true};
  if (me.lane < matrices * 8) mine.usable = checkRow(me, p, false, "ldmatrix", site);
  meet(
      "ldmatrix", ~0u, true, &mine,
      [](Warp& warp, void* const* arguments, uint32_t) {
        ++warp.block->worker->statistics.ldmatrix;
        const auto lane = [&](int i) -> Matrices& { return *static_cast<Matrices*>(arguments[i]); };
        uint16_t m[4][8][8];
        const int count = lane(0).count;
        for (int i = 0; i < count * 8; ++i) {
          if (lane(i).usable) {
            std::memcpy(m[i / 8][i % 8], lane(i).row, 16);
          } else {
            std::memset(m[i / 8][i % 8], 0xff, 16);
          }
        }
        for (int i = 0; i < WARP; ++i) {
          const int row = i / 4, column = i % 4 * 2;
          for (int k = 0; k < count; ++k) {
            lane(i).registers[k] = lane(i).transposed
                                       ? m[k][column][row] | static_cast<uint32_t>(m[k][column + 1][row]) << 16
                                       : m[k][row][column] | static_cast<uint32_t>(m[k][row][column + 1]) << 16;
          }
        }
      },
      site);
}

void stmatrix(void* p, const uint32_t* r, int matrices, bool transposed, Site site) {
  const Inside inside;
  Thread& me = *running();
  Matrices mine = {nullptr, r, static_cast<unsigned char*>(p), matrices, transposed, true};
  if (me.lane < matrices * 8) mine.usable = checkRow(me, p, true, "stmatrix", site);
  meet(
      "stmatrix", ~0u, true, &mine,
      [](Warp&, void* const* arguments, uint32_t) {
        const auto lane = [&](int i) -> Matrices& { return *static_cast<Matrices*>(arguments[i]); };
        for (int i = 0; i < WARP; ++i) {
          for (int k = 0; k < lane(i).count; ++k) {
            for (int e = 0; e < 2; ++e) {
              const int row = lane(i).transposed ? i % 4 * 2 + e : i / 4;
              const int column = lane(i).transposed ? i / 4 : i % 4 * 2 + e;
              const Matrices& to = lane(k * 8 + row);
              const auto element = static_cast<uint16_t>(lane(i).values[k] >> 16 * e);
              if (to.usable) std::memcpy(to.row + column * 2, &element, 2);
            }
          }
        }
      },
      site);
}

}  // namespace simt::emulator

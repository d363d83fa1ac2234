// The callbacks of g++ -fsanitize=thread, which kernels are compiled with but whose library is not linked: every load
// and store of a kernel comes here first.

#include <link.h>

#include "machine.h"
#include "memory.h"

namespace simt::emulator {

namespace {

bool within(const void* p, const void* first, size_t bytes) {
  return static_cast<size_t>(static_cast<const char*>(p) - static_cast<const char*>(first)) < bytes;
}

// The program's and its libraries' own data: tables, constants.
bool ofProgram(const void* p) {
  struct Search {
    const void* p;
    bool found;
  } search = {p, false};
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* data) {
        auto& search = *static_cast<Search*>(data);
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          const auto& segment = info->dlpi_phdr[i];
          const auto* start = reinterpret_cast<const char*>(info->dlpi_addr + segment.p_vaddr);
          if (segment.p_type == PT_LOAD && within(search.p, start, segment.p_memsz)) search.found = true;
        }
        return search.found ? 1 : 0;
      },
      &search);
  return search.found;
}

// Neither shared nor global memory: the thread's own variables, or a place that a GPU cannot reach.
void checkElsewhere(Thread& me, const void* p, size_t bytes, bool write, const void* returnAddress) {
  if (within(p, me.stack, STACK_BYTES)) {
    for (const Accumulators& under : me.accumulators) {
      if (!within(p, under.d, static_cast<size_t>(under.count) * sizeof(float))) continue;
      const uint32_t place = placeOf(returnAddress);
      find(Kind::IN_FLIGHT, std::to_string(place) + " d",
           "accumulators of " + mark(under.site, "wgmma") + " before their wait\n      " + (write ? "write" : "read") +
               " by thread " + std::to_string(me.id) + " of " + describeBlock(*me.block) + ", " + mark(place));
    }
    return;
  }
  // The indices and the arguments of the launch; then the pages that passed before.
  if (within(p, &me, sizeof me) || within(p, &indices, sizeof indices)) return;
  const char* call = static_cast<const char*>(me.block->launch->call);
  if (within(p, call - (64 << 10), 256 << 10)) return;
  static size_t allowed[64];
  const size_t page = (reinterpret_cast<size_t>(p) >> 12) + 1;
  size_t& slot = allowed[page % 64];
  if (slot == page) return;
  if (ofProgram(p)) {
    slot = page;
    return;
  }
  const uint32_t place = placeOf(returnAddress);
  find(Kind::OUT_OF_BOUNDS, std::to_string(place) + " h",
       "an address outside of device memory\n      " + std::string(write ? "write" : "read") + " of " +
           std::to_string(bytes) + " bytes by thread " + std::to_string(me.id) + " of " + describeBlock(*me.block) +
           ", " + mark(place));
  // The host would end the program.
  if (reinterpret_cast<size_t>(p) < 1 << 16) me.block->worker->abort(me);
}

inline void hook(void* p, size_t bytes, bool write, const void* returnAddress) {
  Thread* me = running();
  if (!me || me->inside || !me->block->launch->checked) return;
  const Inside inside;
  if (offsetOf(p) >= SPACE) return checkElsewhere(*me, p, bytes, write, returnAddress);
  const uint32_t place = placeOf(returnAddress);
  if (check(*me, {p, bytes, write, place})) recordAccess(*me, p, bytes, write, place);
}

}  // namespace

}  // namespace simt::emulator

#define RETURN_ADDRESS __builtin_return_address(0)
#define HOOKS(bytes)                                                                    \
  void __tsan_read##bytes(void* p) { hook(p, bytes, false, RETURN_ADDRESS); }           \
  void __tsan_write##bytes(void* p) { hook(p, bytes, true, RETURN_ADDRESS); }           \
  void __tsan_unaligned_read##bytes(void* p) { hook(p, bytes, false, RETURN_ADDRESS); } \
  void __tsan_unaligned_write##bytes(void* p) { hook(p, bytes, true, RETURN_ADDRESS); }

extern "C" {
using simt::emulator::hook;
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)
void __tsan_read_range(void* p, size_t bytes) { hook(p, bytes, false, RETURN_ADDRESS); }
void __tsan_write_range(void* p, size_t bytes) { hook(p, bytes, true, RETURN_ADDRESS); }
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
}

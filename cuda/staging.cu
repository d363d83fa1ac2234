#include <algorithm>
#include <cstring>
#include <iterator>
#include <utility>

#include "staging.h"
#include "stream.h"

namespace rankone::cuda {

Staging::~Staging() {
  up_.insert(up_.end(), std::begin(down_), std::end(down_));
  for (const Slot& slot : up_) {
    if (slot.event) runtime::destroyEvent(slot.event);
    if (slot.memory) runtime::freePinned(slot.memory);
  }
  for (void* memory : captured_) runtime::freePinned(memory);
}

void Staging::prepare(Slot& slot) {
  if (!slot.event) expect(runtime::createEvent(&slot.event, false), "creating an event");
  if (slot.memory) return;
  void* memory = nullptr;
  expect(runtime::allocatePinned(&memory, kSlotBytes), "allocating pinned memory");
  slot.memory = static_cast<char*>(memory);
}

// The current slot, or the next one: the oldest, once what it held has been copied, or a new one where there may be
// more.
Staging::Slot& Staging::slotWithRoom() {
  Slot& slot = up_[current_];
  prepare(slot);
  if (slot.used < kSlotBytes) return slot;
  expect(runtime::recordEvent(slot.event, stream_), "recording an event");
  const Slot& oldest = up_[(current_ + 1) % up_.size()];
  bool copied = !oldest.used;
  if (!copied) expect(runtime::reached(oldest.event, &copied), "uploading");
  if (!copied && up_.size() < kMostSlots) up_.insert(up_.begin() + static_cast<std::ptrdiff_t>(current_) + 1, Slot{});
  current_ = (current_ + 1) % up_.size();
  Slot& next = up_[current_];
  prepare(next);
  if (next.used) expect(runtime::waitForEvent(next.event), "uploading");
  next.used = 0;
  return next;
}

void Staging::upload(void* to, const void* from, size_t bytes) {
  if (bytes == 0) return;
  if (capturing_) {
    void* memory = nullptr;
    expect(runtime::allocatePinned(&memory, bytes), "allocating pinned memory");
    captured_.push_back(memory);
    std::memcpy(memory, from, bytes);
    expect(runtime::upload(stream_, to, memory, bytes), "uploading");
    return;
  }
  for (size_t done = 0; done < bytes;) {
    Slot& slot = slotWithRoom();
    const size_t part = std::min(bytes - done, kSlotBytes - slot.used);
    std::memcpy(slot.memory + slot.used, static_cast<const char*>(from) + done, part);
    expect(runtime::upload(stream_, static_cast<char*>(to) + done, slot.memory + slot.used, part), "uploading");
    slot.used = std::min((slot.used + part + 255) / 256 * 256, kSlotBytes);
    done += part;
  }
}

// One part is copied out of its slot while the next is on its way into the other.
void Staging::download(void* to, const void* from, size_t bytes) {
  const size_t parts = (bytes + kSlotBytes - 1) / kSlotBytes;
  const auto lengthOf = [&](size_t i) { return std::min(bytes - i * kSlotBytes, kSlotBytes); };
  for (size_t i = 0; i < parts + (parts > 0); ++i) {
    if (i < parts) {
      Slot& slot = down_[i % 2];
      prepare(slot);
      expect(runtime::download(stream_, slot.memory, static_cast<const char*>(from) + i * kSlotBytes, lengthOf(i)),
             "downloading");
      expect(runtime::recordEvent(slot.event, stream_), "recording an event");
    }
    if (i == 0) continue;
    Slot& slot = down_[(i - 1) % 2];
    expect(runtime::waitForEvent(slot.event), "downloading");
    std::memcpy(static_cast<char*>(to) + (i - 1) * kSlotBytes, slot.memory, lengthOf(i - 1));
  }
}

std::vector<void*> Staging::endCapture() {
  capturing_ = false;
  return std::exchange(captured_, {});
}

}  // namespace rankone::cuda

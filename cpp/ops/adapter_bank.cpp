#include "ops/adapter_bank.h"

#include <limits>
#include <utility>

#include "core/error.h"

namespace rankone {

// What is taken out goes after the lock: it frees memory.

int32_t AdapterBank::add(std::shared_ptr<const StoredAdapter> adapter) {
  std::lock_guard<std::mutex> hold(lock_);
  if (next_ > std::numeric_limits<int32_t>::max())
    fail(ErrorKind::Range, "bank: expected at most 2^31 loads, got one more");
  const int32_t id = static_cast<int32_t>(next_);
  adapters_.emplace(id, std::move(adapter));
  ++next_;
  return id;
}

bool AdapterBank::replace(int32_t id, std::shared_ptr<const StoredAdapter> adapter) {
  std::lock_guard<std::mutex> hold(lock_);
  const auto found = adapters_.find(id);
  if (found == adapters_.end()) return false;
  found->second.swap(adapter);
  return true;
}

bool AdapterBank::evict(int32_t id) {
  std::shared_ptr<const StoredAdapter> evicted;
  std::lock_guard<std::mutex> hold(lock_);
  const auto found = adapters_.find(id);
  if (found == adapters_.end()) return false;
  evicted = std::move(found->second);
  adapters_.erase(found);
  return true;
}

void AdapterBank::clear() {
  std::map<int32_t, std::shared_ptr<const StoredAdapter>> evicted;
  std::lock_guard<std::mutex> hold(lock_);
  adapters_.swap(evicted);
}

std::shared_ptr<const StoredAdapter> AdapterBank::find(int32_t id) const {
  std::lock_guard<std::mutex> hold(lock_);
  const auto found = adapters_.find(id);
  return found == adapters_.end() ? nullptr : found->second;
}

std::vector<int32_t> AdapterBank::ids() const {
  std::lock_guard<std::mutex> hold(lock_);
  std::vector<int32_t> list;
  for (const auto& [id, adapter] : adapters_) list.push_back(id);
  return list;
}

size_t AdapterBank::size() const {
  std::lock_guard<std::mutex> hold(lock_);
  return adapters_.size();
}

}  // namespace rankone

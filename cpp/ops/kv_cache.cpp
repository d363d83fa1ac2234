#include "ops/kv_cache.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "core/parallel.h"
#include "kernels/split.h"

namespace rankone {
namespace {

size_t bytesOf(int64_t slots, int64_t heads, int64_t capacity, int64_t width, DType dtype) {
  return static_cast<size_t>(slots * heads * capacity * width) * dtypeSize(dtype);
}

}  // namespace

KvCache::KvCache(int64_t n, int64_t heads, int64_t kd, int64_t vd, int64_t rows, int64_t w, DType t)
    : slots(n),
      kvHeads(heads),
      keyDim(kd),
      valueDim(vd),
      capacity(rows),
      window(w),
      sinkTokens(w ? rows - w : 0),
      dtype(t),
      k_(bytesOf(n, heads, rows, kd, t)),
      v_(bytesOf(n, heads, rows, vd, t)),
      lengths_(static_cast<size_t>(n)),
      folded_(static_cast<size_t>(n)) {}

// f(position, row of the first head among those of all slots) for positions [begin, end) that the slot has room for.
template <class F>
void KvCache::forRows(int64_t slot, int64_t begin, int64_t end, F&& f) const {
  const AttentionCache rows = view();
  for (int64_t p = begin; p < end; ++p) f(p, slot * kvHeads * capacity + rows.rowOf(p));
}

void KvCache::append(int64_t slot, int64_t count, const void* k, const void* v) {
  const size_t keyBytes = static_cast<size_t>(keyDim) * dtypeSize(dtype),
               valueBytes = static_cast<size_t>(valueDim) * dtypeSize(dtype);
  const int64_t first = length(slot), end = first + count;
  const auto put = [&](int64_t begin, int64_t until) {
    forRows(slot, begin, until, [&](int64_t p, int64_t row) {
      for (int64_t h = 0; h < kvHeads; ++h) {
        const size_t from = static_cast<size_t>((p - first) * kvHeads + h),
                     to = static_cast<size_t>(row + h * capacity);
        std::memcpy(static_cast<char*>(k_.data()) + to * keyBytes, static_cast<const char*>(k) + from * keyBytes,
                    keyBytes);
        std::memcpy(static_cast<char*>(v_.data()) + to * valueBytes, static_cast<const char*>(v) + from * valueBytes,
                    valueBytes);
      }
    });
  };
  put(first, std::min(end, sinkTokens));
  put(std::max({first, sinkTokens, end - (capacity - sinkTokens)}), end);
  lengths_[static_cast<size_t>(slot)] = end;
}

void KvCache::read(int64_t slot, void* k, void* v) const {
  const size_t keyBytes = static_cast<size_t>(keyDim) * dtypeSize(dtype),
               valueBytes = static_cast<size_t>(valueDim) * dtypeSize(dtype);
  size_t at = 0;
  const auto take = [&](int64_t begin, int64_t end) {
    forRows(slot, begin, end, [&](int64_t, int64_t row) {
      for (int64_t h = 0; h < kvHeads; ++h, ++at) {
        const size_t from = static_cast<size_t>(row + h * capacity);
        std::memcpy(static_cast<char*>(k) + at * keyBytes, static_cast<const char*>(k_.data()) + from * keyBytes,
                    keyBytes);
        std::memcpy(static_cast<char*>(v) + at * valueBytes, static_cast<const char*>(v_.data()) + from * valueBytes,
                    valueBytes);
      }
    });
  };
  const int64_t end = length(slot);
  take(0, std::min(end, sinkTokens));
  take(std::max(std::min(end, sinkTokens), end - (capacity - sinkTokens)), end);
}

void KvCache::truncate(int64_t slot, int64_t length) {
  const int64_t now = this->length(slot);
  if (length > now)
    fail(ErrorKind::Range, "length: expected at most %lld, what the slot has seen, got %lld",
         static_cast<long long>(now), static_cast<long long>(length));
  if (length < now && now > capacity)
    fail(ErrorKind::Range, "length: expected %lld, as tokens before the last %lld have been overwritten, got %lld",
         static_cast<long long>(now), static_cast<long long>(window), static_cast<long long>(length));
  lengths_[static_cast<size_t>(slot)] = length;
}

void KvCache::acquire() {
  if (disposed_) fail(ErrorKind::State, "cache: it has been disposed");
  if (busy_.exchange(true)) fail(ErrorKind::State, "cache: it is busy in another call");
}

void KvCache::dispose() {
  if (disposed_) return;
  if (busy_.load()) fail(ErrorKind::State, "cache: it is busy in a call and cannot be disposed");
  disposed_ = true;
  k_ = AlignedBuffer();
  v_ = AlignedBuffer();
}

}  // namespace rankone

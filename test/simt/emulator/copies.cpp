// cp.async and TMA. Data moves as late as the rules allow, and destinations hold NaNs until then, so that a missing
// wait shows in the results too.
#include "copies.h"

#include <algorithm>
#include <cstring>

#include "warp.h"

namespace simt::emulator {

namespace {

void misaligned(Thread& me, Site site, const char* what, const char* text) {
  find(Kind::MISALIGNED, mark(site, what) + text,
       std::string(text) + "\n      " + mark(site, what) + " by thread " + std::to_string(me.id) + " of " +
           describeBlock(*me.block));
}

bool inShared(Thread& me, const void* p, size_t bytes, Site site, const char* what) {
  if (isSharedOf(me, p, bytes)) return true;
  find(Kind::OUT_OF_BOUNDS, mark(site, what) + "s",
       "not in shared memory\n      " + mark(site, what) + " by thread " + std::to_string(me.id) + " of " +
           describeBlock(*me.block));
  return false;
}

}  // namespace

// ---- cp.async

void copyAsync(void* shared, const void* global, int size, int bytes, Site site) {
  const Inside inside;
  Thread& me = *running();
  const char* what = "cp_async";
  if ((reinterpret_cast<size_t>(shared) | reinterpret_cast<size_t>(global)) % static_cast<size_t>(size)) {
    return misaligned(me, site, what, "addresses of cp.async, its size");
  }
  if (bytes < 0 || bytes > size) {
    find(Kind::OUT_OF_BOUNDS, mark(site, what) + "n",
         "0 to 16 bytes, not " + std::to_string(bytes) + "\n      " + mark(site, what));
    return;
  }
  if (!inShared(me, shared, static_cast<size_t>(size), site, what)) return;
  uint32_t place = 0;
  if (me.block->launch->checked) {
    place = placeOf(site, what);
    const auto readable = static_cast<size_t>(bytes);
    if (readable) {
      if (!check(me, {global, readable, false, place})) return;
      recordAccess(me, global, readable, false, placeOf(site, "cp_async from global memory"));
    }
    if (!check(me, {shared, static_cast<size_t>(size), true, place})) return;
    recordAccess(me, shared, static_cast<size_t>(size), true, placeOf(site, "cp_async to shared memory"));
    beginWrite(me, shared, static_cast<size_t>(size), place);
  }
  std::memset(shared, 0xff, static_cast<size_t>(size));
  me.block->worker->statistics.asyncBytes += bytes;
  me.openCopies.push_back(
      {static_cast<unsigned char*>(shared), static_cast<const unsigned char*>(global), size, bytes, place});
}

void commitCopies(Site) {
  const Inside inside;
  Thread& me = *running();
  me.copies.push_back(std::move(me.openCopies));
  me.openCopies.clear();
}

void waitCopies(int pending, Site) {
  const Inside inside;
  Thread& me = *running();
  while (me.copies.size() > static_cast<size_t>(pending)) {
    for (const Copy& copy : me.copies.front()) {
      std::memset(copy.to, 0, static_cast<size_t>(copy.size));
      std::memcpy(copy.to, copy.from, static_cast<size_t>(copy.bytes));
      if (!me.block->launch->checked) continue;
      Access write = {copy.to, static_cast<size_t>(copy.size), true, copy.place};
      write.finishing = true;
      check(me, write);
    }
    me.copies.erase(me.copies.begin());
  }
}

// ---- TMA

namespace {

// Calls piece(offset in the tile, tensor's address or null, first, last) for every 16 bytes of a box; the bytes from
// first to last lie within the tensor.
template <class Piece>
size_t forEachPiece(const TensorMap& map, const int* at, Piece piece) {
  const auto element = static_cast<int64_t>(map.strides[0]);
  const int64_t width = map.box[0] * element, inside = static_cast<int64_t>(map.sizes[0]) * element;
  size_t offset = 0;
  uint32_t outer[4] = {};
  while (true) {
    const auto* row = static_cast<const unsigned char*>(map.base);
    bool within = true;
    for (int d = 1; d < map.rank; ++d) {
      const int64_t coordinate = static_cast<int64_t>(at[d]) + outer[d];
      within = within && coordinate >= 0 && static_cast<uint64_t>(coordinate) < map.sizes[d];
      row += coordinate * static_cast<int64_t>(map.strides[d]);
    }
    for (int64_t b = 0; b < width; b += 16, offset += 16) {
      const int64_t x = at[0] * element + b;
      const int64_t first = std::clamp<int64_t>(-x, 0, 16), last = std::clamp<int64_t>(inside - x, 0, 16);
      const bool any = within && first < last;
      piece(offset, any ? row + x : nullptr, static_cast<size_t>(any ? first : 0), static_cast<size_t>(any ? last : 0));
    }
    int d = 1;
    while (d < map.rank && ++outer[d] == map.box[d]) outer[d++] = 0;
    if (d == map.rank) return offset;
  }
}

size_t tileAlignment(const TensorMap& map) {
  return map.swizzle == Swizzle::B128 ? 1024 : map.swizzle == Swizzle::B64 ? 512 : 128;
}

size_t boxBytes(const TensorMap& map) {
  size_t bytes = map.strides[0];
  for (int d = 0; d < map.rank; ++d) bytes *= map.box[d];
  return bytes;
}

bool usableTile(Thread& me, const TensorMap& map, int rank, const void* shared, Site site, const char* what) {
  if (map.rank != rank) {
    find(Kind::OUT_OF_BOUNDS, mark(site, what) + "rank",
         "the tensor map has " + std::to_string(map.rank) + " dimensions\n      " + mark(site, what));
    return false;
  }
  if (reinterpret_cast<size_t>(shared) % tileAlignment(map)) {
    misaligned(me, site, what, "a tile in shared memory: 128 bytes, 512 or 1024 under a swizzle of 64 or 128 bytes");
    return false;
  }
  return inShared(me, shared, boxBytes(map), site, what);
}

// Where a piece of the tile at `tile` lies.
unsigned char* pieceAt(unsigned char* tile, const TensorMap& map, size_t offset) {
  return space + swizzled(map.swizzle, offsetOf(tile) + offset);
}

}  // namespace

void tmaLoad(void* shared, const TensorMap* map, int rank, const int* at, uint64_t* bar, Site site) {
  const Inside inside;
  Thread& me = *running();
  const char* what = "tma_load";
  if (!usableTile(me, *map, rank, shared, site, what)) return;
  Transfer transfer = {*map, {}, static_cast<unsigned char*>(shared), 0, &me};
  std::copy(at, at + rank, transfer.at);
  const bool checked = me.block->launch->checked;
  if (checked) {
    transfer.place = placeOf(site, what);
    bool fine = true;
    forEachPiece(*map, at, [&](size_t offset, const unsigned char* from, size_t first, size_t last) {
      Access write = {pieceAt(transfer.to, *map, offset), 16, true, transfer.place, Proxy::ASYNC};
      fine = fine && check(me, write);
      if (from) fine = fine && check(me, {from + first, last - first, false, transfer.place});
    });
    if (!fine) return;
    beginWrite(me, shared, boxBytes(*map), transfer.place);
  }
  std::memset(shared, 0xff, boxBytes(*map));
  me.block->worker->statistics.bulkBytes += static_cast<long>(boxBytes(*map));
  beginTransfer(me, bar, transfer, site, what);
}

size_t finishLoad(Block& block, const Transfer& transfer, const Mbarrier& mbarrier) {
  return forEachPiece(
      transfer.map, transfer.at, [&](size_t offset, const unsigned char* from, size_t first, size_t last) {
        unsigned char* to = pieceAt(transfer.to, transfer.map, offset);
        std::memset(to, 0, 16);
        if (from) std::memcpy(to + first, from + first, last - first);
        if (!block.launch->checked) return;
        Access write = {to, 16, true, transfer.place, Proxy::ASYNC, mbarrierActor(block, mbarrier.actor)};
        write.finishing = true;
        check(*transfer.thread, write);
      });
}

void tmaStore(const TensorMap* map, int rank, const int* at, const void* shared, Site site) {
  const Inside inside;
  Thread& me = *running();
  const char* what = "tma_store";
  if (!usableTile(me, *map, rank, shared, site, what)) return;
  Store store = {*map, {}, static_cast<const unsigned char*>(shared), 0, {}};
  std::copy(at, at + rank, store.at);
  if (me.block->launch->checked) {
    store.place = placeOf(site, what);
    if (!check(me, {shared, boxBytes(*map), false, store.place, Proxy::ASYNC})) return;
    beginRead(me, shared, boxBytes(*map), store.place);
  }
  me.block->worker->statistics.bulkBytes += static_cast<long>(boxBytes(*map));
  me.openStores.push_back(std::move(store));
}

void commitStores(Site) {
  const Inside inside;
  Thread& me = *running();
  me.stores.push_back(std::move(me.openStores));
  me.openStores.clear();
}

namespace {

void readTile(Thread& me, Store& store) {
  if (!store.bytes.empty()) return;
  store.bytes.resize(boxBytes(store.map));
  forEachPiece(store.map, store.at, [&](size_t offset, const unsigned char*, size_t, size_t) {
    std::memcpy(&store.bytes[offset], pieceAt(const_cast<unsigned char*>(store.from), store.map, offset), 16);
  });
  if (me.block->launch->checked) endRead(*me.block, store.from, store.bytes.size());
}

void writeTensor(Thread& me, Store& store) {
  readTile(me, store);
  forEachPiece(store.map, store.at, [&](size_t offset, const unsigned char* to, size_t first, size_t last) {
    if (!to) return;
    if (me.block->launch->checked && !check(me, {to + first, last - first, true, store.place})) return;
    std::memcpy(const_cast<unsigned char*>(to) + first, &store.bytes[offset + first], last - first);
  });
}

}  // namespace

void waitStores(int pending, bool onlyReads, Site) {
  const Inside inside;
  Thread& me = *running();
  const size_t count = me.stores.size(), left = static_cast<size_t>(pending);
  if (count <= left) return;
  for (size_t i = 0; i < count - left; ++i) {
    for (Store& store : me.stores[i]) onlyReads ? readTile(me, store) : writeTensor(me, store);
  }
  if (!onlyReads) me.stores.erase(me.stores.begin(), me.stores.end() - static_cast<long>(left));
}

// ---- what a thread must not leave behind

void checkExit(Thread& me) {
  const auto leaves = [&](const char* what, uint32_t place) {
    find(Kind::IN_FLIGHT, std::string(what) + std::to_string(place),
         std::string("thread ") + std::to_string(me.id) + " of " + describeBlock(*me.block) + " ends before " + what +
             (place ? "\n      " + mark(place) : ""));
  };
  if (!me.openCopies.empty()) leaves("its cp.async are committed and waited for", me.openCopies[0].place);
  for (const auto& group : me.copies) {
    if (!group.empty()) leaves("its cp.async are waited for", group[0].place);
  }
  if (!me.openStores.empty())
    leaves("its TMA stores are committed and have read shared memory", me.openStores[0].place);
  for (auto& group : me.stores) {
    for (Store& store : group) {
      if (store.bytes.empty()) leaves("its TMA stores have read shared memory", store.place);
      // The end of the kernel completes them.
      writeTensor(me, store);
    }
  }
  if (!me.accumulators.empty()) leaves("its wgmma are waited for", 0);
}

}  // namespace simt::emulator

namespace simt {

Status make_tensor_map(TensorMap* map, MapType type, int rank, const void* base, const uint64_t* sizes,
                       const uint64_t* strides, const uint32_t* box, Swizzle swizzle) {
  constexpr Status INVALID = 1;
  if (rank < 2 || rank > 4 || reinterpret_cast<size_t>(base) % 16) return INVALID;
  *map = {};
  map->base = base;
  map->rank = rank;
  map->swizzle = swizzle;
  map->strides[0] = type == MapType::F32 ? 4 : 2;
  for (int d = 0; d < rank; ++d) {
    if (sizes[d] == 0 || sizes[d] > uint64_t(1) << 32 || box[d] == 0 || box[d] > 256) return INVALID;
    map->sizes[d] = sizes[d];
    map->box[d] = box[d];
    if (d == 0) continue;
    if (strides[d - 1] % 16 || strides[d - 1] >= uint64_t(1) << 40) return INVALID;
    map->strides[d] = strides[d - 1];
  }
  const uint64_t width = box[0] * map->strides[0];
  const uint64_t most = swizzle == Swizzle::B128 ? 128 : swizzle == Swizzle::B64 ? 64 : width;
  return width % 16 || width > most ? INVALID : 0;
}

}  // namespace simt

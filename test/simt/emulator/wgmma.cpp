// wgmma: each warp of a warpgroup issues, commits and waits for itself; nothing here orders one warp after another.
// Operands in shared memory are read, and accumulators written, when the warp waits. Until then accumulators are NaNs.

#include <cstring>
#include <memory>

#include "copies.h"
#include "warp.h"

namespace simt::emulator {

namespace {

// The fields of a descriptor.
struct Operand {
  size_t start, leading, stride;
  Swizzle swizzle;
  size_t row;  // bytes of a row of an atom

  explicit Operand(uint64_t desc)
      : start((desc & 0x3fff) << 4), leading((desc >> 16 & 0x3fff) << 4), stride((desc >> 32 & 0x3fff) << 4) {
    const uint64_t mode = desc >> 62;
    swizzle = mode == 1 ? Swizzle::B128 : mode == 2 ? Swizzle::B64 : Swizzle::NONE;
    row = mode == 1 ? 128 : mode == 2 ? 64 : 16;
  }

  // The offset in shared memory of element (r, k), r along M or N; k is the fast index unless transposed.
  size_t at(int r, int k, bool transposed) const {
    const auto ur = static_cast<size_t>(r), uk = static_cast<size_t>(k);
    if (!transposed) {
      // Atoms of 8 rows: without a swizzle, of 8 k each, `leading` apart.
      const size_t along = swizzle == Swizzle::NONE ? uk / 8 * leading + uk % 8 * 2 : uk * 2;
      return swizzled(swizzle, start + ur / 8 * stride + ur % 8 * row + along);
    }
    if (swizzle == Swizzle::NONE) return start + ur / 8 * stride + uk / 8 * leading + uk % 8 * 16 + ur % 8 * 2;
    const size_t columns = row / 2;
    return swizzled(swizzle, start + ur / columns * leading + uk / 8 * stride + uk % 8 * row + ur % columns * 2);
  }

  // Calls piece(offset) for every 16 bytes of `rows` rows from `first`.
  template <class Piece>
  void forEachPiece(int first, int rows, bool transposed, Piece piece) const {
    for (int r = first; r < first + rows; r += transposed ? 8 : 1) {
      for (int k = 0; k < 16; k += transposed ? 1 : 8) piece(at(r, k, transposed));
    }
  }
};

struct Call {
  const Product* product;
  float* d;
  Site site;
};

// Calls piece(address) for every 16 bytes that this warp's part reads.
template <class Piece>
void forEachRead(const Warp& warp, const Product& product, Piece piece) {
  unsigned char* shared = warp.block->shared;
  const auto visit = [&](size_t offset) { piece(shared + offset % SHARED_SLOT); };
  if (!product.a) Operand(product.descA).forEachPiece(warp.id % WARPGROUP * 16, 16, product.transposedA, visit);
  Operand(product.descB).forEachPiece(0, product.columns, product.transposedB, visit);
}

void agree(Warp& warp, const Product& product, Site site) {
  Agreement& agreement = warp.block->warpgroups[warp.id / WARPGROUP];
  const size_t number = warp.issued++;
  if (number == agreement.size()) {
    agreement.push_back({product.descA, product.descB, product.columns, site});
    ++warp.block->worker->statistics.wgmma;
    return;
  }
  const Agreed& first = agreement[number];
  if (first.descA == product.descA && first.descB == product.descB && first.columns == product.columns) return;
  find(Kind::SYNCHRONISATION, mark(site, "wgmma") + mark(first.site, nullptr),
       "the warps of a warpgroup issue different products\n      " + mark(site, "wgmma") + " by warp " +
           std::to_string(warp.id) + " of " + describeBlock(*warp.block) + "\n      " + mark(first.site, "wgmma") +
           " by another");
}

void beginAccumulation(Thread& thread, float* d, int count, Site site) {
  for (Accumulators& under : thread.accumulators) {
    if (under.d == d && under.count == count) {
      ++under.pending;
      return;
    }
    if (d < under.d + under.count && under.d < d + count) {
      find(Kind::IN_FLIGHT, mark(site, "wgmma") + " o",
           "accumulators overlap others under way, of another shape\n      " + mark(site, "wgmma") + "\n      " +
               mark(under.site, "wgmma"));
    }
  }
  thread.accumulators.push_back({d, count, site, std::vector<float>(d, d + count), 1});
  std::memset(d, 0xff, static_cast<size_t>(count) * sizeof(float));
}

void issue(Warp& warp, void* const* arguments, uint32_t) {
  const Call& first = *static_cast<const Call*>(arguments[0]);
  const Product& product = *first.product;
  const bool checked = warp.block->launch->checked;
  agree(warp, product, first.site);
  Issued issued = {};
  issued.product = product;
  bool chained = true;
  for (int i = 0; i < WARP; ++i) {
    const Call& call = *static_cast<const Call*>(arguments[i]);
    issued.d[i] = call.d;
    if (product.a) std::memcpy(issued.registers[i], call.product->a, sizeof issued.registers[i]);
    Thread& thread = warp.lanes[i];
    const size_t before = thread.accumulators.size();
    beginAccumulation(thread, call.d, product.columns / 2, first.site);
    chained = chained && thread.accumulators.size() == before;
  }
  // Products that add to accumulators under way need no fence, all others do.
  if (!warp.fenced && (!chained || product.a)) {
    find(Kind::IN_FLIGHT, mark(first.site, "wgmma") + " f",
         "registers are used without wgmma_fence since the last wait\n      " + mark(first.site, "wgmma"));
  }
  if (checked) {
    issued.place = placeOf(first.site, "wgmma");
    Thread& thread = warp.lanes[0];
    bool fine = true;
    forEachRead(warp, product, [&](unsigned char* p) {
      Access read = {p, 16, false, issued.place, Proxy::ASYNC, warpActor(*warp.block, warp.id)};
      fine = fine && check(thread, read);
      if (fine) beginRead(thread, p, 16, issued.place);
    });
  }
  warp.openProducts.push_back(issued);
}

VECTORISED void addProducts(const double (&a)[16], const double (*b)[256], int columns, double* row) {
  for (int k = 0; k < 16; ++k) {
    for (int j = 0; j < columns; ++j) row[j] += a[k] * b[k][j];
  }
}

void carryOut(Warp& warp, const Issued& issued) {
  const Product& product = issued.product;
  const int columns = product.columns;
  double a[16][16];
  // On the heap: thread-local memory of a library that is opened while a program runs is a matter of bytes.
  static thread_local const std::unique_ptr<double[][256]> b(new double[16][256]);
  const unsigned char* shared = warp.block->shared;
  const auto element = [&](const Operand& operand, int r, int k, bool transposed) {
    uint16_t bits;
    std::memcpy(&bits, shared + operand.at(r, k, transposed) % SHARED_SLOT, 2);
    return static_cast<double>(decode(product.type, bits));
  };
  const Operand left(product.descA), right(product.descB);
  for (int k = 0; k < 16; ++k) {
    for (int j = 0; j < columns; ++j) b[k][j] = element(right, j, k, product.transposedB);
    for (int i = 0; i < 16; ++i) {
      if (product.a) {
        const uint32_t pair = issued.registers[i % 8 * 4 + k % 8 / 2][k / 8 * 2 + i / 8];
        a[i][k] = decode(product.type, pair >> 16 * (k % 2) & 0xffff);
      } else {
        a[i][k] = element(left, warp.id % WARPGROUP * 16 + i, k, product.transposedA);
      }
    }
  }
  float* values[WARP];
  for (int lane = 0; lane < WARP; ++lane) {
    for (Accumulators& under : warp.lanes[lane].accumulators) {
      if (under.d == issued.d[lane]) values[lane] = under.values.data();
    }
  }
  for (int i = 0; i < 16; ++i) {
    double row[256];
    const auto at = [&](int j) -> float& { return values[i % 8 * 4 + j % 8 / 2][j / 8 * 4 + i / 8 * 2 + j % 2]; };
    for (int j = 0; j < columns; ++j) row[j] = product.accumulate ? at(j) : 0;
    addProducts(a[i], b.get(), columns, row);
    for (int j = 0; j < columns; ++j) at(j) = rounded(row[j]);
  }
  for (int lane = 0; lane < WARP; ++lane) {
    std::vector<Accumulators>& all = warp.lanes[lane].accumulators;
    for (size_t n = 0; n < all.size(); ++n) {
      if (all[n].d != issued.d[lane] || --all[n].pending) continue;
      std::memcpy(all[n].d, all[n].values.data(), all[n].values.size() * sizeof(float));
      all.erase(all.begin() + static_cast<long>(n--));
    }
  }
  if (warp.block->launch->checked) {
    forEachRead(warp, product, [&](unsigned char* p) { endRead(*warp.block, p, 16); });
  }
}

// The warp's threads know now that its reads are over.
void learnReads(Warp& warp) {
  Ref<Clocks> before, after;
  for (int i = 0; i < WARP; ++i) {
    Thread& thread = warp.lanes[i];
    if (thread.known.get() != before.get()) {
      before = thread.known;
      after = Ref<Clocks>(new Clocks{0, before->counts, before->foreign});
      after->counts[warpActor(*warp.block, warp.id)] = warp.actorClock;
    }
    thread.known = after;
  }
  ++warp.actorClock;
}

bool inWarpgroup(Site site, const char* what) {
  Thread& me = *running();
  if (me.warp->id / WARPGROUP * WARPGROUP + WARPGROUP <= me.block->warpCount()) return true;
  find(Kind::SYNCHRONISATION, mark(site, what), "a warp that belongs to no group of four\n      " + mark(site, what));
  me.block->worker->abort(me);
}

}  // namespace

uint64_t describe(const void* p, uint32_t leading, uint32_t stride, Swizzle swizzle) {
  const uint64_t mode = swizzle == Swizzle::B128 ? 1 : swizzle == Swizzle::B64 ? 2 : 0;
  const uint64_t address = offsetOf(p) % SHARED_SLOT;
  return address >> 4 | static_cast<uint64_t>(leading >> 4 & 0x3fff) << 16 |
         static_cast<uint64_t>(stride >> 4 & 0x3fff) << 32 | mode << 62;
}

void wgmmaFence(Site site) {
  const Inside inside;
  inWarpgroup(site, "wgmma_fence");
  meet(
      "wgmma_fence", ~0u, true, nullptr, [](Warp& warp, void* const*, uint32_t) { warp.fenced = true; }, site);
}

void wgmmaCommit(Site site) {
  const Inside inside;
  inWarpgroup(site, "wgmma_commit");
  meet(
      "wgmma_commit", ~0u, true, nullptr,
      [](Warp& warp, void* const*, uint32_t) {
        warp.products.push_back(std::move(warp.openProducts));
        warp.openProducts.clear();
      },
      site);
}

void wgmmaWait(int pending, Site site) {
  const Inside inside;
  inWarpgroup(site, "wgmma_wait");
  meet(
      "wgmma_wait", ~0u, true, &pending,
      [](Warp& warp, void* const* arguments, uint32_t) {
        const auto left = static_cast<size_t>(*static_cast<const int*>(arguments[0]));
        while (warp.products.size() > left) {
          for (const Issued& issued : warp.products.front()) carryOut(warp, issued);
          warp.products.erase(warp.products.begin());
        }
        warp.fenced = false;
        if (warp.block->launch->checked) learnReads(warp);
      },
      site);
}

void wgmma(const Product& product, float* d, Site site) {
  const Inside inside;
  inWarpgroup(site, "wgmma");
  Call call = {&product, d, site};
  meet("wgmma", ~0u, true, &call, issue, site);
}

void checkEnd(Block& block) {
  for (const Warp& warp : block.warps) {
    const Agreement& agreement = block.warpgroups[warp.id / WARPGROUP];
    if (warp.issued == agreement.size()) continue;
    find(Kind::SYNCHRONISATION, "wgmma count",
         "warp " + std::to_string(warp.id) + " of " + describeBlock(block) + " issued " + std::to_string(warp.issued) +
             " products, its warpgroup " + std::to_string(agreement.size()));
  }
}

}  // namespace simt::emulator

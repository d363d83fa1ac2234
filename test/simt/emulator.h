// The emulator's host side: memory that kernels may touch, options, and what the launches found. Knows nothing of CUDA.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace simt::emulator {

// Global memory, 256-byte aligned, with red zones around it. Host code may read and write it as it likes; a block that
// is not `initialised` holds NaNs, and kernels that read it before a kernel wrote it are reported (checked builds).
void* allocate(size_t bytes, bool initialised);
void free(void* pointer);
// After the host wrote to memory that was allocated uninitialised.
void markInitialised(const void* pointer, size_t bytes);

struct Options {
  unsigned seed = 0;       // of the order in which threads run; 0: as they become ready
  int threads = 0;         // of the machine, over which blocks are spread; 0: all
  int residentBlocks = 0;  // that a device holds at once; 0: the whole grid
  size_t sharedBytes = 0;  // that a block may have; 0: 227 KiB
  bool checks = true;      // in checked builds
  bool quiet = false;      // findings are kept, not printed
};
extern Options options;

enum class Kind {
  RACE,
  UNINITIALISED,
  OUT_OF_BOUNDS,
  MISALIGNED,
  IN_FLIGHT,        // memory or registers of an asynchronous copy or product before its wait
  PROXY,            // shared memory written without fence.proxy.async
  SYNCHRONISATION,  // deadlocks, divergent collectives, misused barriers
};

struct Finding {
  Kind kind;
  std::string text;
  long times = 1;
};

// Counts of warp instructions, but for bytes.
struct Statistics {
  long launches = 0, blocks = 0;
  long mma = 0, wgmma = 0, ldmatrix = 0, shuffles = 0, barriers = 0;
  long asyncBytes = 0, bulkBytes = 0;                                            // cp.async, TMA
  long sharedAccesses = 0, wavefronts = 0, idealWavefronts = 0;                  // checked builds
  long globalAccesses = 0, loadSectors = 0, storeSectors = 0, idealSectors = 0;  // of 32 bytes; checked builds
};

struct Report {
  std::vector<Finding> findings;
  std::map<const void*, Statistics> kernels;  // by the kernel's address

  bool clean() const { return findings.empty(); }
  long count(Kind kind) const;
  template <class Kernel>
  Statistics of(Kernel* kernel) const {
    const auto found = kernels.find(reinterpret_cast<const void*>(kernel));
    return found == kernels.end() ? Statistics{} : found->second;
  }
};
// Of the launches since the last report.
Report report();

// Bank conflicts and sectors by source line of the launches since the last report, worst first (checked builds).
std::string lines();

}  // namespace simt::emulator

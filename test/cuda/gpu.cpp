// The tests' side of a GPU: RANKONE_CUDA_PATH is the library.
#include <dlfcn.h>

#include <cstdlib>

#include "harness.h"

namespace rankone::test {

const RankoneCuda& backend() {
  static const RankoneCuda* table = [] {
    const char* path = std::getenv("RANKONE_CUDA_PATH");
    void* library = dlopen(path ? path : "rankone_cuda.so", RTLD_NOW | RTLD_LOCAL);
    check(library, "%s", library ? "" : dlerror());
    const auto entry = reinterpret_cast<decltype(&rankoneCuda)>(dlsym(library, "rankoneCuda"));
    check(entry, "%s", entry ? "" : dlerror());
    const RankoneCuda* found = entry(RANKONE_CUDA_VERSION);
    check(found, "the library has another version");
    return found;
  }();
  return *table;
}

std::vector<std::string> findings() { return {}; }
int64_t wgmmaProducts() { return -1; }

void prepareDevices() {
  RankoneError error;
  int32_t count = 0;
  const int code = backend().deviceCount(&count, &error);
  check(code == 0 && count > 0, "cuda unavailable: %s", code ? error.reason : "no device");
}

}  // namespace rankone::test

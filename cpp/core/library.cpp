#include "core/library.h"

#if defined(_WIN32)
#include <windows.h>
#else
#include <dlfcn.h>
#endif

namespace rankone {

#if defined(_WIN32)

void pinLibrary() {
  HMODULE self;
  GetModuleHandleExW(GET_MODULE_HANDLE_EX_FLAG_PIN | GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS,
                     reinterpret_cast<LPCWSTR>(&pinLibrary), &self);
}

#else

void pinLibrary() {
  Dl_info self;
  if (dladdr(reinterpret_cast<void*>(&pinLibrary), &self) && self.dli_fname)
    dlopen(self.dli_fname, RTLD_LAZY | RTLD_NODELETE);
}

#endif

}  // namespace rankone

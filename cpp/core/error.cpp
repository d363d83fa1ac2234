#include "core/error.h"

#include <cstdio>

namespace rankone {

void fail(ErrorKind kind, const char* format, ...) {
  char text[512];
  va_list args;
  va_start(args, format);
  std::vsnprintf(text, sizeof text, format, args);
  va_end(args);
  throw Error(kind, text);
}

}  // namespace rankone

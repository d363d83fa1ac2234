// The one exception type of the engine. Its message names the argument, what was expected and what came;
// the caller that knows the public function's name puts it in front in brackets.
#pragma once
#include <cstdarg>
#include <stdexcept>
#include <string>

namespace rankone {

enum class ErrorKind {
  Type,   // a wrong type, dtype or a missing argument
  Range,  // a wrong shape, size or value, or memory that cannot be had
  State,  // an object that is disposed, busy or poisoned
  Abort,  // the caller's AbortSignal
};

class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind(kind) {}
  const ErrorKind kind;
};

[[noreturn]] void fail(ErrorKind kind, const char* format, ...) __attribute__((format(printf, 2, 3)));

}  // namespace rankone

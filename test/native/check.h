// The native tests' own few lines of a framework: tests have names, a failed check throws, main() counts.
#pragma once
#include <functional>
#include <stdexcept>
#include <string>

namespace rankone::test {

class Failure : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Called while the program starts; tests run in the order of the files, then of these calls.
bool addTest(std::string name, std::function<void()> body);

// --quick: a part of the problems, for emulators and for ThreadSanitizer.
bool quick();

void check(bool holds, const char* format, ...) __attribute__((format(printf, 2, 3)));

}  // namespace rankone::test

// TEST(name) { body }
#define RANKONE_JOIN_(a, b) a##b
#define RANKONE_JOIN(a, b) RANKONE_JOIN_(a, b)
#define TEST(name)                                                    \
  static void RANKONE_JOIN(testBody, __LINE__)();                     \
  static const bool RANKONE_JOIN(testAdded, __LINE__) =               \
      rankone::test::addTest(name, RANKONE_JOIN(testBody, __LINE__)); \
  static void RANKONE_JOIN(testBody, __LINE__)()

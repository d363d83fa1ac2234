# Toolchain file: zig as the compiler of another platform (scripts/prebuild.cjs).
#   RANKONE_ZIG          the zig binary
#   RANKONE_ZIG_TARGET   such as aarch64-linux-gnu.2.28
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES RANKONE_ZIG RANKONE_ZIG_TARGET)
if(RANKONE_ZIG_TARGET MATCHES "windows")
  set(CMAKE_SYSTEM_NAME Windows)
elseif(RANKONE_ZIG_TARGET MATCHES "macos")
  set(CMAKE_SYSTEM_NAME Darwin)
  set(CMAKE_INSTALL_NAME_TOOL true)  # nothing is installed, but CMake wants one
  set(CMAKE_OSX_SYSROOT "")
  set(CMAKE_OSX_DEPLOYMENT_TARGET "" CACHE STRING "the target says it")
else()
  set(CMAKE_SYSTEM_NAME Linux)
endif()
string(REGEX MATCH "^[^-]+" CMAKE_SYSTEM_PROCESSOR ${RANKONE_ZIG_TARGET})
# Not among the flags, which cmake-js sets. Zig compiles its C++ runtime anew for each level of optimization and for what
# is stripped: with these, CMake's own programs take the one that the addon takes.
set(CMAKE_CXX_COMPILER ${RANKONE_ZIG} c++ -target ${RANKONE_ZIG_TARGET} -O2 -s)
if(CMAKE_SYSTEM_NAME STREQUAL "Windows")
  set(CMAKE_CXX_STANDARD_LIBRARIES "" CACHE STRING "zig links what is needed")
  set(CMAKE_USER_MAKE_RULES_OVERRIDE_CXX ${CMAKE_CURRENT_LIST_DIR}/zig-windows.cmake)
endif()

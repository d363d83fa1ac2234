// Places in kernels, by number, and their source lines.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "simt/emulator.cuh"

namespace simt::emulator {

// The return address of a compiler's hook, or a call of the interface.
struct Place {
  const void* address;
  Site site;
  const char* what;
};

// Numbers from 1. For checked launches only, which one thread of the host runs.
uint32_t placeOf(const void* returnAddress);
uint32_t placeOf(Site, const char* what);
const Place& placeAt(uint32_t number);

// How texts name a place until namePlaces puts "file.cuh:12" there.
std::string mark(uint32_t place);
std::string mark(Site, const char* what);
void namePlaces(const std::vector<std::string*>& texts);

struct Named {
  std::string line, function;  // empty where unknown
};
// One run of addr2line for each file of the program.
std::vector<Named> nameAddresses(const std::vector<const void*>& addresses);

}  // namespace simt::emulator

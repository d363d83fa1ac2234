// Findings, by kind and place; source lines are looked up all at once, when a launch ends.
#pragma once

#include <string>
#include <vector>

#include "places.h"
#include "simt/emulator.cuh"

namespace simt::emulator {

// Noted once per `key` and kind; then it counts. `text` may hold marks of places.
void find(Kind, const std::string& key, const std::string& text);

// At the end of a launch: names the places of its findings, and prints them unless options.quiet.
void settleFindings(const void* kernel);

void addStatistics(const void* kernel, const Statistics&);

}  // namespace simt::emulator

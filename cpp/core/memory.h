// Blocks of memory from the system.
#pragma once
#include <cstddef>

namespace rankone {

// Aligned to 64 bytes, from 2 MB on to 4 KB at least. Throws std::bad_alloc. Freed by freeAligned() alone.
void* allocateAligned(size_t bytes);
void freeAligned(void* memory) noexcept;

}  // namespace rankone

// The library that this code stands in.
#pragma once

namespace rankone {

// Keeps it in memory for as long as the process lives.
void pinLibrary();

}  // namespace rankone

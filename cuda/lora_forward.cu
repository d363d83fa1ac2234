#include "lora.h"

namespace rankone::cuda {

void loraForward(Stream&, const RankoneLoraForward&) { throw Failure(1, "not built yet"); }

}  // namespace rankone::cuda

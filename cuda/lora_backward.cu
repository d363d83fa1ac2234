#include "lora.h"

namespace rankone::cuda {

void loraBackward(Stream&, const RankoneLoraBackward&) { throw Failure(1, "not built yet"); }

}  // namespace rankone::cuda

#include "kernels/feature_map.h"

#include <algorithm>

#include "kernels/row_sum.h"
#include "kernels/split.h"

#define RANKONE_KERNEL "kernels/feature_map.inl"
#include "core/foreach_isa.h"

namespace rankone {

void featureMap(const FeatureMapArgs& args) { RANKONE_PICK(featureMap)(args); }
void featureMapBackward(const FeatureMapBackwardArgs& args) { RANKONE_PICK(featureMapBackward)(args); }

}  // namespace rankone

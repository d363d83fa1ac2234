#include <algorithm>

#include "kernels/bidirectional_attention.h"
#include "kernels/bidirectional_plan.h"

#define RANKONE_KERNEL "kernels/bidirectional_attention_backward.inl"
#include "core/foreach_isa.h"

namespace rankone {

void bidirectionalAttentionBackward(const BidirectionalBackwardArgs& args) {
  RANKONE_PICK(bidirectionalAttentionBackward)
  (args, planBidirectional(args.forward, args.dQWeight || args.dKWeight));
}

}  // namespace rankone

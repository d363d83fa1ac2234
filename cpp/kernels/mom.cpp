#include "kernels/mom.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/split.h"

#define RANKONE_KERNEL "kernels/mom.inl"
#include "core/foreach_isa.h"

namespace rankone {

void momRoute(const MomRouteArgs& args) { RANKONE_PICK(momRoute)(args); }
void momRouteBackward(const MomRouteBackwardArgs& args) { RANKONE_PICK(momRouteBackward)(args); }
void momGather(const MomGatherArgs& args) {
  const size_t bytes = static_cast<size_t>(args.width) * dtypeSize(args.dtype);
  if (bytes == 0) return;  // and perhaps no memory
  const Split work = splitWork(args.tokens * args.k, 2 * static_cast<int64_t>(bytes));
  parallelFor(work.tasks, args.cancel, [&](int64_t t) {
    for (int64_t i = work.begin(t); i < work.end(t); ++i)
      std::memcpy(static_cast<char*>(args.y) + static_cast<size_t>(i) * bytes,
                  static_cast<const char*>(args.x) + static_cast<size_t>(args.order[i] / args.k) * bytes, bytes);
  });
}
void momGatherBackward(const MomGatherBackwardArgs& args) { RANKONE_PICK(momGatherBackward)(args); }
void momCombine(const MomCombineArgs& args) { RANKONE_PICK(momCombine)(args); }
void momCombineBackward(const MomCombineBackwardArgs& args) { RANKONE_PICK(momCombineBackward)(args); }

}  // namespace rankone

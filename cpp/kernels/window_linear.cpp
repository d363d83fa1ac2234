#include "kernels/window_linear.h"

#include "kernels/attention_plan.h"
#include "kernels/split.h"

#define RANKONE_KERNEL "kernels/window_linear.inl"
#include "core/foreach_isa.h"

namespace rankone {

void windowLinearAttention(const WindowLinearForward& args) { RANKONE_PICK(windowLinearAttention)(args); }
void windowLinearAttentionBackward(const WindowLinearBackward& args) {
  RANKONE_PICK(windowLinearAttentionBackward)(args);
}

}  // namespace rankone

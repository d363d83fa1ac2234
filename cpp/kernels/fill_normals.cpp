#include "kernels/fill_normals.h"

#include <algorithm>

#define RANKONE_KERNEL "kernels/fill_normals.inl"
#include "core/foreach_isa.h"

namespace rankone {

void fillNormals(const FillNormalsArgs& args) { RANKONE_PICK(fillNormals)(args); }

}  // namespace rankone

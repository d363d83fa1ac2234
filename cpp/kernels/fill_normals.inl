#include "kernels/random_normals.inl"

namespace rankone {
namespace RANKONE_ISA_NS {

void fillNormals(const FillNormalsArgs& p) {
  constexpr int64_t kPiece = 8192;
  parallelFor((p.count + kPiece - 1) / kPiece, p.cancel, [&](int64_t task) {
    const int64_t begin = task * kPiece;
    drawNormals({p.seed, p.stream, p.deviation}, p.first + begin, std::min(kPiece, p.count - begin), p.to + begin);
  });
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone

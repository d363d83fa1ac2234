namespace rankone {
namespace RANKONE_ISA_NS {

void narrowAll(const float* from, int64_t n, void* to, DType dtype, const CancelFlag* cancel) {
  constexpr int64_t kPart = 16384;
  parallelFor((n + kPart - 1) / kPart, cancel, [&](int64_t task) {
    const int64_t begin = task * kPart, count = n - begin < kPart ? n - begin : kPart;
    narrow(from + begin, count, to, dtype, begin);
  });
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone

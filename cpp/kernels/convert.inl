namespace rankone {
namespace RANKONE_ISA_NS {

constexpr int64_t kPart = 16384;

void widenAll(const void* from, DType dtype, int64_t at, int64_t n, float* to, const CancelFlag* cancel) {
  parallelFor((n + kPart - 1) / kPart, cancel, [&](int64_t task) {
    const int64_t begin = task * kPart, count = n - begin < kPart ? n - begin : kPart;
    widen(from, dtype, at + begin, count, to + begin);
  });
}

void narrowAll(const float* from, int64_t n, void* to, DType dtype, const CancelFlag* cancel) {
  parallelFor((n + kPart - 1) / kPart, cancel, [&](int64_t task) {
    const int64_t begin = task * kPart, count = n - begin < kPart ? n - begin : kPart;
    narrow(from + begin, count, to, dtype, begin);
  });
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone

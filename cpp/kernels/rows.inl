// Vectors of rows whose dtype is known at run time only: a kernel with much arithmetic is so compiled once and not for
// every dtype of its arguments, for code is what the package weighs. The branches are foreseen, and rows in memory are
// read as they come; kernels that do next to nothing with what they load are templates still, see elementwise.inl.
namespace rankone {
namespace RANKONE_ISA_NS {

#define RANKONE_OUTLINE inline __attribute__((noinline))

// Elements of a tensor from element `at` on; no tensor: null, and so the rows.
struct AnyRow {
  const void* data;
  DType dtype;
  AnyRow(const void* tensor, DType t, int64_t at)
      : data(tensor ? static_cast<const char*>(tensor) + at * static_cast<int64_t>(dtypeSize(t)) : nullptr), dtype(t) {}
  explicit operator bool() const { return data != nullptr; }
};
struct AnyOutput {
  void* data;
  DType dtype;
  AnyOutput(void* tensor, DType t, int64_t at)
      : data(tensor ? static_cast<char*>(tensor) + at * static_cast<int64_t>(dtypeSize(t)) : nullptr), dtype(t) {}
  explicit operator bool() const { return data != nullptr; }
};

// widen() and narrow() of half.inl, which compilers copy to where they are called, as one function for all kernels.
RANKONE_OUTLINE void widenSpan(const void* tensor, DType dtype, int64_t at, int64_t n, float* to) {
  widen(tensor, dtype, at, n, to);
}
RANKONE_OUTLINE void narrowSpan(const float* from, int64_t n, void* tensor, DType dtype, int64_t at) {
  narrow(from, n, tensor, dtype, at);
}

// What takes the baseline many instructions is a function there.
#if RANKONE_LEVEL == 0
#define RANKONE_CONVERSION RANKONE_OUTLINE
#else
#define RANKONE_CONVERSION RANKONE_INLINE
#endif
RANKONE_CONVERSION Vec widenF16(HVec x) { return F16::widen(x); }
RANKONE_CONVERSION HVec narrowF16(Vec x) { return F16::narrow(x); }
#undef RANKONE_CONVERSION

// No calls for the last vector of a row: what a loop keeps in registers would not outlive one.
#if RANKONE_LEVEL == 2
RANKONE_INLINE Vec get(const AnyRow& row, int64_t i, int n) {
  if (row.dtype == DType::F32) return loadPart(static_cast<const float*>(row.data) + i, n);
  const HVec bits = loadBitsPart(static_cast<const uint16_t*>(row.data) + i, n);
  return row.dtype == DType::BF16 ? BF16::widen(bits) : F16::widen(bits);
}
RANKONE_INLINE void put(const AnyOutput& row, int64_t i, Vec x, int n) {
  if (row.dtype == DType::F32) return storeUpTo(static_cast<float*>(row.data) + i, x, n);
  const HVec bits = row.dtype == DType::BF16 ? BF16::narrow(x) : F16::narrow(x);
  uint16_t* to = static_cast<uint16_t*>(row.data) + i;
  n == kLanes ? storeBits(to, bits) : storeBitsPart(to, bits, n);
}
#else
typedef uint16_t __attribute__((may_alias)) Word;
RANKONE_INLINE void copyWords(const void* from, int64_t n, void* to) {
  for (int64_t i = 0; i < n; ++i) {
    static_cast<Word*>(to)[i] = static_cast<const Word*>(from)[i];
    asm volatile("");  // else compilers call memcpy
  }
}

RANKONE_INLINE Vec get(const AnyRow& row, int64_t i, int n) {
  const int64_t words = row.dtype == DType::F32 ? 2 : 1;
  const void* from = static_cast<const Word*>(row.data) + i * words;
  float part[kLanes];
  if (__builtin_expect(n < kLanes, 0)) {
    store(part, zero());
    copyWords(from, n * words, part);
    from = part;
  }
  if (row.dtype == DType::F32) return load(static_cast<const float*>(from));
  const HVec bits = loadBits(static_cast<const uint16_t*>(from));
  return row.dtype == DType::BF16 ? BF16::widen(bits) : widenF16(bits);
}
RANKONE_INLINE void put(const AnyOutput& row, int64_t i, Vec x, int n) {
  const int64_t words = row.dtype == DType::F32 ? 2 : 1;
  void* end = static_cast<Word*>(row.data) + i * words;
  float part[kLanes];
  void* to = n < kLanes ? part : end;
  if (row.dtype == DType::F32)
    store(static_cast<float*>(to), x);
  else
    storeBits(static_cast<uint16_t*>(to), row.dtype == DType::BF16 ? BF16::narrow(x) : narrowF16(x));
  if (__builtin_expect(n < kLanes, 0)) copyWords(part, n * words, end);
}
#endif

}  // namespace RANKONE_ISA_NS
}  // namespace rankone

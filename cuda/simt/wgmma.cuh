// The interface under nvcc, continued: wgmma m64nNk16, f32 accumulators, bf16 or f16 operands (sm_90a).
#pragma once

#include "simt/hopper.cuh"

// Accumulators as operands of inline PTX, and their numbers.
#define SIMT_REGISTERS_8 "%0,%1,%2,%3,%4,%5,%6,%7"
#define SIMT_ACCUMULATORS_8 \
  "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])
#define SIMT_REGISTERS_16 SIMT_REGISTERS_8 ", %8,%9,%10,%11,%12,%13,%14,%15"
#define SIMT_ACCUMULATORS_16                                                                                    \
  SIMT_ACCUMULATORS_8, "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), \
      "+f"(d[15])
#define SIMT_REGISTERS_32 SIMT_REGISTERS_16 ", %16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define SIMT_ACCUMULATORS_32                                                                                       \
  SIMT_ACCUMULATORS_16, "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), \
      "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]),      \
      "+f"(d[31])
#define SIMT_REGISTERS_48 SIMT_REGISTERS_32 ", %32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define SIMT_ACCUMULATORS_48                                                                                       \
  SIMT_ACCUMULATORS_32, "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), \
      "+f"(d[39]), "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]),      \
      "+f"(d[47])
#define SIMT_REGISTERS_64 SIMT_REGISTERS_48 ", %48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define SIMT_ACCUMULATORS_64                                                                                       \
  SIMT_ACCUMULATORS_48, "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), \
      "+f"(d[55]), "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]),      \
      "+f"(d[63])
#define SIMT_REGISTERS_128                                                                                         \
  SIMT_REGISTERS_64                                                                                                \
  ", "                                                                                                             \
  "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%"  \
  "91,%92,%93,%94,%95,%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,%112,%113,%114," \
  "%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define SIMT_ACCUMULATORS_128                                                                                         \
  SIMT_ACCUMULATORS_64, "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67]), "+f"(d[68]), "+f"(d[69]), "+f"(d[70]),    \
      "+f"(d[71]), "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75]), "+f"(d[76]), "+f"(d[77]), "+f"(d[78]),         \
      "+f"(d[79]), "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83]), "+f"(d[84]), "+f"(d[85]), "+f"(d[86]),         \
      "+f"(d[87]), "+f"(d[88]), "+f"(d[89]), "+f"(d[90]), "+f"(d[91]), "+f"(d[92]), "+f"(d[93]), "+f"(d[94]),         \
      "+f"(d[95]), "+f"(d[96]), "+f"(d[97]), "+f"(d[98]), "+f"(d[99]), "+f"(d[100]), "+f"(d[101]), "+f"(d[102]),      \
      "+f"(d[103]), "+f"(d[104]), "+f"(d[105]), "+f"(d[106]), "+f"(d[107]), "+f"(d[108]), "+f"(d[109]), "+f"(d[110]), \
      "+f"(d[111]), "+f"(d[112]), "+f"(d[113]), "+f"(d[114]), "+f"(d[115]), "+f"(d[116]), "+f"(d[117]), "+f"(d[118]), \
      "+f"(d[119]), "+f"(d[120]), "+f"(d[121]), "+f"(d[122]), "+f"(d[123]), "+f"(d[124]), "+f"(d[125]), "+f"(d[126]), \
      "+f"(d[127])

// The instruction for N columns of R = N / 2 accumulators; the operands that follow them are numbered R, R + 1, ...
#define SIMT_WGMMA_SHARED(N, R, TYPE, A, B, P, T0, T1)                                                              \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #P ", 0;\nwgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE \
               "." TYPE " {" SIMT_REGISTERS_##R "}, %" #A ", %" #B ", p, 1, 1, %" #T0 ", %" #T1 ";\n}"              \
               : SIMT_ACCUMULATORS_##R                                                                              \
               : "l"(a), "l"(b), "r"(keep), "n"(TA), "n"(TB)                                                        \
               : "memory")
#define SIMT_WGMMA_REGISTERS(N, R, TYPE, A0, A1, A2, A3, B, P, T1)                                                  \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #P ", 0;\nwgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE \
               "." TYPE " {" SIMT_REGISTERS_##R "}, {%" #A0 ",%" #A1 ",%" #A2 ",%" #A3 "}, %" #B ", p, 1, 1, %" #T1 \
                                                ";\n}"                                                              \
               : SIMT_ACCUMULATORS_##R                                                                              \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(keep), "n"(TB)                             \
               : "memory")

namespace simt {

// d[64xN] = a[64x16] b[16xN] + (accumulate ? d : 0), N in {16, 32, 64, 96, 128, 256}. d holds m16n8 tiles, four
// elements a tile; a in registers lies as for mma_bf16. TA, TB: the operand in shared memory lies transposed.
template <int N, int TA = 0, int TB = 0>
SIMT_DEV void wgmma_bf16(float (&d)[N / 2], uint64_t a, uint64_t b, bool accumulate = true) {
  static_assert(N == 16 || N == 32 || N == 64 || N == 96 || N == 128 || N == 256);
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
  const int keep = accumulate;
  if constexpr (N == 16) SIMT_WGMMA_SHARED(16, 8, "bf16", 8, 9, 10, 11, 12);
  if constexpr (N == 32) SIMT_WGMMA_SHARED(32, 16, "bf16", 16, 17, 18, 19, 20);
  if constexpr (N == 64) SIMT_WGMMA_SHARED(64, 32, "bf16", 32, 33, 34, 35, 36);
  if constexpr (N == 96) SIMT_WGMMA_SHARED(96, 48, "bf16", 48, 49, 50, 51, 52);
  if constexpr (N == 128) SIMT_WGMMA_SHARED(128, 64, "bf16", 64, 65, 66, 67, 68);
  if constexpr (N == 256) SIMT_WGMMA_SHARED(256, 128, "bf16", 128, 129, 130, 131, 132);
#else
  __trap();
#endif
}
template <int N, int TB = 0>
SIMT_DEV void wgmma_bf16(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, bool accumulate = true) {
  static_assert(N == 16 || N == 32 || N == 64 || N == 96 || N == 128 || N == 256);
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
  const int keep = accumulate;
  if constexpr (N == 16) SIMT_WGMMA_REGISTERS(16, 8, "bf16", 8, 9, 10, 11, 12, 13, 14);
  if constexpr (N == 32) SIMT_WGMMA_REGISTERS(32, 16, "bf16", 16, 17, 18, 19, 20, 21, 22);
  if constexpr (N == 64) SIMT_WGMMA_REGISTERS(64, 32, "bf16", 32, 33, 34, 35, 36, 37, 38);
  if constexpr (N == 96) SIMT_WGMMA_REGISTERS(96, 48, "bf16", 48, 49, 50, 51, 52, 53, 54);
  if constexpr (N == 128) SIMT_WGMMA_REGISTERS(128, 64, "bf16", 64, 65, 66, 67, 68, 69, 70);
  if constexpr (N == 256) SIMT_WGMMA_REGISTERS(256, 128, "bf16", 128, 129, 130, 131, 132, 133, 134);
#else
  __trap();
#endif
}
template <int N, int TA = 0, int TB = 0>
SIMT_DEV void wgmma_f16(float (&d)[N / 2], uint64_t a, uint64_t b, bool accumulate = true) {
  static_assert(N == 16 || N == 32 || N == 64 || N == 96 || N == 128 || N == 256);
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
  const int keep = accumulate;
  if constexpr (N == 16) SIMT_WGMMA_SHARED(16, 8, "f16", 8, 9, 10, 11, 12);
  if constexpr (N == 32) SIMT_WGMMA_SHARED(32, 16, "f16", 16, 17, 18, 19, 20);
  if constexpr (N == 64) SIMT_WGMMA_SHARED(64, 32, "f16", 32, 33, 34, 35, 36);
  if constexpr (N == 96) SIMT_WGMMA_SHARED(96, 48, "f16", 48, 49, 50, 51, 52);
  if constexpr (N == 128) SIMT_WGMMA_SHARED(128, 64, "f16", 64, 65, 66, 67, 68);
  if constexpr (N == 256) SIMT_WGMMA_SHARED(256, 128, "f16", 128, 129, 130, 131, 132);
#else
  __trap();
#endif
}
template <int N, int TB = 0>
SIMT_DEV void wgmma_f16(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, bool accumulate = true) {
  static_assert(N == 16 || N == 32 || N == 64 || N == 96 || N == 128 || N == 256);
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
  const int keep = accumulate;
  if constexpr (N == 16) SIMT_WGMMA_REGISTERS(16, 8, "f16", 8, 9, 10, 11, 12, 13, 14);
  if constexpr (N == 32) SIMT_WGMMA_REGISTERS(32, 16, "f16", 16, 17, 18, 19, 20, 21, 22);
  if constexpr (N == 64) SIMT_WGMMA_REGISTERS(64, 32, "f16", 32, 33, 34, 35, 36, 37, 38);
  if constexpr (N == 96) SIMT_WGMMA_REGISTERS(96, 48, "f16", 48, 49, 50, 51, 52, 53, 54);
  if constexpr (N == 128) SIMT_WGMMA_REGISTERS(128, 64, "f16", 64, 65, 66, 67, 68, 69, 70);
  if constexpr (N == 256) SIMT_WGMMA_REGISTERS(256, 128, "f16", 128, 129, 130, 131, 132, 133, 134);
#else
  __trap();
#endif
}

}  // namespace simt

// matmul with operands rounded to bf16 (to nearest even, subnormals to zero), two products at a time by the bf16 dot
// product, float32 sums. Everything else is matmul.inl's, with a pair of steps of K where that has one.
//
// Error <= (2 * 2^-9 + matmul.inl's) * sum |a||b|.
#include "kernels/matmul_unit_bf16.inl"
//
#include "kernels/matmul.inl"

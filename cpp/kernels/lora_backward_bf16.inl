// lora_backward.inl with products of operands rounded to bf16, two at a time by the bf16 dot product.
#include "kernels/matmul_unit_bf16.inl"
//
#include "kernels/lora_backward.inl"

// What the kernel of the fused LoRA product reads.
#pragma once
#include "backend.h"
#include "lora_dropout.cuh"
#include "lora_plan.h"
#include "matmul_tile_weights.cuh"

// Last, as everywhere.
#include "simt/simt.cuh"

namespace rankone::cuda {

struct LoraForwardArgs {
  const uint8_t* operand;  // x as it is multiplied, rows of operandStride bytes, operandBytes of which are x
  int64_t operandStride, operandBytes;
  bool operandInOrder;  // its rows are in the order of `order`; else as x's
  RankoneFloats x;      // [rows, in] as it came
  int64_t in, out;
  bool hasBase, identity;
  WeightFormat format;
  const uint8_t* codes;  // W [out, in], rows format.rowBytes apart
  const float* scales;   // [out, format.blocks], or of int8 [out]
  RankoneFloats bias;    // [out]
  const RankoneAdapter* adapters;
  const uint32_t* order;
  const LoraTile* tiles;
  const LoraTileUse* uses;
  const uint32_t* pairs;
  const LoraStrip* strips;
  const LoraColumn* columns;
  const LoraGroup* groups;
  int64_t tileCount, stripCount, blockCount;  // blockCount: tiles along the outputs
  bool hasUses;
  int64_t perRow;
  const float* gates;  // by pair, or null
  Dropout dropout;
  float* t;  // A x' [pairs, tStride]
  int64_t tStride;
  float* w;  // what B is multiplied by [pairs, wStride], a multiple of 4, and zeros up to the next one
  int64_t wStride;
  float* p;              // of adapters that mix their ranks, or of which each gate needs all: [pairs, wStride]
  uint32_t* stripsDone;  // [tiles] how many
  uint32_t* ranksDone;   // [tiles] 1 when w is there
  void* y;               // [rows, out] in x's dtype
};

SIMT_DEV float loadFloat(const void* data, int32_t dtype, int64_t i) {
  if (dtype == RANKONE_F32) return static_cast<const float*>(data)[i];
  const uint16_t u = static_cast<const uint16_t*>(data)[i];
  return dtype == RANKONE_BF16 ? simt::bf16_to_f32(u) : simt::f16_to_f32(u);
}

SIMT_DEV void storeFloat(void* data, int32_t dtype, int64_t i, float v) {
  if (dtype == RANKONE_F32) {
    static_cast<float*>(data)[i] = v;
  } else {
    static_cast<uint16_t*>(data)[i] = dtype == RANKONE_BF16 ? simt::f32_to_bf16(v) : simt::f32_to_f16(v);
  }
}

}  // namespace rankone::cuda

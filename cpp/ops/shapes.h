// Shape checks that several ops share. Like those of op.h they throw Error with the argument's name.
#pragma once
#include "ops/op.h"

namespace rankone {

// Every required input is there, and every input has one of its spec's dtypes and sizes whose product can be counted.
void expectInputs(const Call& call);

// `input`, if given, has the shape of `like`.
void expectSameShape(const Call& call, int input, int like);

// `input` has at least `rank` dimensions.
void expectMinRank(const Call& call, int input, int rank, const char* pattern);

// A positive or zero number, such as an epsilon.
void expectNotNegative(const Call& call, int option);

// Packed sequences: `input`, if given, says where each of them begins, counted in tokens, of which there are T (as
// messages call them, `size`), and B is 1. How many there are: B of them where they are not packed.
int64_t expectStarts(const Call& call, int input, int64_t B, int64_t T, const char* size = "T");

// Slots of a state pool: one per sequence, in range, none twice.
void expectStateRows(const Call& call, int input, int64_t sequences, int64_t slots);

// The product of the sizes can be counted, a zero among them taken as one.
void expectCountable(const char* name, std::initializer_list<int64_t> sizes);

// Shape of an output, as far as it can be counted: inputs of size zero allow any other size.
void setOutput(Call& call, int output, const int64_t* shape, int rank, DType dtype = DType::F32);
void setOutput(Call& call, int output, std::initializer_list<int64_t> shape, DType dtype = DType::F32);
void setOutputLike(Call& call, int output, const Tensor& like, DType dtype = DType::F32);

// The dtype of the gradient of an argument `of`: float32, or its own where option gradDtype, "f32|input", says so.
DType gradientDType(const Call& call, int option, const Tensor& of);

// All dimensions but the last `inner`, as one.
int64_t outerSize(const Tensor& t, int inner);

}  // namespace rankone

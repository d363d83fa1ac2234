// What `--help` says below the options.
import { models } from './bench/models';
import { shapeText } from './operation';

const operationsHelp = `
Operations:
  linearAttention retention lightningAttention simpleGla gla hgrn2 mamba2
  deltaNet deltaProduct gatedDeltaNet gatedDeltaProduct kda
  cells of the grid: GATE/additive, GATE/delta, GATE/delta/2, GATE/delta/3
    with GATE one of none, head, token, channel
  around a cell: fused/GATE/UPDATE (norm and activations inside), packed/GATE/UPDATE (several sequences), normalize,
    bf16/GATE/UPDATE (products in bfloat16, on avx512bf16 only)
  scans beyond the grid: dplr rwkv7 rwkv6 hgrn s4d s4d/convolution tttLinear
  segments of a sequence: segmentSummary segmentGradient (of gla; /delta: of gatedDeltaNet) composeStates
  parts of a layer: matmul bf16/matmul rmsNorm rmsNormGated l2norm rope swiglu shortConv embedding crossEntropy adamW
    sigmoid/rmsNormGated after/rmsNormGated sigmoid/after/rmsNormGated partial/rope packed/shortConv
    featureMap/elu1 featureMap/relu featureMap/softmax featureMap/focused featureMap/hedgehog featureMap/taylor2
    bidirectionalLinearAttention, and that /rankAugmented, /softmax, /taylor2
    attention attention/token (one token after many) localLinearAttention windowLinearAttention
    ligerAttention momRoute momGather momCombine
  companions of adapters: spmm sddmm scatterAdd kroneckerLinear basisCombination randLora doraNorms rowSketch
    rowSketchGradient
  the fused LoRA product: lora/FORMAT on a base of FORMAT f32, bf16, f16, int8, q8, nf4, q4; lora/FORMAT/top2 with two adapters
    a row; bf16/lora/FORMAT, int8/lora/int8 with products in bfloat16 or int8 (on avx512bf16 only)`;

export const verifyHelp = `${operationsHelp}

Every operation is computed in all of its forms and held against a float64 reference.
Each number is the worst error as a share of what the numerical contract allows.
Exit code 1 when anything fails.

Examples:
  rankone verify --quick
  rankone verify --op gatedDeltaNet,kda --isa avx2`;

const modelLines = models.flatMap(({ name, op, shape, title, source }) => [
  `  ${name.padEnd(12)} ${title}: ${op} ${shapeText(shape)}`,
  `${' '.repeat(15)}${source}`,
]);

export const benchHelp = `${operationsHelp}

Shapes: B,T,H,HV,K,V of the recurrences (of mamba2 H is its groups, K its state width, V its head width);
  B,T,H,K,V of dplr, rwkv7 and rwkv6; B,T,D of hgrn; B,T,D,N of s4d; B,T,H,D of tttLinear;
  B,T,H,K,V of segmentSummary and segmentGradient, R,N,H,K,V of composeStates, R segments;
  M,N,K of matmul: y [M,N] = a [M,K] b^T; rows,D of the norms, swiglu and adamW; B,T,D,W of shortConv; B,T,H,D of rope;
  B,T,H,K of featureMap (D of hedgehog);
  B,T,S,H,HKV,K,V of attention and localLinearAttention (T queries after S - T keys), and of bidirectionalLinearAttention;
  B,T,H,HKV,K,V,F of windowLinearAttention and, without F, of ligerAttention (F features, a window of 64);
  B,T,M,H,V of momRoute, momGather and momCombine (2 of M memories a token);
  rows,D,N of embedding (N ids); N,V of crossEntropy; M,N,K,r,E of lora (M rows, W [N,K], E adapters of rank r).

Suite lora-linear: the fused LoRA product beside its base product, in the same turns. --op names lora operations, --shape is
  OUT,IN of the weight (4096,4096), --tokens numbers of rows (512,1,8,64), --pass forward or forward-backward.

Models, one layer of each:
${modelLines.join('\n')}

What gives a wrong answer is not timed, and the exit code is 1; so it is where --compare finds something slower.

Examples:
  rankone bench --op gatedDeltaNet --shape 1,2048,16,16,128,128 --pass forward
  rankone bench --op matmul,bf16/matmul --shape 512,4096,4096 --threads 1,2 --json matmul.json
  rankone bench --op token/delta/2 --isa avx2,avx512 --dtype f32,bf16
  rankone bench --model all --pass forward,decode --peers all --html models.html
  rankone bench --op kda --pass forward --tokens 1024,4096,16384,65536 --html scaling.html
  rankone bench --compare last.json
  rankone bench lora-linear --threads 1 --peers openblas,onnxruntime,ggml`;

// The answers of the fused LoRA product before it is timed.
import { loraLinear, loraLinearBackward } from '#oracle/reference/loraLinear';
import type { TensorLike } from '#oracle/support/tensor';
import type { Case } from '../../benchCase';
import { CheckError } from '../../benchCase';
import { checkedOperation, encode, fractionOfLimit, makeProblem, rowOf } from '../../check';
import { valuesOf } from '../../dtype';
import type { References, Shape, Tensors } from '../../operation';
import { gradientsOf, referenceOf } from '../../ops/lora';

/** More than a tile of rows, and beyond the form for few of them where the case is. */
const MOST_ROWS = 70;
const MOST_ADAPTERS = 100;

/** The widths of the case, fewer rows, and as many adapters beside each other as it has. */
export function checkedShape({ M, E, ...rest }: Shape, perRow: number): Shape {
  const rows = Math.min(M, MOST_ROWS);
  const adapters = E > M || perRow > 1 ? Math.min(E, MOST_ADAPTERS) : Math.ceil((E * rows) / M);
  return { M: rows, ...rest, E: adapters };
}

/**
 * The worst error as a share of the contract's limit: y and dx of a few rows, since a row is independent of the others, and
 * the adapters' gradients, which are sums over all of them. @throws CheckError for one beyond the limit
 */
export function checkLora(one: Case): number {
  const { op, dtype, pass } = one;
  const { perRow } = op.lora!;
  const shape = checkedShape(one.shape, perRow);
  const { inputs, gradients } = makeProblem(op, shape, dtype);
  const rows = [...new Set([0, shape.M >> 1, shape.M - 1])];
  const findings: [name: string, fraction: number][] = [];
  const hold = (name: string, own: TensorLike | undefined, expected: TensorLike): void => {
    findings.push([name, fractionOfLimit(own, expected, rowOf(op, name, shape, dtype))]);
  };
  if (pass !== 'backward') {
    const { y } = callOf(one, inputs, '');
    hold('y', picked(y, rows), loraLinear(referenceOf(inputs, perRow, { rows })).y);
  }
  if (pass !== 'forward') {
    const all = { ...inputs, ...gradients };
    const own = callOf(one, all, 'Backward');
    hold('dx', picked(own.dx, rows), loraLinearBackward(referenceOf(all, perRow, { rows })).dx);
    if (shape.E > 0) {
      const sums = loraLinearBackward(referenceOf(all, perRow, { base: false }));
      const { dA, dB, dGates } = gradientsOf(sums, shape.E);
      for (const [name, expected] of Object.entries({ dA, dB, dGates }))
        if (expected) hold(name, own[name], expected);
    }
  }
  const [name, worst] = findings.reduce((a, b) => (b[1] > a[1] ? b : a));
  if (worst <= 1) return worst;
  throw new CheckError(
    `${op.name} ${pass} ${dtype}: ${name} is off by ${worst.toPrecision(3)} times the limit, not timed`,
  );
}

function callOf({ op, dtype }: Case, tensors: Tensors, suffix: string): References {
  const bound = op.bind!(encode({ op, dtype }, tensors) as Tensors);
  try {
    return bound.results(checkedOperation(`${op.call}${suffix}Sync`)(bound.inputs, op.options));
  } finally {
    bound.dispose();
  }
}

/** Some rows of a result. */
function picked(result: TensorLike | undefined, rows: readonly number[]): TensorLike | undefined {
  if (!result) return undefined;
  const { data, shape } = valuesOf(result);
  const width = shape[1];
  const own = Array.from({ length: rows.length * width }, (_, i) => {
    return data[rows[Math.floor(i / width)] * width + (i % width)];
  });
  return { data: own, shape: [rows.length, width] };
}

// One instruction set of `rankone verify`, in a process of its own: RANKONE_ISA is read once.

import type { Finding, Form } from './check';
import { check, formsOf } from './check';
import type { Dtype } from './dtype';
import { engine } from './engine';
import { findOperations } from './ops';

/** What the parent asks for, as this process's argument. */
export interface Task {
  dtypes: Dtype[];
  ops: string[];
  quick: boolean;
}

/** The worst of an operation over its shapes, per form. */
export interface Row {
  dtype: Dtype;
  op: string;
  findings: Finding[];
}

function verify(op: ReturnType<typeof findOperations>[number], dtype: Dtype, quick: boolean): Row {
  const worst = new Map<Form, Finding>();
  for (const shape of quick ? op.shapes.slice(0, 1) : op.shapes) {
    for (const finding of check(op, shape, dtype, formsOf(op))) {
      const known = worst.get(finding.form);
      if (!known || finding.fraction > known.fraction) worst.set(finding.form, finding);
    }
  }
  return { dtype, op: op.name, findings: [...worst.values()] };
}

const { dtypes, ops, quick }: Task = JSON.parse(process.argv[2]);
const { isa } = engine().info();
for (const dtype of dtypes) {
  for (const op of findOperations(ops)) {
    if (op.isa !== undefined && op.isa !== isa) continue;
    if (dtype === 'f32' || op.halves) process.send!(verify(op, dtype, quick));
  }
}
process.disconnect();

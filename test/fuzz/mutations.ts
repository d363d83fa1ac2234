/** Changes to a call's arguments, as plain data that can be written down and played back. */
import fc from 'fast-check';
import type { EntryDescription } from '../../ts/binding';
import type {
  ArrayForm,
  ArrayNode,
  GetterAction,
  Holder,
  Node,
  ObjectNode,
  Property,
  ShapeForm,
  ShapeNode,
} from './build';
import {
  arrayForms,
  getterActions,
  holders,
  objectNode,
  raw,
  shapeForms,
  tensorNode,
} from './build';
import { hostile, hostileNames, strangeKeys } from './hostile';

export type Mutation =
  | { do: 'set'; at: number; value: string }
  | { do: 'getter'; at: number; action: GetterAction; whose: number }
  | { do: 'holder'; at: number; how: Holder }
  | { do: 'key'; at: number; key: number; value: string }
  | { do: 'array'; at: number; form: ArrayForm }
  | { do: 'shape'; at: number; form: ShapeForm }
  | { do: 'dim'; at: number; index: number; value: string }
  | { do: 'rank'; at: number; by: number }
  | { do: 'alias'; at: number; other: number }
  | { do: 'absent'; at: number }
  | { do: 'input'; at: number; value: string; shape: number[] }
  | { do: 'option'; at: number; value: number }
  | { do: 'indices'; at: number; values: number[] }
  | { do: 'out'; at: number; shape: number[] };

const at = fc.nat(63);
const value = fc.constantFrom(...hostileNames);
const small = fc.array(fc.nat(4), { maxLength: 5 });

export const mutation: fc.Arbitrary<Mutation> = fc.oneof(
  { weight: 4, arbitrary: fc.record({ do: fc.constant('set' as const), at, value }) },
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant('getter' as const),
      at,
      action: fc.constantFrom(...getterActions),
      whose: fc.nat(9),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constant('holder' as const),
      at,
      how: fc.constantFrom(...holders),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant('key' as const),
      at,
      key: fc.nat(strangeKeys.length - 1),
      value,
    }),
  },
  {
    weight: 5,
    arbitrary: fc.record({
      do: fc.constant('array' as const),
      at,
      form: fc.constantFrom(...arrayForms),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('shape' as const),
      at,
      form: fc.constantFrom(...shapeForms),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({ do: fc.constant('dim' as const), at, index: fc.nat(3), value }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant('rank' as const),
      at,
      by: fc.integer({ min: -2, max: 4 }),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('alias' as const), at, other: at }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('absent' as const), at }) },
  {
    weight: 1,
    arbitrary: fc.record({ do: fc.constant('input' as const), at, value, shape: small }),
  },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('option' as const), at, value: fc.nat(7) }) },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant('indices' as const),
      at,
      values: fc.array(fc.oneof(fc.integer({ min: -2, max: 12 }), fc.integer()), { maxLength: 6 }),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('out' as const), at, shape: small }) },
);

interface Found {
  objects: ObjectNode[];
  properties: { of: ObjectNode; key: string; property: Property }[];
  arrays: ArrayNode[];
  shapes: ShapeNode[];
}

function search(node: Node, found: Found): Found {
  if (node.kind === 'array') found.arrays.push(node);
  if (node.kind === 'shape') found.shapes.push(node);
  if (node.kind === 'object') {
    found.objects.push(node);
    for (const [key, property] of node.props) {
      found.properties.push({ of: node, key, property });
      search(property.node, found);
    }
  }
  return found;
}

/** Arguments of a call: `{inputs, options}`. */
export function mutate(root: ObjectNode, entry: EntryDescription, m: Mutation): void {
  const found = search(root, { objects: [], properties: [], arrays: [], shapes: [] });
  const pick = <T>(list: T[], index: number): T | undefined => list[index % (list.length || 1)];
  const part = (name: string): ObjectNode | undefined => {
    const node = root.props.get(name)?.node;
    return node?.kind === 'object' ? node : undefined;
  };
  switch (m.do) {
    case 'set': {
      const chosen = pick(found.properties, m.at);
      if (chosen) chosen.property.node = raw(hostile(m.value));
      break;
    }
    case 'getter': {
      // Not of the arguments themselves: those are no properties of anything.
      const inner = found.properties.filter(({ of }) => of !== root);
      const chosen = pick(inner, m.at);
      if (chosen) Object.assign(chosen.property, { action: m.action, target: String(m.whose) });
      break;
    }
    case 'holder': {
      const inner = found.objects.filter((node) => node !== root);
      const chosen = pick(inner, m.at);
      if (chosen) chosen.holder = m.how;
      break;
    }
    case 'key': {
      const chosen = pick(
        found.objects.filter((node) => node !== root),
        m.at,
      );
      chosen?.props.set(strangeKeys[m.key], { node: raw(hostile(m.value)) });
      break;
    }
    case 'array': {
      const chosen = pick(found.arrays, m.at);
      if (chosen) chosen.form = m.form;
      break;
    }
    case 'shape': {
      const chosen = pick(found.shapes, m.at);
      if (chosen) chosen.form = m.form;
      break;
    }
    case 'dim': {
      const chosen = pick(found.shapes, m.at);
      if (chosen?.value.length) chosen.value[m.index % chosen.value.length] = hostile(m.value);
      break;
    }
    case 'rank': {
      const chosen = pick(found.shapes, m.at);
      if (chosen && m.by < 0) chosen.value.splice(m.by);
      else if (chosen) chosen.value.unshift(...new Array(m.by).fill(1));
      break;
    }
    case 'alias': {
      const [one, other] = [pick(found.arrays, m.at), pick(found.arrays, m.other)];
      const free = found.arrays.every((node) => !node.alias);
      if (one && other && one !== other && free) one.alias = other;
      break;
    }
    case 'absent': {
      const chosen = pick(
        found.properties.filter(({ of }) => of !== root),
        m.at,
      );
      chosen?.of.props.delete(chosen.key);
      break;
    }
    case 'input': {
      const places = [
        ...entry.inputs.map(({ name, group }) => ({ name, group })),
        ...['state', 'saved', 'bias'].map((name) => ({ name, group: undefined })),
      ];
      const { name, group } = places[m.at % places.length];
      const length = m.shape.reduce((a, b) => a * b, 1);
      const tensor = tensorNode({ data: new Float32Array(length), shape: m.shape });
      const indices: Node = { kind: 'array', value: Int32Array.from(m.shape), form: 'plain' };
      const node = group === '' ? indices : m.shape.length ? tensor : raw(hostile(m.value));
      place(part(group === undefined ? 'inputs' : 'options'), group, name, node);
      break;
    }
    case 'option': {
      const chosen = pick(entry.options, m.at);
      if (chosen) place(part('options'), chosen.group, chosen.name, raw(legal(chosen, m.value)));
      break;
    }
    case 'indices': {
      const integers = found.arrays.filter(
        ({ value }) => value instanceof Int32Array || value instanceof BigInt64Array,
      );
      const chosen = pick(integers, m.at);
      if (chosen?.value instanceof BigInt64Array)
        chosen.value = BigInt64Array.from(m.values, (x) => BigInt(x) << (x & 1 ? 40n : 0n));
      else if (chosen) chosen.value = Int32Array.from(m.values);
      break;
    }
    case 'out': {
      const options = part('options');
      const name = pick(entry.outputs, m.at)?.name;
      if (!options || !name) break;
      const length = m.shape.reduce((a, b) => a * b, 1);
      const tensor = tensorNode({ data: new Float32Array(length), shape: m.shape });
      const out = options.props.get('out')?.node;
      if (out?.kind === 'object') out.props.set(name, { node: tensor });
      else options.props.set('out', { node: objectNode({ [name]: tensor }) });
      break;
    }
  }
}

/** Sets a property of the arguments, or of one of the groups among the options. */
function place(node: ObjectNode | undefined, group: string | undefined, name: string, value: Node) {
  if (!node) return;
  if (!group) {
    node.props.set(name, { node: value });
    return;
  }
  const inner = node.props.get(group)?.node;
  if (inner?.kind === 'object') inner.props.set(name, { node: value });
  else node.props.set(group, { node: objectNode({ [name]: value }) });
}

/** A value of the option's kind; of a kind that is not known here, anything. */
function legal({ kind, choices }: EntryDescription['options'][number], at: number): unknown {
  switch (kind) {
    case 'flag':
      return at % 2 === 0;
    case 'integer':
      return [1, 2, 3, 16, 64, 0, -1, 5][at];
    case 'number':
      return [1, 0.5, 0, -1, 1e-3, 2, 1e6, -0.25][at];
    case 'choice': {
      const all = choices?.split('|') ?? ['none'];
      return all[at % all.length];
    }
    case 'pair':
      return [
        [0, 1],
        [0.1, Infinity],
        [1, 0],
        [-1, 1],
        [0, 0],
        [0.5, 0.5],
        [2, 3],
        [Number.NaN, 1],
      ][at];
    default:
      return hostile(hostileNames[(at * 11) % hostileNames.length]);
  }
}

// What the functions of the engine take and return, as its description has it: where in a call's header each name stands,
// and the numbers among them.
import { description, type EntryDescription } from './binding';
import { deviceIndex } from './device';
import { rangeError, show, typeError } from './errors';
import { TENSOR } from './header';

export interface TensorSlot {
  name: string;
  slot: number;
  at: number;
  dtypes: string[];
  /** An index array without a shape. */
  bare: boolean;
}

export interface OptionSlot {
  name: string;
  kind: EntryDescription['options'][number]['kind'];
  at: number;
  choices: string[];
}

/** What stands under one name: numbers of its own, a tensor or bare index array, or an object of these. */
export type Place = OptionSlot | TensorSlot | GroupSlot;

export interface GroupSlot {
  name: string;
  names: Map<string, number>;
  members: (OptionSlot | TensorSlot)[];
}

export const KINDS = {
  flag: 'true or false',
  integer: 'an integer',
  number: 'a number',
  choice: 'one of its names',
  pair: 'two numbers',
  device: 'a device',
};

/** As messages name it: with the object that it stands inside of. */
function labelled(group: string | undefined, name: string): string {
  return group ? `${group}.${name}` : name;
}

export function numbered(names: string[]): Map<string, number> {
  return new Map(names.map((name, index) => [name, index]));
}

export interface Layout {
  inputs: Place[];
  options: Place[];
  outputs: TensorSlot[];
}

export function layoutOf(entry: EntryDescription): Layout {
  const placed = (group: string | undefined): TensorSlot[] =>
    entry.inputs
      .filter((i) => i.group === group)
      .map(({ name, slot, dtypes }) => {
        const bare = group !== undefined && dtypes.every((d) => d === 'i32' || d === 'i64');
        return { name: labelled(group, name), slot, at: slot * TENSOR, dtypes, bare };
      });
  const numbers = (group: string | undefined): OptionSlot[] =>
    entry.options
      .filter((o) => o.group === group)
      .map(({ name, slot, kind, choices }) => {
        const at = description.optionsAt + 2 * slot;
        return { name: labelled(group, name), kind, at, choices: choices?.split('|') ?? [] };
      });
  const all = [...entry.inputs, ...entry.options].map((i) => i.group).filter((group) => group);
  const groups = [...new Set(all)].map((group): GroupSlot => {
    const choices = numbers(group).filter(({ kind }) => kind === 'choice');
    const others = numbers(group).filter(({ kind }) => kind !== 'choice');
    const members = [...choices, ...placed(group), ...others]; // the first one is never left out
    const names = numbered(members.map((m) => m.name.slice(group!.length + 1)));
    return { name: group!, members, names };
  });
  const amongInputs = (group: GroupSlot): boolean => group.name === entry.inputGroup;
  const inputs = [...placed(undefined), ...groups.filter(amongInputs)];
  const options = [
    ...numbers(undefined),
    ...placed(''),
    ...groups.filter((group) => !amongInputs(group)),
  ];
  const outputs = entry.outputs.map(({ name, slot }) => {
    return { name, slot, at: description.outputsAt + slot * TENSOR, dtypes: [], bare: false };
  });
  return { inputs, options, outputs };
}

/** Into the option's slots. @throws TypeError or RangeError, in the name of `operation` */
export function writeNumber(
  operation: string,
  header: Float64Array,
  option: OptionSlot,
  value: unknown,
): void {
  if (option.kind === 'pair') {
    writePair(operation, header, option, value);
    return;
  }
  header[option.at + 1] = optionValue(operation, option, value);
  header[option.at] = 1;
}

function optionValue(
  operation: string,
  { name, kind, choices }: OptionSlot,
  value: unknown,
): number {
  if (kind === 'flag') {
    if (typeof value !== 'boolean')
      throw typeError(operation, `${name}: expected true or false, got ${show(value)}`);
    return value ? 1 : 0;
  }
  if (kind === 'device') return deviceIndex(operation, value);
  if (kind === 'choice') {
    const index = choices.indexOf(value as string);
    if (index >= 0) return index;
    const text = `${name}: expected one of '${choices.join("', '")}', got ${show(value)}`;
    throw typeof value === 'string' ? rangeError(operation, text) : typeError(operation, text);
  }
  if (typeof value !== 'number')
    throw typeError(
      operation,
      `${name}: expected ${kind === 'integer' ? 'an integer' : 'a number'}, got ${show(value)}`,
    );
  return value;
}

/** Two numbers, in two option slots. */
function writePair(
  operation: string,
  header: Float64Array,
  { name, at }: OptionSlot,
  value: any,
): void {
  const [low, high] = Array.isArray(value) && value.length === 2 ? value : [];
  if (typeof low !== 'number' || typeof high !== 'number')
    throw typeError(
      operation,
      `${name}: expected an array of two numbers, got ${Array.isArray(value) ? 'another one' : show(value)}`,
    );
  header.set([1, low, 1, high], at);
}

/**
 * Arguments as a tree that mutations change, and the JavaScript objects made of it: accessors, classes, proxies, odd
 * buffers. Every leaf knows what one reading of it yields.
 */
import vm from 'node:vm';
import { boom, detached, hostile, planted } from './hostile';
import type { Value } from './problems';

export type Actions = Record<string, () => void>;

/** What reading a property does besides yielding its value. */
export const getterActions = [
  'read',
  'throw error',
  'throw text',
  'change',
  'call',
  'start',
  'detach',
  'shrink',
  'dispose',
  'threads',
] as const;

export type GetterAction = (typeof getterActions)[number];

export const holders = [
  'plain',
  'class',
  'no prototype',
  'frozen',
  'inherited',
  'not enumerable',
  'proxy',
  'revoked',
  'proxy that throws from get',
  'proxy that throws from ownKeys',
  'proxy that throws from getPrototypeOf',
  'proxy that throws from getOwnPropertyDescriptor',
  'proxy with more keys',
  'with a symbol',
] as const;

export type Holder = (typeof holders)[number];

export const arrayForms = [
  'plain',
  'view',
  'shared',
  'resizable',
  'tracking',
  'growable',
  'subclass',
  'other realm',
  'detached',
  'shrunk',
  'out of bounds',
  'short',
  'long',
  'doubles',
  'integers',
  'halves',
  'bytes',
  'numbers',
  'look-alike',
  'proxy',
  'no tensor',
  'NaN',
  'Infinity',
  'huge',
  'tiny',
] as const;

export type ArrayForm = (typeof arrayForms)[number];

export const shapeForms = [
  'plain',
  'frozen',
  'subclass',
  'proxy',
  'typed',
  'text',
  'sparse',
  'length -1',
  'length 2.5',
  'length NaN',
  "length '2'",
  'length 2**53',
  'length 2n',
  'element throws',
  'element changes',
  'revoked',
] as const;

export type ShapeForm = (typeof shapeForms)[number];

export type Node = ObjectNode | ArrayNode | ShapeNode | RawNode;

export interface ObjectNode {
  kind: 'object';
  props: Map<string, Property>;
  holder: Holder;
}

export interface Property {
  node: Node;
  action?: GetterAction;
  /** Whose memory the action is about. */
  target?: string;
}

export interface ArrayNode {
  kind: 'array';
  value: Value['data'];
  form: ArrayForm;
  /** Another tensor's path, whose array this one is too. */
  alias?: ArrayNode;
  made?: unknown;
}

export interface ShapeNode {
  kind: 'shape';
  value: unknown[];
  form: ShapeForm;
}

export interface RawNode {
  kind: 'raw';
  value: unknown;
}

export const raw = (value: unknown): RawNode => ({ kind: 'raw', value });

export function objectNode(entries: Record<string, Node>): ObjectNode {
  const props = new Map(Object.entries(entries).map(([key, node]) => [key, { node }]));
  return { kind: 'object', props, holder: 'plain' };
}

export function tensorNode({ data, shape, dtype }: Value): ObjectNode {
  const node = objectNode({
    data: { kind: 'array', value: data, form: 'plain' },
    shape: { kind: 'shape', value: [...shape], form: 'plain' },
  });
  if (dtype) node.props.set('dtype', { node: raw(dtype) });
  return node;
}

/** What the built objects can do while they are read, and what they did. */
export class World {
  /** Set when an accessor has taken memory away that the call was to use. */
  robbed = false;
  /** The same of any memory, if only of what a tensor had too much. */
  taken = false;
  /** Planted code that may answer in place of the engine. */
  readonly foreign = { throws: false, proxies: false };
  readonly arrays: ArrayNode[] = [];
  /** Memory beside the views, which nobody may touch. */
  readonly guards: { bytes: Uint8Array; skip: [number, number] }[] = [];

  constructor(readonly actions: Actions) {}

  build(node: Node): any {
    switch (node.kind) {
      case 'raw':
        return node.value;
      case 'shape':
        return this.shape(node);
      case 'array':
        return this.array(node);
      case 'object':
        return this.object(node);
    }
  }

  private object({ props, holder }: ObjectNode): unknown {
    const target: object = holder === 'no prototype' ? Object.create(null) : {};
    for (const [key, { node, action, target: whose }] of props) {
      const value = this.build(node);
      const enumerable = holder !== 'not enumerable';
      const configurable = true;
      if (!action && enumerable)
        Object.defineProperty(target, key, { value, enumerable, configurable });
      else {
        const get = action ? this.accessor(action, value, whose) : () => value;
        Object.defineProperty(target, key, { get, enumerable, configurable });
      }
    }
    return this.hold(target, holder);
  }

  private hold(target: object, holder: Holder): unknown {
    const trap = /^proxy that throws from (.*)/.exec(holder)?.[1];
    if (trap) {
      this.foreign.throws = true;
      return new Proxy(target, { [trap]: boom });
    }
    switch (holder) {
      case 'class': {
        class Arguments {}
        Object.defineProperties(Arguments.prototype, Object.getOwnPropertyDescriptors(target));
        return new Arguments();
      }
      case 'frozen':
        return Object.freeze(target);
      case 'inherited':
        return Object.create(target);
      case 'proxy':
        return new Proxy(target, {});
      case 'revoked': {
        this.foreign.proxies = true;
        const { proxy, revoke } = Proxy.revocable(target, {});
        revoke();
        return proxy;
      }
      case 'proxy with more keys':
        this.foreign.proxies = true;
        return new Proxy(target, {
          ownKeys: (t) => [...Reflect.ownKeys(t), 'ghost'],
        });
      case 'with a symbol':
        Object.defineProperty(target, Symbol('s'), { get: boom, enumerable: true });
        return target;
      default:
        return target;
    }
  }

  private accessor(action: GetterAction, value: unknown, whose = ''): () => unknown {
    let reads = 0;
    if (action.startsWith('throw')) this.foreign.throws = true;
    return () => {
      reads++;
      switch (action) {
        case 'throw error':
          throw planted.error;
        case 'throw text':
          throw planted.text;
        case 'change':
          return reads === 1 ? value : hostile('a tricky object');
        case 'detach':
        case 'shrink':
          this.rob(action, whose);
          return value;
        case 'read':
          return value;
        default:
          this.actions[action]?.();
          return value;
      }
    };
  }

  /** Takes the memory of one of the arrays away. */
  private rob(action: 'detach' | 'shrink', whose: string): void {
    const node = this.arrays[Number(whose) % Math.max(1, this.arrays.length)];
    const array = (node?.alias ?? node)?.made;
    if (!ArrayBuffer.isView(array) || array instanceof DataView || array.byteLength === 0) return;
    const { buffer, byteLength } = array;
    if (action === 'detach' && buffer instanceof ArrayBuffer)
      structuredClone(buffer, { transfer: [buffer] });
    else if (action === 'shrink' && (buffer as any).resizable) (buffer as any).resize(4);
    // An empty tensor has nothing to lose, not even the surplus of a `long` one.
    if (array.byteLength === byteLength) return;
    this.taken = true;
    if (node.value.length > 0) this.robbed = true;
  }

  private shape({ value, form }: ShapeNode): unknown {
    const length = /^length (.*)/.exec(form)?.[1];
    if (length) {
      const lie = { "'2'": '2', '2n': 2n, '2**53': 2 ** 53 }[length] ?? Number(length);
      this.foreign.proxies = true;
      return new Proxy([...value], {
        get: (t, key) => (key === 'length' ? lie : Reflect.get(t, key)),
      });
    }
    const copy = [...value];
    switch (form) {
      case 'frozen':
        return Object.freeze(copy);
      case 'subclass':
        return class Shape extends Array {}.from(copy);
      case 'proxy':
        return new Proxy(copy, {});
      case 'typed':
        return Float64Array.from(copy, (d) => (typeof d === 'number' ? d : 0));
      case 'text':
        return `${copy.length} dimensions`;
      case 'sparse':
        delete copy[0];
        return copy;
      case 'revoked': {
        this.foreign.proxies = true;
        const { proxy, revoke } = Proxy.revocable(copy, {});
        revoke();
        return proxy;
      }
      case 'element throws':
        this.foreign.throws = true;
        if (copy.length) Object.defineProperty(copy, 0, { get: boom });
        return copy;
      case 'element changes':
        if (copy.length)
          Object.defineProperty(copy, 0, {
            get: this.accessor('change', copy[0]),
            enumerable: true,
          });
        return copy;
      default:
        return copy;
    }
  }

  private array(node: ArrayNode): unknown {
    this.arrays.push(node);
    const owner = node.alias ?? node;
    owner.made ??= this.make(owner);
    node.made = owner.made;
    return node.made;
  }

  private make(node: ArrayNode): unknown {
    const { form } = node;
    const special = { NaN: Number.NaN, Infinity, huge: 3e38, tiny: 1e-42 }[form as string];
    if (special !== undefined && node.value instanceof Float32Array && node.value.length) {
      node.value = node.value.slice();
      node.value[node.value.length >> 1] = special;
    }
    if (special !== undefined && node.value instanceof Uint16Array && node.value.length) {
      node.value = node.value.slice();
      node.value[node.value.length >> 1] = 0x7fff; // NaN in either format
    }
    const { value } = node;
    const Kind = value.constructor as new (
      buffer: any,
      offset?: number,
      length?: number,
    ) => typeof value;
    const bytes = value.byteLength;
    const onto = (buffer: ArrayBufferLike, offset: number, length?: number): typeof value => {
      const view = new Kind(buffer, offset, length);
      view.set(value as any);
      return view;
    };
    const Resizable = ArrayBuffer as any;
    switch (form) {
      case 'view': {
        const buffer = new ArrayBuffer(bytes + 64);
        const offset = value.BYTES_PER_ELEMENT === 8 ? 24 : 20; // on no boundary of a vector
        new Uint8Array(buffer).fill(0xa5);
        this.guards.push({ bytes: new Uint8Array(buffer), skip: [offset, offset + bytes] });
        return onto(buffer, offset, value.length);
      }
      case 'shared':
        return onto(new SharedArrayBuffer(bytes), 0);
      case 'growable':
        return onto(new (SharedArrayBuffer as any)(bytes, { maxByteLength: bytes + 64 }), 0);
      case 'resizable':
        return onto(new Resizable(bytes, { maxByteLength: bytes + 64 }), 0, value.length);
      case 'tracking':
        return onto(new Resizable(bytes, { maxByteLength: bytes + 64 }), 0);
      case 'shrunk': {
        const buffer = new Resizable(bytes, { maxByteLength: bytes + 64 });
        const view = onto(buffer, 0);
        buffer.resize(8 * Math.floor(bytes / 16));
        return view;
      }
      case 'out of bounds': {
        const buffer = new Resizable(bytes + 8, { maxByteLength: bytes + 64 });
        const view = onto(buffer, 8, value.length);
        buffer.resize(4);
        return view;
      }
      case 'subclass':
        return new (class Own extends (Kind as any) {} as any)(value);
      case 'other realm':
        return vm.runInNewContext(`${value.constructor.name}.from(value)`, { value });
      case 'detached':
        return detached(value.slice());
      case 'short':
        return value.slice(1);
      case 'long':
        return onto(new ArrayBuffer(bytes + 4 * value.BYTES_PER_ELEMENT), 0);
      case 'doubles':
        return Float64Array.from(value as any, Number);
      case 'integers':
        return value instanceof Int32Array
          ? Uint32Array.from(value)
          : Int32Array.from(value as any, Number);
      case 'halves':
        return Uint16Array.from(value as any, Number);
      case 'bytes':
        return new Uint8Array(value.slice().buffer);
      case 'numbers':
        return Array.from(value as any);
      case 'look-alike':
        return Object.create(Kind.prototype, { length: { value: value.length } });
      case 'proxy':
        return new Proxy(value.slice(), {});
      case 'no tensor':
        return new DataView(new ArrayBuffer(bytes));
      default:
        return value.slice();
    }
  }

  guardsHold(): boolean {
    return this.guards.every(({ bytes, skip: [from, to] }) => {
      for (let i = 0; i < bytes.length; i++)
        if (bytes[i] !== 0xa5 && (i < from || i >= to)) return false;
      return true;
    });
  }
}

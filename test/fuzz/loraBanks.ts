/** Adapter banks against a model, and the classes around the fused LoRA product taken for what they are not. */
import * as rankone from '../../ts/index';
import type { Random } from '../support/random';
import { hostile, wasPlanted } from './hostile';

type Outcome = string | undefined;

/** What is wrong with an error, or undefined; `name` is what its message has to begin with. */
export function judgeError(error: any, name: string): Outcome {
  const text = `ended with ${error?.name}: ${String(error?.message).slice(0, 300)}`;
  if (wasPlanted(error) || error?.name === 'AbortError') return undefined;
  if (![TypeError, RangeError, Error].includes(error?.constructor)) return text;
  const { message } = error;
  // What V8 says of objects that are none of the class, and of the caller's own proxies.
  const own = /proxy|private m|properties of (undefined|null)|must be an instance|not a function/;
  if (own.test(message) && message[0] !== '[') return error instanceof TypeError ? undefined : text;
  if (!message.startsWith(`[${name}] `) || message.includes('internal error')) return text;
  return message.length > 1000 ? `a message of ${message.length} characters` : undefined;
}

/** Loads, replacements and evictions at random against a model, with calls under way. */
export async function runBank(values: readonly string[], random: Random): Promise<Outcome> {
  const bank = rankone.createAdapterBank({ inFeatures: 5, outFeatures: 4 });
  const model = new Map<number, number>(); // id -> value of the outputs for an x of ones
  const pending: Promise<Outcome>[] = [];
  const spec = (rank: number, level: number) => ({
    a: { data: new Float32Array(rank * 5).fill(1 / 5), shape: [rank, 5] },
    b: { data: new Float32Array(4 * rank).fill(level / rank), shape: [4, rank] },
  });
  const x = { data: new Float32Array(5).fill(1), shape: [1, 5] };
  let last = -1;
  for (let step = 0; step < 12; step++) {
    const ids = [...model.keys()];
    const id = ids[random.integer(ids.length || 1)];
    const level = 1 + random.integer(50);
    const rank = 1 + random.integer(40);
    switch (ids.length ? random.integer(5) : 0) {
      case 0: {
        const next = bank.load(spec(rank, level));
        if (next <= last) return `id ${next} after ${last}`;
        last = next;
        model.set(next, level);
        break;
      }
      case 1:
        bank.replace(id, spec(rank, level));
        model.set(id, level);
        break;
      case 2:
        bank.evict(id);
        model.delete(id);
        break;
      case 3: {
        const expected = model.get(id)!;
        const running = rankone.loraLinear({ x, bank, routing: { kind: 'one', id } });
        pending.push(
          running.then(({ y }) =>
            y.data.every((v) => Math.abs(v - expected) < 1e-4 * expected)
              ? undefined
              : `${y.data} of ${expected}`,
          ),
        );
        break;
      }
      default:
        for (const [method, name] of [
          ['evict', values[0]],
          ['has', values[1]],
          ['replace', values[2]],
        ]) {
          const argument: any = hostile(name);
          if (typeof argument === 'number' && model.has(argument)) continue;
          try {
            (bank as any)[method](argument, spec(1, 1));
            if (method !== 'has') return `${method} of ${name} succeeded`;
          } catch (error) {
            const wrong = judgeError(error, `AdapterBank.${method}`);
            if (wrong) return `${method} of ${name} ${wrong}`;
          }
        }
    }
    if (
      bank.size !== model.size ||
      bank.ids().join() !== [...model.keys()].sort((a, b) => a - b).join()
    )
      return `ids ${bank.ids()} of ${[...model.keys()]}`;
  }
  if (random.integer(2)) bank.dispose();
  const wrong = (await Promise.all(pending)).find((end) => end !== undefined);
  bank.dispose();
  return wrong;
}

/** Constructors, and methods on what is none of the class. */
export function runMade(values: readonly string[]): Outcome {
  const [self, ...args] = values.map(hostile);
  for (const Class of [rankone.AdapterBank, rankone.PackedWeight]) {
    const { name, prototype } = Class as any;
    try {
      new (Class as any)(...values.map(hostile));
      return `new ${name}() made one`;
    } catch (error) {
      if (!(error as Error).message.startsWith(`[${name}] `)) return String(error);
    }
    for (const [member, { get, value: method }] of Object.entries(
      Object.getOwnPropertyDescriptors(prototype),
    ) as [string, PropertyDescriptor][]) {
      if (member === 'constructor') continue;
      try {
        (get ?? method).apply(self, args);
        return `${name}.${member} of ${values[0]} succeeded`;
      } catch (error) {
        const wrong = judgeError(error, name);
        if (wrong && !(error as Error).message.startsWith(`[${name}.`)) return wrong;
      }
    }
  }
  return undefined;
}

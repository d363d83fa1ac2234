import { named } from '../marshal';
import {
  type AsyncLayerFunction,
  type LayerDefinition,
  type LayerOptions,
  Pass,
  readOptions,
  type SyncLayerFunction,
  steps,
} from './pass';
import { runAsync, runSync } from './run';

function start<Options extends LayerOptions>(
  operation: string,
  definition: LayerDefinition<Options>,
  inputs: any,
  options: Options,
  copy: boolean,
) {
  const pass = new Pass(operation, inputs, options, copy, definition);
  return steps(definition, pass, options);
}

/** A layer as a promise. */
export function asyncLayer<W, Options extends LayerOptions>(
  name: string,
  definition: LayerDefinition<Options>,
): AsyncLayerFunction<W, Options> {
  return named(name, async (inputs: any, options: any) => {
    const { signal, ...rest } = readOptions(name, definition, options, ['signal']);
    return runAsync(start(name, definition, inputs, rest as Options, true), signal);
  }) as AsyncLayerFunction<W, Options>;
}

/** A layer on the caller's thread. Its errors name it without the `Sync`, as those of the engine's operations do. */
export function syncLayer<W, Options extends LayerOptions>(
  name: string,
  definition: LayerDefinition<Options>,
): SyncLayerFunction<W, Options> {
  return named(`${name}Sync`, (inputs: any, options: any) => {
    const read = readOptions(name, definition, options, []);
    return runSync(start(name, definition, inputs, read, false));
  }) as SyncLayerFunction<W, Options>;
}

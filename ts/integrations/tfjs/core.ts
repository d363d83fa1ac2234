import type * as Core from '@tensorflow/tfjs-core';

// A dependency of this entry point alone, so that the package stands without it.
function load(): typeof Core {
  try {
    return require('@tensorflow/tfjs-core');
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    if (code !== 'MODULE_NOT_FOUND' || !/'@tensorflow\/tfjs-core'/.test(message)) throw cause;
    const error = new Error(
      'rankone/tfjs needs @tensorflow/tfjs-core 4 beside rankone, and it is not installed:\n' +
        '  npm install @tensorflow/tfjs @tensorflow/tfjs-core',
      { cause },
    );
    (error as NodeJS.ErrnoException).code = 'ERR_RANKONE_TFJS';
    throw error;
  }
}

/** TensorFlow.js. Its engine and registries are global, so it matters little which copy this is. @internal */
export const tf: typeof Core = load();

// Accessors that somebody put on Array.prototype run while a call reads its arguments and returns its results. Whatever
// they do, the process must go on.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { runProgram } from '../support/child';

const CALLS: Record<string, string> = {
  'a synchronous call': 'try { rankone.swigluSync(inputs); } catch {}',
  'an asynchronous call': 'await rankone.swiglu(inputs).catch(() => {});',
  'arguments in place':
    'const grad = make(), param = make(), m = make(), v = { data: new Float32Array(1e6), shape: [1e6] };' +
    'arrays = [grad, param, m, v]; await rankone.adamW({ grad, param, m, v }, { step: 1, lr: 0.1 }).catch(() => {});',
};

for (const [name, call] of Object.entries(CALLS)) {
  for (const accessor of ['get', 'set']) {
    test(`${name}: ${accessor}ters that transfer the inputs away`, () => {
      const main = `(async () => {
        const make = () => ({ data: new Float32Array(1e6).fill(0.5), shape: [1e6] });
        const inputs = { gate: make(), up: make() };
        let arrays = Object.values(inputs);
        const take = () => {
          for (const { data } of arrays)
            if (data.byteLength) structuredClone(data.buffer, { transfer: [data.buffer] });
        };
        for (let i = 0; i < 40; i++)
          Object.defineProperty(Array.prototype, i, { configurable: true, ${accessor}: take });
        ${call}
        for (let i = 0; i < 40; i++) delete Array.prototype[i];
        process.stdout.write('still here');
      })()`;
      assert.is(runProgram({ main }), 'still here');
    });
  }
}

test.run();

/** A value as an error message shows it. @internal */
export function show(value: unknown): string {
  if (value === null || value === undefined) return String(value);
  if (typeof value === 'string')
    return value.length > 40 ? `'${value.slice(0, 40)}...'` : `'${value}'`;
  if (typeof value === 'function') return 'a function';
  if (typeof value === 'symbol') return 'a symbol';
  if (typeof value === 'bigint')
    return BigInt.asIntN(64, value) === value ? `${value}n` : 'a long bigint';
  if (typeof value !== 'object') return String(value);
  try {
    if (Array.isArray(value)) return 'an array';
    const name: unknown = (value as object).constructor?.name;
    if (typeof name === 'string' && name && name !== 'Object') return `a ${name.slice(0, 40)}`;
  } catch {
    // A proxy or an accessor of the caller's; the error that is being written matters more.
  }
  return 'an object';
}

/** @internal */
export function typeError(operation: string, text: string): TypeError {
  return new TypeError(`[${operation}] ${text}`);
}

/** @internal */
export function rangeError(operation: string, text: string): RangeError {
  return new RangeError(`[${operation}] ${text}`);
}

/** An error of a function `of` the package under the name of the one that was called; any other as it is. @internal */
export function renamed(operation: string, of: string, error: unknown): unknown {
  if (!(error instanceof Error) || !error.message.startsWith(`[${of}`)) return error;
  const text = error.message.replace(/^\[[^\]]*\]/, `[${operation}]`);
  return new (error.constructor as ErrorConstructor)(text, { cause: error });
}

/** What `body` returns; its errors under the name of the function that was called. @internal */
export function underName<T>(operation: string, body: () => T): T {
  try {
    return body();
  } catch (error) {
    throw renamed(operation, '', error);
  }
}

function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1].toLowerCase() === b[j - 1].toLowerCase() ? 0 : 1;
      next.push(Math.min(row[j] + 1, next[j - 1] + 1, row[j - 1] + same));
    }
    row = next;
  }
  return row[b.length];
}

/** The legal name that is close enough to have been meant. @internal */
export function nearest(key: string, legal: readonly string[]): string | undefined {
  const [near] = [...legal].sort((a, b) => distance(key, a) - distance(key, b));
  const most = Math.min(Math.max(2, key.length / 3), key.length - 1);
  return distance(key, near) <= most ? near : undefined;
}

/** The error for a key that an operation does not know: a typo must not be a silent no-op. @internal */
export function unknownKey(
  operation: string,
  what: 'an input' | 'an option' | 'an output',
  key: string,
  legal: string[],
): TypeError {
  const shown = key.length > 40 ? `${key.slice(0, 40)}...` : key;
  if (legal.length === 0)
    return typeError(operation, `${shown}: expected no such key, got ${what} of that name`);
  const near = nearest(shown, legal);
  const hint = near ? `; nearest: ${near}` : '';
  return typeError(
    operation,
    `${shown}: expected one of ${legal.join(', ')}, got an unknown key for ${what}${hint}`,
  );
}

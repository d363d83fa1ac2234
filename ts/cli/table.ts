/** Rows as text, the columns padded: the first `left` of them to the right, the others to the left. */
export function table(rows: readonly (readonly string[])[], left = 1): string {
  const widths: number[] = [];
  for (const row of rows)
    row.forEach((cell, i) => {
      widths[i] = Math.max(widths[i] ?? 0, cell.length);
    });
  const line = (row: readonly string[]): string =>
    row
      .map((cell, i) => (i < left ? cell.padEnd(widths[i]) : cell.padStart(widths[i])))
      .join('  ')
      .trimEnd();
  return rows.map(line).join('\n');
}

/** A number in `digits` significant digits, without an exponent. */
export function significant(x: number, digits = 3): string {
  if (!Number.isFinite(x)) return String(x);
  const decimals = digits - 1 - Math.floor(Math.log10(Math.abs(x) || 1));
  return x.toFixed(Math.min(Math.max(decimals, 0), 12));
}

/** A time of so many nanoseconds with its unit. */
export function duration(ns: number): string {
  if (ns < 1e3) return `${significant(ns)} ns`;
  if (ns < 1e6) return `${significant(ns / 1e3)} us`;
  if (ns < 1e9) return `${significant(ns / 1e6)} ms`;
  return `${significant(ns / 1e9)} s`;
}

/** Tables of docs/benchmarks.md, which programs write between two marks. */
import fs from 'node:fs';
import path from 'node:path';

const DOCUMENT = path.join(__dirname, '../docs/benchmarks.md');

export function markdown(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`;
  return [line(head), `|${head.map(() => '---|').join('')}`, ...rows.map(line)].join('\n');
}

/** Puts the tables where the document has its marks for them, or prints them. */
export function publish(name: string, tables: string, write: boolean): void {
  if (!write) {
    console.log(tables);
    return;
  }
  const [begin, end] = [`<!-- ${name} tables -->`, `<!-- end of ${name} tables -->`];
  const document = fs.readFileSync(DOCUMENT, 'utf8');
  const [before, rest] = document.split(begin);
  const [, after] = (rest ?? '').split(end);
  if (after === undefined) throw new Error(`${DOCUMENT}: expected ${begin} and ${end}`);
  fs.writeFileSync(DOCUMENT, `${before}${begin}\n\n${tables}\n${end}${after}`);
}

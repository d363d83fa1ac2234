import { writeFileSync } from 'node:fs';

/** Writes results as JSON: to a file, or with `-` to stdout in place of `text`. */
export function report(file: string | undefined, results: object, text: string): void {
  const json = `${JSON.stringify(results, null, 2)}\n`;
  if (file === '-') {
    process.stdout.write(json);
    return;
  }
  process.stdout.write(`${text}\n`);
  if (file) writeFileSync(file, json);
}

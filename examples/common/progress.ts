import { SingleBar } from 'cli-progress';

const PLAIN_SECONDS = 5;

/** A bar on a terminal, a line now and then elsewhere. */
export class Progress {
  private readonly bar?: SingleBar;
  private readonly start = performance.now();
  private lastLine = this.start;

  constructor() {
    if (!process.stdout.isTTY) return;
    this.bar = new SingleBar({
      format: '{bar} {percentage}% | {note}',
      stream: process.stdout,
      barsize: 24,
      barCompleteChar: '█',
      barIncompleteChar: '░',
      hideCursor: true,
      // The training loop never yields to timers; the bar draws when it is told of progress.
      synchronousUpdate: true,
    });
    this.bar.start(1000, 0, { note: '' });
  }

  /** `share` of the work is done; the time that is left is guessed from it. */
  update(share: number, note: string): void {
    const now = performance.now();
    const elapsed = (now - this.start) / 1000;
    const left = share > 0 ? `${Math.ceil(elapsed / share - elapsed)} s left` : '';
    if (this.bar) {
      this.bar.update(Math.round(1000 * share), { note: `${note} | ${left}` });
    } else if (now - this.lastLine > 1000 * PLAIN_SECONDS || share >= 1) {
      this.lastLine = now;
      console.log(`${String(Math.round(100 * share)).padStart(3)}% | ${note} | ${left}`);
    }
  }

  stop(): void {
    this.bar?.stop();
  }
}

import { SingleBar } from 'cli-progress';

const BAR = 30;

/** A bar on stderr, where that is a terminal; nothing elsewhere. */
export class Progress {
  private readonly bar?: SingleBar;

  constructor(total: number) {
    if (!process.stderr.isTTY) return;
    this.bar = new SingleBar({
      stream: process.stderr,
      format: '{bar} {value}/{total}  {label}',
      barCompleteChar: '#',
      barIncompleteChar: '-',
      barsize: BAR,
      hideCursor: true,
      clearOnComplete: true,
    });
    this.bar.start(total, 0, { label: '' });
  }

  /** What is under way, as far as it fits into the line. */
  label(label: string): void {
    const room = Math.max(0, (process.stderr.columns || 80) - BAR - 20);
    this.bar?.update({ label: label.slice(0, room) });
  }

  /** One more is done. */
  step(): void {
    this.bar?.increment();
  }

  close(): void {
    this.bar?.stop();
  }
}

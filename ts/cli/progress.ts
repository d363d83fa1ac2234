import { SingleBar } from 'cli-progress';

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
      barsize: 30,
      hideCursor: true,
      clearOnComplete: true,
    });
    this.bar.start(total, 0, { label: '' });
  }

  /** What is under way. */
  label(label: string): void {
    this.bar?.update({ label });
  }

  /** One more is done. */
  step(): void {
    this.bar?.increment();
  }

  close(): void {
    this.bar?.stop();
  }
}

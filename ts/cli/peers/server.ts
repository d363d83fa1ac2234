import type { ChildProcessByStdio } from 'node:child_process';
import { spawn } from 'node:child_process';
import type { Socket } from 'node:net';
import type { Readable, Writable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import type { References, Tensors } from '../operation';
import type { PeerCase } from './peer';

export interface Command {
  /** Of the peer, for messages. */
  name: string;
  file: string;
  args: readonly string[];
  env?: NodeJS.ProcessEnv;
  /** Milliseconds that a request may take; default ten minutes. */
  limit?: number;
  /** Milliseconds that it may take to end when it is told to; default two seconds. */
  patience?: number;
}

export interface Hello {
  version: string;
  properties: Record<string, string>;
}

interface Answer {
  text: string;
  properties: Record<string, string>;
  tensors: References;
  times: number[];
}

const LIMIT = 600_000;
const KEPT_STDERR = 4000;
const PATIENCE = 2000;
// Workers of OpenBLAS, of OpenMP and of onnxruntime wait busily for some 20 ms of processor time after their last task,
// and would take it from what is timed next.
export const REST = 100;

/**
 * A peer's program in a process of its own, so that its abort is an error here and its environment its own.
 * bench/peers/protocol.h says what it speaks. An idle one does not keep this process alive, and ends with it.
 */
export class Server implements PeerCase {
  private readonly child: ChildProcessByStdio<Writable, Readable, Readable>;
  private readonly name: string;
  private readonly limit: number;
  private readonly patience: number;
  private readonly ended: Promise<void>;
  private chunks: Buffer[] = [];
  private said = '';
  private failure?: Error;
  private wake = (): void => {};
  private threads = 1;

  constructor({
    name,
    file,
    args,
    env = process.env,
    limit = LIMIT,
    patience = PATIENCE,
  }: Command) {
    this.name = name;
    this.limit = limit;
    this.patience = patience;
    this.child = spawn(file, args, { env, stdio: ['pipe', 'pipe', 'pipe'] });
    const { stdin, stdout, stderr } = this.child;
    stdout.on('data', (chunk: Buffer) => {
      this.chunks.push(chunk);
      this.wake();
    });
    stderr.on('data', (chunk: Buffer) => {
      this.said = (this.said + chunk).slice(-KEPT_STDERR);
    });
    // Where the program is gone, its end says more.
    stdin.on('error', () => {});
    this.ended = new Promise((resolve) => {
      const end = (how: string): void => {
        const last = this.said.trim();
        this.fail(`${how}${last && `:\n${last}`}`);
        resolve();
      };
      this.child.on('error', (error) => end(`cannot be started (${error.message})`));
      this.child.on('close', (code, signal) => end(`ended with ${signal ?? `exit code ${code}`}`));
    });
    this.child.unref();
    for (const pipe of [stdin, stdout, stderr]) (pipe as Socket).unref();
  }

  /** What the program serves. */
  async hello(): Promise<Hello> {
    const { text, properties } = await this.ask('hello');
    return { version: text, properties };
  }

  /** Sets a problem up; where that fails, the program is ended. Values must be single words. */
  async open(settings: Record<string, string | number>, tensors: Tensors): Promise<void> {
    this.threads = Number(settings.threads ?? 1);
    for (const [name, value] of Object.entries(settings)) this.send(`set ${name} ${value}`);
    for (const [name, { data, shape }] of Object.entries(tensors)) {
      this.send(['tensor', name, ...shape].join(' '));
      this.child.stdin.write(Buffer.from(data.buffer, data.byteOffset, data.byteLength));
    }
    try {
      await this.ask('open');
    } catch (error) {
      await this.close();
      throw error;
    }
  }

  async results(): Promise<References> {
    return (await this.ask('results')).tensors;
  }

  async time(runs: number): Promise<number[]> {
    const { times } = await this.ask(`time ${runs}`);
    if (this.threads > 1) await sleep(REST);
    return times;
  }

  async close(): Promise<void> {
    this.child.ref();
    this.child.stdin.end();
    const kill = setTimeout(() => this.child.kill('SIGKILL'), this.patience);
    await this.ended;
    clearTimeout(kill);
  }

  private fail(why: string): void {
    this.failure ??= new Error(`${this.name}: its process ${why}`);
    this.wake();
  }

  private send(line: string): void {
    this.child.stdin.write(`${line}\n`);
  }

  private async ask(request: string): Promise<Answer> {
    // Keeps this process alive as well.
    const timer = setTimeout(() => {
      this.fail(`did not answer '${request}' within ${this.limit / 1000} s`);
      this.child.kill('SIGKILL');
    }, this.limit);
    try {
      this.send(request);
      return await this.answer();
    } finally {
      clearTimeout(timer);
    }
  }

  private async answer(): Promise<Answer> {
    const answer: Answer = { text: '', properties: {}, tensors: {}, times: [] };
    for (;;) {
      const line = await this.line();
      const [verb, name, ...rest] = line.split(' ');
      answer.text = line.slice(verb.length + 1);
      switch (verb) {
        case 'ok':
          return answer;
        case 'error':
          throw new Error(`${this.name}: ${answer.text}`);
        case 'set':
          answer.properties[name] = rest.join(' ');
          break;
        case 'tensor': {
          const shape = rest.map(Number);
          const size = shape.reduce((product, extent) => product * extent, 1);
          answer.tensors[name] = { data: new Float32Array(await this.bytes(4 * size)), shape };
          break;
        }
        case 'times':
          answer.times = [...new Float64Array(await this.bytes(8 * Number(name)))];
          break;
        default:
          this.child.kill('SIGKILL');
          throw new Error(`${this.name}: its process said '${line.slice(0, 80)}'`);
      }
    }
  }

  private async line(): Promise<string> {
    for (;;) {
      const at = this.chunks.findIndex((chunk) => chunk.includes('\n'));
      if (at >= 0) {
        const before = this.chunks.slice(0, at).reduce((sum, { length }) => sum + length, 0);
        const length = before + this.chunks[at].indexOf('\n');
        const line = (await this.take(length)).toString();
        await this.take(1);
        return line;
      }
      await this.more();
    }
  }

  private async bytes(count: number): Promise<ArrayBuffer> {
    // A copy: typed arrays want an aligned start.
    return new Uint8Array(await this.take(count)).buffer;
  }

  private async take(count: number): Promise<Buffer> {
    while (this.chunks.reduce((sum, { length }) => sum + length, 0) < count) await this.more();
    const all = Buffer.concat(this.chunks);
    this.chunks = [all.subarray(count)];
    return all.subarray(0, count);
  }

  private async more(): Promise<void> {
    if (this.failure) throw this.failure;
    await new Promise<void>((resolve) => {
      this.wake = resolve;
    });
    this.wake = () => {};
  }
}

#!/usr/bin/env node
// The command line of the package. Exit codes: 0, 1 for a failure, 2 for a command line that cannot be meant.
import { Command, CommanderError, InvalidArgumentError, Option } from 'commander';
import { dtypes } from './dtype';
import { UsageError } from './errors';
import { benchHelp, verifyHelp } from './help';
import { allPasses, modes } from './operation';

function list(text: string): string[] {
  const items = text.split(',').map((item) => item.trim());
  if (items.some((item) => item === '')) throw new InvalidArgumentError('Expected names.');
  return items;
}

function listOf<T extends string>(legal: readonly T[]): (text: string) => T[] {
  return (text) => {
    const items = list(text) as T[];
    const wrong = items.find((item) => !legal.includes(item));
    if (wrong === undefined) return items;
    throw new InvalidArgumentError(`${wrong}: allowed are ${legal.join(', ')}.`);
  };
}

function sizes(text: string): number[] {
  const numbers = list(text).map(Number);
  if (numbers.every((x) => Number.isSafeInteger(x) && x > 0)) return numbers;
  throw new InvalidArgumentError('Expected positive integers, separated by commas.');
}

function threads(text: string): number[] {
  const numbers = list(text).map(Number);
  if (numbers.every((n) => Number.isInteger(n) && n >= 1 && n <= 1024)) return numbers;
  throw new InvalidArgumentError('Expected integers from 1 to 1024, separated by commas.');
}

function seconds(text: string): number {
  const n = Number(text);
  if (n > 0 && n <= 600) return n;
  throw new InvalidArgumentError('Expected a number above 0, at most 600.');
}

function device(text: string): string {
  if (/^(cpu|cuda(:\d{1,4})?)$/.test(text)) return text;
  throw new InvalidArgumentError('Expected cpu, cuda or cuda:N.');
}

type Run = (...given: any[]) => number | Promise<number>;

/** A command's code is loaded when it runs: the addon need not load for `--help`. */
function build(exit: (code: number) => void): Command {
  // Arguments and options; the command itself stands behind them.
  const action =
    (load: () => Run) =>
    async (...given: unknown[]) =>
      exit(await load()(...given.slice(0, -1)));
  const program = new Command('rankone')
    .description(
      'Linear-recurrent sequence kernels: what this machine runs, whether it is right, and how fast.',
    )
    .version(require('../../package.json').version, '-V, --version')
    .showHelpAfterError('(--help for what there is)')
    .exitOverride();

  program
    .command('info')
    .description('version, processor, instruction sets, threads, the loaded binary, CUDA')
    .option('--json', 'as JSON')
    .action(action(() => require('./info').runInfo));

  program
    .command('verify')
    .description('hold the kernels against a float64 reference on this machine')
    .option('--op <names>', 'operations, separated by commas (default: all)', list)
    .option('--isa <names>', 'instruction sets (default: all of this machine)', list)
    .option('--dtype <names>', `of ${dtypes.join(', ')} (default: all)`, listOf(dtypes))
    .option('--quick', 'one small problem per operation')
    .option('--json <file>', 'write the results as JSON too; - for stdout instead of the table')
    .addHelpText('after', verifyHelp)
    .action(action(() => require('./verify').runVerify));

  program
    .command('bench')
    .description(
      'time operations: share of the peak and of the bandwidth, ratios to other libraries',
    )
    .argument('[suite]', 'lora-linear: the fused LoRA product beside its base product')
    .option('--op <names>', 'operations, separated by commas, or all (default: a selection)', list)
    .option('--model <names>', "layers of models' sizes instead, or all", list)
    .option('--shape <sizes>', 'sizes of the operation, as below', sizes)
    .option('--tokens <counts>', 'numbers of tokens (T of a recurrence, rows of the rest)', sizes)
    .option('--pass <names>', `of ${allPasses.join(', ')} (default: all)`, listOf(allPasses))
    .option('--dtype <names>', `of ${dtypes.join(', ')} (default: f32)`, listOf(dtypes))
    .addOption(new Option('--mode <name>', 'form of the recurrence').choices(modes).default('auto'))
    .option('--isa <names>', 'instruction sets, or all (default: the widest)', list)
    .option('--threads <counts>', 'default: RANKONE_NUM_THREADS, or all processors', threads)
    .addOption(
      new Option('--device <name>', 'where to run: cpu, cuda or cuda:N')
        .argParser(device)
        .default('cpu'),
    )
    .option('--seconds <s>', 'time to spend on each case and contender', seconds, 0.5)
    .option('--peers <names>', 'other libraries to time beside, or all (default: none)', list)
    .option('--compare <file>', 'hold the results against a file of --json')
    .option('--json <file>', 'write the results as JSON too; - for stdout instead of the table')
    .option('--html <file>', 'write a page with plots and tables')
    .addHelpText('after', benchHelp)
    .action(action(() => require('./bench').runBench));
  return program;
}

function codeOf(error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2; // it has said why
  const { message, stack, code } = error as NodeJS.ErrnoException;
  if (/typed array length|Array buffer allocation/.test(message)) {
    process.stderr.write(`error: no memory for tensors of this shape (${message})\n`);
    return 1;
  }
  // Errors of the package name the operation in brackets; those of arguments here come from the command line.
  const refused =
    /^\[\w+\] /.test(message) && (error instanceof TypeError || error instanceof RangeError);
  const usage = error instanceof UsageError || refused;
  const expected = usage || code !== undefined;
  process.stderr.write(`error: ${expected ? message : stack}\n`);
  return usage ? 2 : 1;
}

async function main(): Promise<void> {
  // A reader that has seen enough, such as head(1).
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(process.exitCode ?? 0);
    throw error;
  });
  try {
    await build((code) => {
      process.exitCode = code;
    }).parseAsync();
  } catch (error) {
    process.exitCode = codeOf(error);
  }
}

main();

/** Runs `main` with what the command line says, or prints the help; an error is a line on stderr and exit code 1. */
export async function runProgram<Options>(
  parse: (args: string[]) => Options | 'help',
  help: string,
  main: (options: Options) => void | Promise<void>,
): Promise<void> {
  try {
    const options = parse(process.argv.slice(2));
    if (options === 'help') process.stdout.write(help);
    else await main(options);
  } catch (error) {
    console.error(String((error as Error).message ?? error));
    process.exitCode = 1;
  }
}

/** Says which claims hold; exit code 1 where one does not. */
export function printClaims(claims: readonly { claim: string; holds: boolean }[]): void {
  for (const { claim, holds } of claims) {
    console.log(`${claim}: ${holds ? 'yes' : 'NO'}`);
    if (!holds) process.exitCode = 1;
  }
}

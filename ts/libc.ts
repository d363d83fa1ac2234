/** The C library: `glibc 2.36`, `musl`, or nothing outside of Linux. @internal */
export function libc(): string {
  if (process.platform !== 'linux') return '';
  const version = glibcVersion();
  return version ? `glibc ${version}` : 'musl';
}

/** `glibc` or `musl`; `glibc` too where the runtime does not say, as Deno without permission. @internal */
export function libcName(): string {
  try {
    return libc().split(' ')[0];
  } catch {
    return 'glibc';
  }
}

function glibcVersion(): string | undefined {
  const report = process.report as { excludeNetwork?: boolean; getReport(): object };
  const { excludeNetwork } = report;
  try {
    // Else it asks for the names of the hosts that the process is connected to, which can take seconds.
    report.excludeNetwork = true;
    return (report.getReport() as any).header.glibcVersionRuntime;
  } finally {
    report.excludeNetwork = excludeNetwork;
  }
}

/** The C library: `glibc 2.36`, `musl`, or nothing outside of Linux. @internal */
export function libc(): string {
  if (process.platform !== 'linux') return '';
  const header = (process.report?.getReport() as any)?.header;
  return header?.glibcVersionRuntime ? `glibc ${header.glibcVersionRuntime}` : 'musl';
}

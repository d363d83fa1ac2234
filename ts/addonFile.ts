// What can be said of an addon's file by its header alone. The system's loader is handed only what passes: of a file that
// ends early it may touch memory that is not there, which no program survives.
import fs from 'node:fs';

const SYSTEMS = { elf: 'Linux', macho: 'macOS', pe: 'Windows' };

type Format = keyof typeof SYSTEMS;

const ELF_MACHINES: Record<number, string> = {
  3: 'ia32',
  40: 'arm',
  62: 'x64',
  183: 'arm64',
  243: 'riscv64',
};
const PE_MACHINES: Record<number, string> = { 332: 'ia32', 34404: 'x64', 43620: 'arm64' };
const MACHO_MACHINES: Record<number, string> = { 16777223: 'x64', 16777228: 'arm64' };

interface Header {
  format: Format;
  /** Several in a universal binary. */
  archs: string[];
  /** Where its contents end, where the header says. */
  end?: number;
}

function elf(head: Buffer, read: (at: number, length: number) => Buffer): Header {
  const format = 'elf';
  const arch = ELF_MACHINES[head.readUInt16LE(18)] ?? `machine ${head.readUInt16LE(18)}`;
  if (head[4] !== 2 || head[5] !== 1) return { format, archs: [arch] };
  const [at, size, count] = [
    head.readBigUInt64LE(32),
    head.readUInt16LE(54),
    head.readUInt16LE(56),
  ];
  const table = read(Number(at), size * count);
  let end = Number(at) + size * count;
  for (let i = 0; i + 56 <= table.length; i += size || 56)
    end = Math.max(end, Number(table.readBigUInt64LE(i + 8) + table.readBigUInt64LE(i + 32)));
  return { format, archs: [arch], end };
}

function macho(head: Buffer): Header {
  const of = (type: number) => MACHO_MACHINES[type] ?? `machine ${type}`;
  const format = 'macho';
  if (head.readUInt32LE(0) === 0xfeedfacf) return { format, archs: [of(head.readUInt32LE(4))] };
  const count = Math.min(head.readUInt32BE(4), 4);
  return {
    format,
    archs: Array.from({ length: count }, (_, i) => of(head.readUInt32BE(8 + 20 * i))),
  };
}

function headerOf(read: (at: number, length: number) => Buffer): Header | undefined {
  const head = read(0, 96);
  if (head.length < 64) return undefined;
  const magic = head.readUInt32BE(0);
  if (magic === 0x7f454c46) return elf(head, read);
  if (magic === 0xcffaedfe || magic === 0xcafebabe) return macho(head);
  if (magic >>> 16 !== 0x4d5a) return undefined;
  const pe = read(head.readUInt32LE(60), 6);
  if (pe.length < 6 || pe.readUInt32BE(0) !== 0x50450000) return undefined;
  const machine = pe.readUInt16LE(4);
  return { format: 'pe', archs: [PE_MACHINES[machine] ?? `machine ${machine}`] };
}

function nativeFormat(platform: string): Format {
  if (platform === 'win32') return 'pe';
  return platform === 'darwin' ? 'macho' : 'elf';
}

/** Why the file cannot be this system's addon, or nothing. @internal */
export function faultOfFile(file: string): string | undefined {
  let handle: number | undefined;
  try {
    const stat = fs.statSync(file);
    if (stat.isDirectory()) return 'it is a folder';
    if (!stat.isFile()) return 'it is no file'; // opening a pipe would wait for its other end
    handle = fs.openSync(file, 'r');
    const read = (at: number, length: number) => {
      const bytes = Buffer.alloc(length);
      return bytes.subarray(0, fs.readSync(handle!, bytes, 0, length, at));
    };
    if (stat.size === 0) return 'it is empty';
    const header = headerOf(read);
    if (!header) return 'it is no native binary';
    const { format, archs, end = 0 } = header;
    if (format !== nativeFormat(process.platform) || !archs.includes(process.arch))
      return `it is built for ${SYSTEMS[format]} on ${archs.join(' and ')}, this is ${process.platform}-${process.arch}`;
    if (stat.size < end) return `it is cut off: ${stat.size} of at least ${end} bytes`;
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    return code === 'ENOENT' ? 'it does not exist' : message;
  } finally {
    if (handle !== undefined) fs.closeSync(handle);
  }
  return undefined;
}

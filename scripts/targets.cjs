// The platforms that have prebuilt binaries: how zig names them, and the oldest system that each promises.
const path = require('node:path');

const root = path.join(__dirname, '..');
const GLIBC = '2.28'; // of Node's own Linux binaries
const MACOS = '11.0'; // of those of Node 20

const targets = [
  { platform: 'linux', arch: 'x64', libc: 'glibc', zig: `x86_64-linux-gnu.${GLIBC}` },
  { platform: 'linux', arch: 'x64', libc: 'musl', zig: 'x86_64-linux-musl' },
  { platform: 'linux', arch: 'arm64', libc: 'glibc', zig: `aarch64-linux-gnu.${GLIBC}` },
  { platform: 'linux', arch: 'arm64', libc: 'musl', zig: 'aarch64-linux-musl' },
  { platform: 'win32', arch: 'x64', zig: 'x86_64-windows-gnu' },
  { platform: 'darwin', arch: 'x64', zig: `x86_64-macos.${MACOS}` },
  { platform: 'darwin', arch: 'arm64', zig: `aarch64-macos.${MACOS}` },
].map((target) => {
  const { platform, arch, libc } = target;
  const file = `prebuilds/${platform}-${arch}/rankone${libc ? `.${libc}` : ''}.node`;
  return { ...target, name: [platform, arch, libc].filter(Boolean).join('-'), file };
});

/** Those that `--platform`, `--arch` and `--libc` leave. */
function selectTargets({ platform, arch, libc }) {
  const fits = (wish, value) => wish === undefined || wish === value;
  const chosen = targets.filter(
    (t) =>
      fits(platform, t.platform) && fits(arch, t.arch) && (t.libc ? fits(libc, t.libc) : !libc),
  );
  if (chosen.length) return chosen;
  const wish = [platform ?? '*', arch ?? '*', libc].filter(Boolean).join('-');
  throw new Error(`no target is ${wish}; there are ${targets.map((t) => t.name).join(', ')}`);
}

/** The one that this process runs as. */
function hostTarget() {
  const { platform, arch } = process;
  const glibc = platform === 'linux' && process.report.getReport().header.glibcVersionRuntime;
  const libc = platform === 'linux' ? (glibc ? 'glibc' : 'musl') : undefined;
  return selectTargets({ platform, arch, libc })[0];
}

module.exports = { GLIBC, MACOS, hostTarget, root, selectTargets, targets };

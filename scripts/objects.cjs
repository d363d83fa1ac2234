// Programs of C++ and CUDA for the tests: compiled JOBS at a time, and again only when a file that they include, or the
// command, has changed.
const { spawn } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');

const root = path.join(__dirname, '..');
const jobs = Number(process.env.JOBS) || os.availableParallelism();
const MINUTE = 60_000;

function walk(directory) {
  return fs.readdirSync(path.join(root, directory), { withFileTypes: true }).flatMap((entry) => {
    const name = `${directory}/${entry.name}`;
    return entry.isDirectory() ? walk(name) : [name];
  });
}

function run(command, args, timeout, env = process.env) {
  return new Promise((resolve) => {
    const child = spawn(command, args, { cwd: root, env });
    let output = '';
    let stdout = '';
    let late = false;
    const timer = setTimeout(() => {
      late = true;
      child.kill('SIGKILL');
    }, timeout);
    child.stdout.on('data', (text) => {
      output += text;
      stdout += text;
    });
    child.stderr.on('data', (text) => (output += text));
    child.on('error', (error) => (output += error.message));
    child.on('close', (status, signal) => {
      clearTimeout(timer);
      const how = late
        ? 'ended after its time'
        : signal
          ? `ended by ${signal}`
          : `exit code ${status}`;
      resolve({ ok: status === 0, status, how, output, stdout });
    });
  });
}

// Whether `object` is newer than everything that its .d file names, and was made by this command. What the compiler
// said then is kept beside it.
function kept(object, command) {
  const file = path.join(root, object);
  const built = fs.statSync(file, { throwIfNoEntry: false });
  const [list, note] = [file.replace(/\.o$/, '.d'), `${file}.json`];
  if (!built || !fs.existsSync(list) || !fs.existsSync(note)) return undefined;
  const made = JSON.parse(fs.readFileSync(note, 'utf8'));
  if (made.command !== command) return undefined;
  const dependencies = fs
    .readFileSync(list, 'utf8')
    .replace(/^.*?:/, '')
    .split(/[\s\\]+/)
    .filter(Boolean);
  const current = dependencies.every((name) => {
    const source = fs.statSync(path.resolve(root, name), { throwIfNoEntry: false });
    return source && source.mtimeMs <= built.mtimeMs;
  });
  return current ? made.output : undefined;
}

// `args` are the compiler's, but for the files'.
async function compile(compiler, args, source, object, timeout = 30 * MINUTE) {
  const all = [...args, '-MMD', '-MF', object.replace(/\.o$/, '.d'), '-c', source, '-o', object];
  const command = [compiler, ...all].join(' ');
  const output = kept(object, command);
  if (output !== undefined) return { ok: true, output, object };
  fs.mkdirSync(path.join(root, path.dirname(object)), { recursive: true });
  const result = await run(compiler, all, timeout);
  const file = path.join(root, object);
  if (result.ok)
    fs.writeFileSync(`${file}.json`, JSON.stringify({ command, output: result.output }));
  else fs.rmSync(file, { force: true });
  return { ...result, object };
}

async function pool(tasks) {
  let next = 0;
  const worker = async () => {
    while (next < tasks.length) await tasks[next++]();
  };
  await Promise.all(Array.from({ length: jobs }, worker));
}

module.exports = { MINUTE, compile, jobs, pool, root, run, walk };

// The documentation's site, build-docs/ (or --out FOLDER): typedoc's pages of every export, and the pages of docs/.
// Its warnings are errors, and so is a link in any of the pages that leads nowhere.
const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');

const root = path.join(__dirname, '..');
const [flag, folder = 'build-docs'] = process.argv.slice(2);
if (flag !== undefined && flag !== '--out') throw new Error('usage: docs.cjs [--out FOLDER]');
const out = path.resolve(root, folder);

const typedoc = path.join(__dirname, 'docs/node_modules/typedoc/bin/typedoc');
if (!fs.existsSync(typedoc)) throw new Error('typedoc is missing: npm install');
const args = [typedoc, '--options', path.join(__dirname, 'docs'), '--out', out];
const { status } = spawnSync(process.execPath, args, { stdio: 'inherit' });
if (status !== 0) process.exit(status ?? 1);

const pages = new Map();
for (const name of fs.readdirSync(out, { recursive: true })) {
  if (!name.endsWith('.html')) continue;
  const file = path.join(out, name);
  const html = fs.readFileSync(file, 'utf8');
  const attributes = (attribute) =>
    [...html.matchAll(new RegExp(`\\s${attribute}="([^"]*)"`, 'g'))].map((m) =>
      m[1].replaceAll('&amp;', '&'),
    );
  pages.set(file, { ids: new Set(attributes('id')), links: attributes('href') });
}
let links = 0;
const broken = new Set();
for (const [file, page] of pages) {
  for (const link of page.links) {
    if (/^[a-z]+:/.test(link)) continue;
    links++;
    const [target, anchor] = link.split('#').map(decodeURIComponent);
    const aim = target ? path.resolve(path.dirname(file), target) : file;
    const stands = fs.existsSync(aim) && fs.statSync(aim).isFile();
    if (stands && (!anchor || !pages.has(aim) || pages.get(aim).ids.has(anchor))) continue;
    broken.add(`${path.relative(out, file)}: ${link} leads nowhere`);
  }
}
for (const line of broken) console.error(line);
if (broken.size) process.exitCode = 1;
else console.log(`${path.relative(root, out)}: ${pages.size} pages, ${links} links`);

// sources.json is the one list that both builds read. This holds it against the tree.
//   node scripts/sources.cjs           exits 1 where they differ
//   node scripts/sources.cjs --write   rewrites the list from the tree
const fs = require('node:fs');
const path = require('node:path');

const root = path.join(__dirname, '..');
const file = path.join(root, 'sources.json');

function walk(folder, extension) {
  const found = [];
  for (const entry of fs.readdirSync(path.join(root, folder), { withFileTypes: true })) {
    const name = `${folder}/${entry.name}`;
    if (entry.isDirectory()) found.push(...walk(name, extension));
    else if (name.endsWith(extension)) found.push(name);
  }
  return found.sort();
}

const tree = { cpu: walk('cpp', '.cpp'), cuda: walk('cuda', '.cu') };
const listed = JSON.parse(fs.readFileSync(file, 'utf8'));

if (process.argv.includes('--write')) {
  fs.writeFileSync(file, `${JSON.stringify({ ...listed, ...tree }, null, 2)}\n`);
} else {
  const problems = [];
  for (const key of Object.keys(tree)) {
    for (const f of tree[key])
      if (!listed[key].includes(f)) problems.push(`${f} is not in sources.json`);
    for (const f of listed[key])
      if (!tree[key].includes(f)) problems.push(`${f} is in sources.json but not in the tree`);
  }
  if (problems.length) {
    console.error(`${problems.join('\n')}\n  node scripts/sources.cjs --write puts it right`);
    process.exitCode = 1;
  } else {
    console.log(`sources.json: ${listed.cpu.length + listed.cuda.length} files, as in the tree`);
  }
}

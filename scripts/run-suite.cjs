// One compiled test file in a process of its own, on any runtime that has Node's modules (scripts/test-prebuilds.cjs).
//   run-suite.cjs <file> <counts.json>
// RANKONE_LAUNCHER is what starts this runtime again, where that is not process.execPath.
const fs = require('node:fs');

if (process.env.RANKONE_LAUNCHER) process.execPath = process.env.RANKONE_LAUNCHER;
// uvu queues instead of running by itself when these stand before it is loaded.
Object.assign(globalThis, { UVU_DEFER: 1, UVU_QUEUE: [[]], UVU_INDEX: 0 });

async function main([file, countsFile]) {
  require(file);
  const counts = { passed: 0, failed: 0, skipped: 0 };
  for (const suite of globalThis.UVU_QUEUE[0]) {
    const [errors, passed, skipped, total] = await suite();
    if (errors !== true) fs.writeSync(1, `\n${errors}\n`);
    counts.passed += passed;
    counts.skipped += skipped;
    counts.failed += total - passed;
  }
  fs.writeFileSync(countsFile, JSON.stringify(counts));
}

main(process.argv.slice(2)).catch((error) => {
  fs.writeSync(1, `${error?.stack ?? error}\n`);
  process.exit(1);
});

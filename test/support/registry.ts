/** A package registry on this machine that holds what rankone depends on, as this checkout has it, so that every package manager can install it without a network. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import http from 'node:http';
import type { AddressInfo } from 'node:net';
import path from 'node:path';

const root = path.join(__dirname, '../..');

interface Version {
  manifest: any;
  tarball: Buffer;
}

/** Folders of all that a package depends on, itself excluded. */
function closure(folder: string, seen = new Set<string>()): Set<string> {
  const { dependencies = {} } = JSON.parse(
    fs.readFileSync(path.join(folder, 'package.json'), 'utf8'),
  );
  for (const name of Object.keys(dependencies)) {
    let at = folder;
    while (!fs.existsSync(path.join(at, 'node_modules', name))) at = path.dirname(at);
    const found = path.join(at, 'node_modules', name);
    if (seen.has(found)) continue;
    seen.add(found);
    closure(found, seen);
  }
  return seen;
}

function versionOf(folder: string): Version {
  const manifest = JSON.parse(fs.readFileSync(path.join(folder, 'package.json'), 'utf8'));
  const args = [
    '-czf',
    '-',
    '--exclude',
    'node_modules',
    '-C',
    path.dirname(folder),
    path.basename(folder),
  ];
  return { manifest, tarball: execFileSync('tar', args, { maxBuffer: 2 ** 26 }) };
}

export interface Registry {
  url: string;
  close(): void;
}

export async function openRegistry(): Promise<Registry> {
  const versions = [...closure(root)].map(versionOf);
  const server = http.createServer((request, response) => {
    const [name, file] = decodeURIComponent(request.url!).slice(1).split('/-/');
    const own = versions.filter(({ manifest }) => manifest.name === name);
    const asked = own.find(({ manifest }) => `${manifest.version}.tgz` === file);
    if (own.length === 0 || (file && !asked)) {
      response.writeHead(404).end('{"error":"not found"}');
    } else if (asked) {
      response.end(asked.tarball);
    } else {
      const listed = own.map(({ manifest, tarball }) => {
        const integrity = `sha512-${createHash('sha512').update(tarball).digest('base64')}`;
        const shasum = createHash('sha1').update(tarball).digest('hex');
        const dist = { tarball: `${url}${name}/-/${manifest.version}.tgz`, integrity, shasum };
        // Yarn adds node-gyp to what a package depends on that names it in a script, of its tests even.
        return [manifest.version, { ...manifest, scripts: {}, dist }];
      });
      response.setHeader('content-type', 'application/json');
      const latest = own[0].manifest.version;
      const text = { name, 'dist-tags': { latest }, versions: Object.fromEntries(listed) };
      response.end(JSON.stringify(text));
    }
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
  return {
    url,
    close() {
      server.closeAllConnections();
      server.close();
    },
  };
}

/**
 * What the kernels define in an instruction set's namespace is seen by the linker as one: two types of one name in two
 * files would be mixed up there without a word from any compiler.
 */
import fs from 'node:fs';
import path from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';

const test = suite('kernelNames');
const kernels = path.join(__dirname, '../../cpp/kernels');

/** The structs and classes of a source, specialisations aside, that stand in namespaces with names and in nothing else. */
function sharedTypes(source: string): string[] {
  const text = source.replace(/\/\/.*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])'/g, '');
  const blocks: string[] = [];
  const types: string[] = [];
  const parts =
    /namespace\s*([\w:]*)\s*\{|(?<![<,]\s*)\b(?:struct|class)\s+(\w+)\b(?!\s*<)[^;{}()]*\{|[{}]/g;
  for (const [part, space, type] of text.matchAll(parts)) {
    if (part === '}') {
      blocks.pop();
      continue;
    }
    if (type && blocks.every((name) => name !== '')) types.push(type);
    blocks.push(space ?? '');
  }
  assert.is(blocks.length, 0, 'braces');
  return types;
}

test('types are told from those inside of others and of a namespace without a name', () => {
  const source = `
    namespace rankone { // struct Comment {
      struct Shared : Base { struct Inner { int x; }; void f() { struct Local {}; } };
      template <class T> class Also final { };
      struct Declared;
      namespace { struct Own { }; }
      template <> struct Base<Also> { };
      template <class D, class Gate> void f(const Gate& gate) { struct Local {}; }
    }`;
  assert.equal(sharedTypes(source), ['Shared', 'Also']);
});

test('no two files define a type of one name', () => {
  const homes = new Map<string, string>();
  const files = fs.readdirSync(kernels).filter((name) => /\.(inl|h)$/.test(name));
  assert.ok(files.length > 100);
  for (const file of files)
    for (const type of sharedTypes(fs.readFileSync(path.join(kernels, file), 'utf8'))) {
      assert.is(homes.get(type) ?? file, file, `${type} is defined in ${homes.get(type)} as well`);
      homes.set(type, file);
    }
  assert.ok(homes.size > 100);
});

test.run();

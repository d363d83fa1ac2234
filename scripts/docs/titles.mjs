// A page is named by its first heading, not by its file: examples/README.md would be "README".
import { Converter } from 'typedoc';

export function load(app) {
  app.converter.on(Converter.EVENT_CREATE_DOCUMENT, (_, page) => {
    const [first] = page.content;
    const heading = /^# (.+)\n/.exec(first?.text ?? '');
    if (!heading) return;
    page.name = heading[1];
  });
}

/** Text for HTML, between tags or inside of an attribute's quotes. */
export function escapeHtml(text: string): string {
  const names: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' };
  return text.replace(/[&<>"]/g, (c) => names[c]);
}

/** A value as JSON that may stand inside of a script element: no `<` of it can end that or start a comment. */
export function scriptJson(value: unknown): string {
  return JSON.stringify(value).replace(/[<\u2028\u2029]/g, (c) => {
    return `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`;
  });
}

export interface Cell {
  text: string;
  /** What a column is sorted by, where it is not the text. */
  value?: number;
  /** Class of the cell. */
  kind?: string;
}

export interface Table {
  id: string;
  caption: string;
  /** Without one a row's first cell says what it is. */
  head?: string[];
  rows: Cell[][];
  /** Whether a click on a heading sorts. */
  sortable?: boolean;
}

/** The first cell of a row is its heading. */
export function tableHtml({ id, caption, head = [], rows, sortable }: Table): string {
  const numeric = head.map((_, i) => rows.some((row) => row[i]?.value !== undefined));
  const th = head.map((text, i) => {
    const label = sortable
      ? `<button type="button">${escapeHtml(text)}</button>`
      : escapeHtml(text);
    return `<th scope="col"${numeric[i] ? ' class="number"' : ''}>${label}</th>`;
  });
  const lines = rows.map((row) => `<tr>${row.map(cellHtml).join('')}</tr>`);
  return `<div class="scroll" role="region" aria-labelledby="${id}-caption" tabindex="0">
<table id="${id}"${sortable ? ' data-sortable' : ''}>
<caption id="${id}-caption">${escapeHtml(caption)}</caption>
${th.length > 0 ? `<thead><tr>${th.join('')}</tr></thead>` : ''}
<tbody>
${lines.join('\n')}
</tbody>
</table>
</div>`;
}

function cellHtml({ text, value, kind }: Cell, i: number): string {
  const classes = [value === undefined ? '' : 'number', kind ?? ''].filter(Boolean).join(' ');
  const attributes = [
    classes && ` class="${classes}"`,
    value !== undefined && Number.isFinite(value) && ` data-value="${value}"`,
  ];
  const open = `${i === 0 ? 'th scope="row"' : 'td'}${attributes.filter(Boolean).join('')}`;
  return `<${open}>${escapeHtml(text)}</${i === 0 ? 'th' : 'td'}>`;
}

// The script of the page: draws the plots with Chart.js, which stands before it, and sorts the tables.
const { Chart } = window;
const charts = JSON.parse(document.getElementById('charts').textContent);
const drawn = [];

const POINTS = ['circle', 'triangle', 'rect', 'rectRot', 'star', 'crossRot'];
const DASHES = [[], [8, 4], [2, 3]];

/** The colors of the page as it is shown. */
function palette() {
  const style = getComputedStyle(document.documentElement);
  const color = (name) => style.getPropertyValue(`--${name}`).trim();
  return {
    text: color('text'),
    quiet: color('quiet'),
    line: color('line'),
    page: color('page'),
    series: color('series').split(/\s+/),
  };
}

function rounded(x) {
  return Number(x.toPrecision(3)).toLocaleString('en', { maximumSignificantDigits: 3 });
}

function axis(title, options = {}) {
  const { text, quiet, line } = palette();
  return {
    title: { display: true, text: title, color: text },
    grid: { color: line },
    border: { color: line },
    ticks: { color: quiet, ...options.ticks },
    ...options.scale,
  };
}

/** Powers of ten, and 2 and 5 times them where there is room. */
function logTicks(value) {
  const digit = Math.round(value / 10 ** Math.floor(Math.log10(value) + 1e-9));
  return digit === 1 || digit === 2 || digit === 5 ? value.toLocaleString('en') : '';
}

function common(tooltip) {
  const { text, page, line } = palette();
  const narrow = window.innerWidth < 640;
  return {
    responsive: true,
    maintainAspectRatio: false,
    animation: false,
    plugins: {
      legend: {
        position: 'bottom',
        labels: {
          color: text,
          usePointStyle: true,
          boxHeight: 7,
          font: { size: narrow ? 10 : 12 },
        },
      },
      tooltip: {
        backgroundColor: page,
        borderColor: line,
        borderWidth: 1,
        titleColor: text,
        bodyColor: text,
        ...tooltip,
      },
    },
  };
}

/** Writes the name of every ceiling along its line. */
const named = {
  id: 'named',
  afterDatasetsDraw({ ctx, chartArea, data, scales: { x, y } }) {
    const { quiet } = palette();
    ctx.save();
    ctx.fillStyle = quiet;
    ctx.font = `${window.innerWidth < 640 ? 10 : 12}px sans-serif`;
    for (const { label, data: points, type } of data.datasets) {
      if (type !== 'line') continue;
      const ends = points.map((p) => [x.getPixelForValue(p.x), y.getPixelForValue(p.y)]);
      const [[fromX, fromY], [toX, toY]] = ends;
      const slope = (toY - fromY) / (toX - fromX);
      // From where the line comes into view.
      const shown = slope < 0 ? Math.max(fromX, fromX + (chartArea.bottom - fromY) / slope) : fromX;
      const start = slope < 0 ? shown + 8 : toX - 8;
      ctx.save();
      ctx.textAlign = slope < 0 ? 'left' : 'right';
      ctx.translate(start, fromY + slope * (start - fromX));
      ctx.rotate(Math.atan(slope));
      ctx.fillText(label, 0, -5);
      ctx.restore();
    }
    ctx.restore();
  },
};

function roofline(group) {
  const { quiet, series } = palette();
  const shown = group.passes.filter(({ label }) => chosen('pass', label));
  const ceilings = group.ceilings.map(({ label, points }) => ({
    label,
    data: points,
    type: 'line',
    borderColor: quiet,
    borderWidth: 1.5,
    pointRadius: 0,
    pointHitRadius: 0,
  }));
  const passes = group.passes.map(({ label, points }, i) => ({
    label,
    data: points,
    type: 'scatter',
    backgroundColor: series[i],
    borderColor: series[i],
    pointStyle: POINTS[i % POINTS.length],
    pointRadius: 6,
    pointHoverRadius: 9,
    hidden: !shown.some((one) => one.label === label),
  }));
  const rates = group.passes.flatMap(({ points }) => points.map(({ y }) => y));
  const roof = Math.max(...group.ceilings.flatMap(({ points }) => points.map(({ y }) => y)));
  const label = ({ raw }) => `${raw.name}: ${rounded(raw.y)} GF/s at ${rounded(raw.x)} flops/byte`;
  const options = common({
    callbacks: { label },
    filter: ({ dataset }) => dataset.type === 'scatter',
  });
  options.plugins.legend.labels.filter = ({ text }) => shown.some((one) => one.label === text);
  const log = (scale) => ({
    scale: { type: 'logarithmic', ...scale },
    ticks: { callback: logTicks },
  });
  return {
    type: 'scatter',
    data: { datasets: [...passes, ...ceilings] },
    plugins: [named],
    options: {
      ...options,
      scales: {
        x: axis('flops per byte', log({})),
        y: axis('GF/s', log({ min: Math.min(roof / 100, ...rates) / 2, max: 2 * roof })),
      },
    },
  };
}

function lines(series, x, y) {
  const { series: colors } = palette();
  const datasets = series.map(({ label, points }, i) => ({
    label,
    data: points,
    borderColor: colors[i % colors.length],
    backgroundColor: colors[i % colors.length],
    borderDash: DASHES[Math.floor(i / colors.length) % DASHES.length],
    pointStyle: POINTS[i % POINTS.length],
    pointRadius: 5,
    borderWidth: 2,
  }));
  const label = ({ raw }) => `${raw.name}: ${rounded(raw.y)}`;
  return {
    type: 'line',
    data: { datasets },
    options: { ...common({ callbacks: { label } }), scales: { x, y } },
  };
}

/** Ticks where the points are. */
function ticksAt(series) {
  const places = [...new Set(series.flatMap(({ points }) => points.map(({ x }) => x)))];
  return {
    afterBuildTicks: (axis) => {
      axis.ticks = places.sort((a, b) => a - b).map((value) => ({ value }));
    },
  };
}

function overTokens(series) {
  const log = {
    scale: { type: 'logarithmic', ...ticksAt(series) },
    ticks: { callback: (value) => value.toLocaleString('en') },
  };
  const fromZero = { scale: { type: 'linear', beginAtZero: true } };
  return lines(series, axis('tokens', log), axis('ns per token and head', fromZero));
}

function overThreads(series) {
  const { quiet } = palette();
  const counts = series.flatMap(({ points }) => points.map(({ x }) => x));
  const [least, most] = [Math.min(...counts), Math.max(...counts)];
  const whole = { scale: { type: 'linear', min: least, max: most, ...ticksAt(series) } };
  const fromZero = { scale: { type: 'linear', beginAtZero: true } };
  const plot = lines(series, axis('threads', whole), axis('times as fast', fromZero));
  const name = 'in proportion to threads';
  plot.data.datasets.push({
    label: name,
    data: [least, most].map((x) => ({ x, y: x / least, name })),
    borderColor: quiet,
    borderDash: DASHES[1],
    borderWidth: 1.5,
    pointRadius: 0,
    pointStyle: 'line',
  });
  return plot;
}

function bars(shown) {
  const { text, series } = palette();
  const labels = shown.map(({ label }) => label);
  const datasets = charts.peers.map((label, i) => ({
    label,
    data: shown.map(({ ratios }) => ratios[i]),
    backgroundColor: series[i % series.length],
    borderRadius: 2,
    maxBarThickness: 16,
    skipNull: true,
  }));
  // Where both take as long.
  const even = {
    id: 'even',
    afterDatasetsDraw({ ctx, chartArea, scales }) {
      const x = scales.x.getPixelForValue(1);
      ctx.save();
      ctx.strokeStyle = text;
      ctx.setLineDash([4, 3]);
      ctx.beginPath();
      ctx.moveTo(x, chartArea.top);
      ctx.lineTo(x, chartArea.bottom);
      ctx.stroke();
      ctx.restore();
    },
  };
  const label = ({ dataset, raw }) => `${dataset.label}: ${rounded(raw)} times as long`;
  const short = (_value, index) => {
    const width = window.innerWidth < 640 ? 22 : 70;
    const name = labels[index];
    return name.length > width ? `${name.slice(0, width - 1)}…` : name;
  };
  const options = common({ callbacks: { label } });
  options.plugins.legend.position = 'top';
  return {
    type: 'bar',
    data: { labels, datasets },
    plugins: [even],
    options: {
      ...options,
      indexAxis: 'y',
      scales: {
        x: axis('times as long as rankone; dashed: as long', {
          scale: { position: 'top', beginAtZero: true, suggestedMax: 1.2 },
        }),
        y: axis('', {
          scale: { title: { display: false }, grid: { display: false } },
          ticks: { autoSkip: false, callback: short },
        }),
      },
    },
  };
}

/** Whether the reader wants to see it. */
function chosen(id, value) {
  const choice = document.getElementById(id)?.value;
  return choice === value || (id === 'pass' && choice === 'all passes');
}

function draw() {
  for (const chart of drawn.splice(0)) chart.destroy();
  const put = (id, height, configuration) => {
    const canvas = document.getElementById(id);
    if (!canvas) return;
    if (height) canvas.parentElement.style.height = `${height}px`;
    drawn.push(new Chart(canvas, configuration));
  };
  const group = charts.rooflines.find(({ where }) => chosen('where', where));
  if (!group) return;
  put('roofline', undefined, roofline(group));
  const shown = (series, where) =>
    series.filter((one) => one.where === where && chosen('pass', one.pass));
  // A legend takes a line per name, or per three of them.
  const legendHeight = (series) =>
    22 * Math.ceil(series.length / (window.innerWidth < 640 ? 1 : 3));
  const tokens = shown(charts.tokens, group.where);
  put('over-tokens', 380 + legendHeight(tokens), overTokens(tokens));
  const threads = shown(charts.threads, group.isa);
  put('over-threads', 380 + legendHeight(threads), overThreads(threads));
  const compared = shown(charts.bars, group.where);
  const height = 120 + compared.length * (12 + 12 * charts.peers.length);
  put('bars', height, bars(compared));
}

/** Sorts the rows by a column: numbers from the largest, text from A, and the other way at the next click. */
function sortBy(table, column) {
  const headings = [...table.tHead.rows[0].cells];
  const heading = headings[column];
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const numeric = heading.classList.contains('number');
  const before = heading.getAttribute('aria-sort');
  const first = numeric ? 'descending' : 'ascending';
  const other = numeric ? 'ascending' : 'descending';
  const direction = before === first ? other : first;
  const sign = direction === 'ascending' ? 1 : -1;
  const order = (a, b) => {
    const [x, y] = [a.cells[column], b.cells[column]];
    if (!numeric) return sign * x.textContent.localeCompare(y.textContent);
    // What is empty comes last, whatever the direction.
    const [p, q] = [x, y].map((cell) => cell.dataset.value);
    if (p === undefined || q === undefined) return (p === undefined) - (q === undefined);
    return sign * (Number(p) - Number(q));
  };
  for (const row of rows.sort(order)) body.append(row);
  for (const one of headings) one.removeAttribute('aria-sort');
  heading.setAttribute('aria-sort', direction);
}

for (const table of document.querySelectorAll('table[data-sortable]')) {
  for (const [column, heading] of [...table.tHead.rows[0].cells].entries()) {
    heading.querySelector('button').addEventListener('click', () => sortBy(table, column));
  }
}

for (const choice of document.querySelectorAll('select')) choice.addEventListener('change', draw);
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', draw);
// Paper is white, whatever the screen is.
addEventListener('beforeprint', () => {
  document.documentElement.dataset.theme = 'light';
  draw();
});
addEventListener('afterprint', () => {
  delete document.documentElement.dataset.theme;
  draw();
});
draw();

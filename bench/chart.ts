import type { Curve } from './report.js';

const WIDTH = 900;
const HEIGHT = 380;
const PANEL = { top: 60, bottom: 320, width: 340 };
const COLOURS = ['#0b7285', '#e8590c', '#868e96'];

/**
 * The curves as SVG: requests/s, and latency as median and p99, by number of clients (at equal distances).
 * @param ceiling of the bare pipeline, in texts/s
 */
export function chart(curves: readonly Curve[], ceiling: number, title: string): string {
  const clients = [...new Set(curves.flatMap(({ points }) => points.map((point) => point.clients)))];
  const x = (left: number, at: number) => left + (PANEL.width * at) / Math.max(1, clients.length - 1);
  const panel = (
    left: number,
    heading: string,
    max: number,
    draw: (y: (value: number) => number, curve: Curve, colour: string) => string,
    logarithmic = false,
  ) => {
    const share = (value: number) =>
      logarithmic ? Math.log10(Math.max(1, value)) / Math.log10(max) : value / max;
    const y = (value: number) => PANEL.bottom - (PANEL.bottom - PANEL.top) * share(value);
    const ticks = logarithmic
      ? Array.from({ length: Math.floor(Math.log10(max)) + 1 }, (_, i) => 10 ** i)
      : Array.from({ length: 5 }, (_, i) => (max * i) / 4);
    return [
      `<text x="${left}" y="${PANEL.top - 16}" class="heading">${heading}</text>`,
      ...ticks.map(
        (tick) =>
          `<line x1="${left}" x2="${left + PANEL.width}" y1="${y(tick)}" y2="${y(tick)}" class="grid"/>` +
          `<text x="${left - 8}" y="${y(tick) + 4}" text-anchor="end">${tick}</text>`,
      ),
      ...clients.map(
        (count, i) => `<text x="${x(left, i)}" y="${PANEL.bottom + 18}" text-anchor="middle">${count}</text>`,
      ),
      `<text x="${left + PANEL.width / 2}" y="${PANEL.bottom + 36}" text-anchor="middle">clients</text>`,
      ...curves.map((curve, i) => draw(y, curve, COLOURS[i % COLOURS.length] ?? 'black')),
    ].join('\n');
  };
  const line = (
    left: number,
    y: (value: number) => number,
    points: readonly (readonly [number, number])[],
    more: string,
  ) =>
    `<polyline points="${points.map(([count, value]) => `${x(left, clients.indexOf(count)).toFixed(1)},${y(value).toFixed(1)}`).join(' ')}" fill="none" ${more}/>`;
  const roundUp = (value: number) => {
    const step = 10 ** Math.floor(Math.log10(value));
    return Math.ceil(value / step) * step;
  };
  const all = curves.flatMap(({ points }) => points);
  const left = 60;
  const right = 510;
  const most = roundUp(Math.max(ceiling, ...all.map(({ perSecond }) => perSecond)));
  const ceilingY = PANEL.bottom - ((PANEL.bottom - PANEL.top) * ceiling) / most;
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label="${title}">`,
    '<style>text{font:12px system-ui,sans-serif;fill:#495057}.heading{font-weight:600;font-size:14px}.grid{stroke:#dee2e6}</style>',
    `<rect width="${WIDTH}" height="${HEIGHT}" fill="white"/>`,
    ...curves.map(
      ({ name }, i) =>
        `<rect x="${60 + i * 230}" y="10" width="12" height="12" fill="${COLOURS[i % COLOURS.length]}"/>` +
        `<text x="${78 + i * 230}" y="21">${name}</text>`,
    ),
    panel(left, 'requests/s', most, (y, { points }, colour) =>
      line(
        left,
        y,
        points.map((point) => [point.clients, point.perSecond] as const),
        `stroke="${colour}" stroke-width="2.5"`,
      ),
    ),
    `<line x1="${left}" x2="${left + PANEL.width}" y1="${ceilingY}" y2="${ceilingY}" stroke="black" stroke-dasharray="2 3"/>` +
      `<text x="${left + 4}" y="${ceilingY - 5}">the bare pipeline</text>`,
    panel(
      right,
      'latency in ms: median, and p99 dashed',
      roundUp(Math.max(...all.map(({ p99 }) => p99))),
      (y, { points }, colour) =>
        line(
          right,
          y,
          points.map((point) => [point.clients, point.p50] as const),
          `stroke="${colour}" stroke-width="2.5"`,
        ) +
        line(
          right,
          y,
          points.map((point) => [point.clients, point.p99] as const),
          `stroke="${colour}" stroke-dasharray="4 4"`,
        ),
      true,
    ),
    '</svg>',
  ].join('\n');
}

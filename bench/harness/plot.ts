/** Plots as SVG text: lines and stacked bars. No script; values show as tooltips. */

export type Scale = 'linear' | 'log';

export interface Axis {
  readonly label: string;
  readonly scale: Scale;
  /** Where ticks go, and how they are called; else chosen. */
  readonly ticks?: readonly (readonly [number, string])[];
}

export interface Series {
  readonly name: string;
  readonly color: string;
  readonly points: readonly (readonly [number, number])[];
  /** Whether each point is marked. */
  readonly dots?: boolean;
}

const width = 560;
const height = 300;
const margin = { left: 64, right: 16, top: 12, bottom: 44 };
const plotWidth = width - margin.left - margin.right;
const plotHeight = height - margin.top - margin.bottom;

export function escaped(text: string): string {
  return text.replace(/[&<>"]/g, (c) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' })[c] ?? c);
}

/** Short for axes and tooltips: 12,300 is 12.3k. */
export function short(value: number): string {
  const size = Math.abs(value);
  if (size >= 1e6) return `${trim(value / 1e6)}M`;
  if (size >= 1e3) return `${trim(value / 1e3)}k`;
  return trim(value);
}

const trim = (value: number): string => String(Number(value.toPrecision(3)));

export function linePlot(x: Axis, y: Axis, series: readonly Series[]): string {
  const points = series.flatMap((each) => each.points);
  if (points.length === 0) return '';
  const xs = extentOf(
    points.map(([value]) => value),
    x,
  );
  const ys = extentOf(
    points.map(([, value]) => value),
    y,
  );
  const atX = (value: number): number => margin.left + place(value, xs, x.scale) * plotWidth;
  const atY = (value: number): number => margin.top + (1 - place(value, ys, y.scale)) * plotHeight;
  const parts: string[] = [];
  for (const [value, label] of y.ticks ?? ticksOf(ys, y.scale)) {
    const at = atY(value).toFixed(1);
    parts.push(`<line class="grid" x1="${margin.left}" x2="${width - margin.right}" y1="${at}" y2="${at}"/>`);
    parts.push(text(margin.left - 6, Number(at) + 4, 'end', label));
  }
  for (const [value, label] of x.ticks ?? ticksOf(xs, x.scale)) {
    const at = atX(value).toFixed(1);
    parts.push(
      `<line class="grid" x1="${at}" x2="${at}" y1="${margin.top}" y2="${height - margin.bottom}"/>`,
    );
    parts.push(text(Number(at), height - margin.bottom + 16, 'middle', label));
  }
  parts.push(text(margin.left + plotWidth / 2, height - 8, 'middle', x.label));
  parts.push(
    `<text transform="translate(14 ${margin.top + plotHeight / 2}) rotate(-90)" text-anchor="middle">${escaped(y.label)}</text>`,
  );
  for (const { name, color, points: line, dots } of series) {
    const path = line
      .map(([px, py], i) => `${i === 0 ? 'M' : 'L'}${atX(px).toFixed(1)} ${atY(py).toFixed(1)}`)
      .join('');
    parts.push(
      `<path d="${path}" fill="none" stroke="${color}" stroke-width="2"><title>${escaped(name)}</title></path>`,
    );
    if (dots !== true) continue;
    for (const [px, py] of line)
      parts.push(
        `<circle cx="${atX(px).toFixed(1)}" cy="${atY(py).toFixed(1)}" r="3.5" fill="${color}"><title>${escaped(name)}: ${short(py)} at ${short(px)}</title></circle>`,
      );
  }
  return svg(width, height, `${y.label} by ${x.label}`, parts);
}

export interface Bar {
  readonly label: string;
  readonly color: string;
  /** Stacked from the left, each lighter than the one before. */
  readonly parts: readonly { readonly name: string; readonly value: number }[];
}

const barHeight = 22;
const labelWidth = 110;
const valueWidth = 72;

export function barPlot(title: string, unit: string, bars: readonly Bar[]): string {
  const sums = bars.map(({ parts }) => parts.reduce((sum, { value }) => sum + value, 0));
  const most = Math.max(...sums);
  if (!(most > 0)) return '';
  const total = 30 + bars.length * barHeight;
  const wide = width - labelWidth - valueWidth;
  const out = [text(0, 14, 'start', `${title}, ${unit}`)];
  for (const [i, { label, color, parts }] of bars.entries()) {
    const y = 26 + i * barHeight;
    out.push(text(labelWidth - 8, y + 13, 'end', label));
    let x = labelWidth;
    for (const [j, { name, value }] of parts.entries()) {
      const long = (value / most) * wide;
      out.push(
        `<rect x="${x.toFixed(1)}" y="${y}" width="${Math.max(0, long).toFixed(1)}" height="${barHeight - 6}" fill="${color}" fill-opacity="${(1 - 0.22 * Math.min(3, j)).toFixed(2)}"><title>${escaped(`${label}, ${name}: ${short(value)} ${unit}`)}</title></rect>`,
      );
      x += long;
    }
    out.push(text(x + 6, y + 13, 'start', short(sums[i] as number)));
  }
  return svg(width, total, title, out);
}

function svg(w: number, h: number, title: string, parts: readonly string[]): string {
  return `<svg viewBox="0 0 ${w} ${h}" role="img" aria-label="${escaped(title)}">${parts.join('')}</svg>`;
}

function text(x: number, y: number, anchor: 'start' | 'middle' | 'end', value: string): string {
  return `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" text-anchor="${anchor}">${escaped(value)}</text>`;
}

interface Extent {
  readonly from: number;
  readonly to: number;
}

function extentOf(values: readonly number[], { scale, ticks }: Axis): Extent {
  const all = [...values, ...(ticks ?? []).map(([value]) => value)];
  const [low, high] = [Math.min(...all), Math.max(...all)];
  if (scale === 'linear') return { from: Math.min(0, low), to: high > 0 ? high * (ticks ? 1 : 1.05) : 1 };
  const positive = all.filter((value) => value > 0);
  const least = positive.length === 0 ? 1 : Math.min(...positive);
  // Room where all values are one.
  return high > least ? { from: least, to: high } : { from: least / 2, to: least * 2 };
}

function place(value: number, { from, to }: Extent, scale: Scale): number {
  if (scale === 'linear') return (value - from) / (to - from);
  return Math.log(Math.max(value, from) / from) / Math.log(to / from);
}

function ticksOf({ from, to }: Extent, scale: Scale): [number, string][] {
  if (scale === 'linear') {
    const rough = (to - from) / 5;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = ([1, 2, 5, 10].find((each) => each * power >= rough) ?? 10) * power;
    const count = Math.floor((to - from) / step + 1e-9);
    return Array.from({ length: count + 1 }, (_, i) => [from + i * step, short(from + i * step)]);
  }
  const ticks: [number, string][] = [];
  const decades = Math.log10(to / from);
  for (let power = Math.floor(Math.log10(from)); power <= Math.ceil(Math.log10(to)); power++)
    for (const digit of decades > 3 ? [1] : [1, 2, 5]) {
      const value = digit * 10 ** power;
      if (value >= from * 0.999 && value <= to * 1.001) ticks.push([value, short(value)]);
    }
  return ticks;
}

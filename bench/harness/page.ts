/** The report as one HTML file: tables and plots, nothing fetched, no script. */
import { type Bar, barPlot, escaped, linePlot, type Series } from './plot.js';
import { footer, measuredSystems, ms, type Report, ratio, summaryOf, whole } from './report.js';
import type { Sample } from './sample.js';
import type { Summary } from './stats.js';

/** Told apart also by those who see few colours (Okabe and Ito's). */
const colors = ['#d55e00', '#0072b2', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#8a8a8a'];

const style = `
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #ffffff; --line: #d7d7d7; --soft: #5c5c5c; }
@media (prefers-color-scheme: dark) { :root { --ink: #ececec; --paper: #161616; --line: #3c3c3c; --soft: #a5a5a5; } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1180px; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .7rem; text-align: right; vertical-align: top; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
td small, .soft { color: var(--soft); }
svg { width: 100%; height: auto; }
svg text { font: 12px system-ui, sans-serif; fill: var(--soft); }
svg .grid { stroke: var(--line); stroke-width: 1; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); gap: 1.2rem 2rem; }
figure { margin: 0; } figcaption { font-weight: 600; margin-bottom: .3rem; }
.key span { display: inline-block; margin-right: 1.2rem; } .key i { display: inline-block; width: .8rem; height: .8rem; border-radius: 2px; margin-right: .4rem; vertical-align: -1px; }
pre { white-space: pre-wrap; border-top: 1px solid var(--line); padding-top: 1rem; font-size: 13px; }`;

export function page(report: Report): string {
  const systems = measuredSystems(report);
  const colorOf = (system: string): string => colors[systems.indexOf(system) % colors.length] as string;
  const key = systems
    .map((system) => `<span><i style="background:${colorOf(system)}"></i>${escaped(system)}</span>`)
    .join('');
  const title =
    systems.length > 1 ? `${systems[0]} beside ${systems.slice(1).join(', ')}` : 'Hansard, measured';
  const sections = [
    `<h1>${escaped(title)}</h1>`,
    report.incomplete === '' ? '' : `<p><strong>Incomplete: ${escaped(report.incomplete)}</strong></p>`,
    rates(report, systems),
    `<p class="key">${key}</p>`,
    section('Throughput against calls in flight', inFlight(report, systems, colorOf)),
    section(
      'Latency',
      report.workloads.map(({ name, title }) => figure(name, title, latency(report, name, systems, colorOf))),
    ),
    section(
      'Throughput over time',
      report.workloads.map(({ name, title }) =>
        figure(name, `${title}; its rounds one after the other`, overTime(report, name, systems, colorOf)),
      ),
    ),
    section(
      'What it costs',
      report.workloads.map(({ name, title }) => figure(name, title, costs(report, name, systems, colorOf))),
    ),
    `<pre>${escaped(footer(report))}\n\nagain: ${escaped(report.again)}</pre>`,
  ];
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>${escaped(title)}</title><style>${style}</style></head>
<body>${sections.join('\n')}</body></html>
`;
}

type ColorOf = (system: string) => string;

function section(title: string, figures: readonly string[]): string {
  const found = figures.filter((each) => each !== '');
  return found.length === 0 ? '' : `<h2>${escaped(title)}</h2><div class="plots">${found.join('\n')}</div>`;
}

function figure(name: string, title: string, plot: string): string {
  if (plot === '') return '';
  return `<figure><figcaption title="${escaped(title)}">${escaped(name)}</figcaption>${plot}</figure>`;
}

function rates(report: Report, systems: readonly string[]): string {
  const head = ['per second', ...systems].map((each) => `<th>${escaped(each)}</th>`).join('');
  const rows = report.workloads.map(({ name, title }) => {
    const cells = systems.map((system) => {
      const found = summaryOf(report, name, system);
      if (found === undefined) return '<td>–</td>';
      const to = report.ratios.find((each) => each.system === system && each.workload === name);
      const below = to === undefined ? '' : `<br><small>${ratio(to)}</small>`;
      return `<td>${whole(found.perSecond)}<br><small>p50 ${ms(found.p50Ms)}, p99 ${ms(found.p99Ms)} ms</small>${below}</td>`;
    });
    return `<tr><td title="${escaped(title)}">${escaped(name)}</td>${cells.join('')}</tr>`;
  });
  const note =
    systems.length > 1
      ? `<p class="soft">Below each: ${escaped(systems[0] ?? '')}'s ratio to it, min / median / max of the rounds; above 1 it is ahead.</p>`
      : '';
  return `<table><thead><tr>${head}</tr></thead><tbody>${rows.join('')}</tbody></table>${note}`;
}

/** Rows that differ in nothing but their calls in flight make a line. */
function inFlight(report: Report, systems: readonly string[], colorOf: ColorOf): string[] {
  const families = new Map<string, Report['workloads'][number][]>();
  for (const workload of report.workloads) {
    if (workload.inFlight === undefined) continue;
    const family = workload.name.replace(/-\d+/, '');
    families.set(family, [...(families.get(family) ?? []), workload]);
  }
  return [...families].flatMap(([family, rows]) => {
    if (rows.length < 2) return [];
    const sorted = [...rows].sort((a, b) => (a.inFlight ?? 0) - (b.inFlight ?? 0));
    const series = systems.map((system): Series => {
      const points = sorted.flatMap(({ name, inFlight = 0 }) => {
        const found = summaryOf(report, name, system);
        return found === undefined ? [] : [[inFlight, found.perSecond] as const];
      });
      return { name: system, color: colorOf(system), points, dots: true };
    });
    const ticks = sorted.map(({ inFlight = 0 }) => [inFlight, String(inFlight)] as const);
    const plot = linePlot(
      { label: 'calls in flight', scale: 'log', ticks },
      { label: `${sorted[0]?.unit} per second`, scale: 'linear' },
      series,
    );
    return [figure(family, family, plot)];
  });
}

/** Percentiles stretched towards the slowest: 90, 99, 99.9 … equally far apart. */
const stretched = (percentile: number): number => -Math.log10(1 - Math.min(percentile, 99.999) / 100);
const percentileTicks = [0, 50, 90, 99, 99.9].map((p) => [stretched(p), `p${p}`] as const);

function latency(report: Report, workload: string, systems: readonly string[], colorOf: ColorOf): string {
  const series = systems.flatMap((system): Series[] => {
    const found = summaryOf(report, workload, system);
    if (found === undefined) return [];
    const points = found.latency
      .filter(([p, value]) => p <= 99.9 && value > 0)
      .map(([p, value]) => [stretched(p), value] as const);
    return [{ name: system, color: colorOf(system), points }];
  });
  return linePlot(
    { label: 'percentile', scale: 'linear', ticks: percentileTicks },
    { label: 'ms', scale: 'log' },
    series,
  );
}

function overTime(report: Report, workload: string, systems: readonly string[], colorOf: ColorOf): string {
  const series = systems.map((system): Series => {
    let seconds = 0;
    const points = samplesOf(report, workload, system).flatMap((sample) => {
      const step = sample.seconds / Math.max(1, sample.overTime.length);
      return sample.overTime.map((value) => {
        seconds += step;
        return [seconds, value] as const;
      });
    });
    return { name: system, color: colorOf(system), points };
  });
  return linePlot(
    { label: 'measured seconds', scale: 'linear' },
    { label: 'per second', scale: 'linear' },
    series,
  );
}

const one = { messages: 'message', pages: 'page', calls: 'call', deliveries: 'delivery' } as const;

function samplesOf({ samples }: Report, workload: string, system: string): Sample[] {
  return samples
    .filter((sample) => sample.workload === workload && sample.system === system)
    .sort((a, b) => a.round - b.round);
}

function costs(report: Report, workload: string, systems: readonly string[], colorOf: ColorOf): string {
  const bars = (pick: (summary: Summary) => Readonly<Record<string, number>>, scale = 1): Bar[] =>
    systems.flatMap((system): Bar[] => {
      const found = summaryOf(report, workload, system);
      if (found === undefined) return [];
      const parts = Object.entries(pick(found)).map(([name, value]) => ({ name, value: value * scale }));
      return [{ label: system, color: colorOf(system), parts }];
    });
  const unit = one[report.workloads.find(({ name }) => name === workload)?.unit ?? 'messages'];
  return [
    barPlot(
      'CPU, client and then each node',
      `µs per ${unit}`,
      bars((s) => s.cpuUs),
    ),
    barPlot(
      'Memory, client and then each node',
      'MiB',
      bars((s) => s.memoryMiB),
    ),
    barPlot(
      'Written to the disk, all nodes and whatever else writes to it',
      `bytes per ${unit}`,
      bars((s) => (Number.isNaN(s.diskBytes) ? {} : { all: s.diskBytes }), 1 / 1000),
    ),
  ].join('');
}

/**
 * Histories with known verdicts, as files: `*.log` of a register, whose verdicts
 * stand in `verdicts.tsv` beside them, `*-ok.txt` / `*-bad.txt` of texts, and `*-ok.jsonl` / `*-bad.jsonl` of channels.
 */
import fs from 'node:fs';
import path from 'node:path';
import { judgeChannelHistory, readChannelHistory } from './channel-history.js';
import { check, type Verdict } from './checker.js';
import { readRegisterHistory, readTextHistory } from './histories.js';
import { register, texts } from './models.js';

/** Of channels all levels are judged: their promises were kept, or one was broken. */
type Known = 'linearizable' | 'not-linearizable' | 'kept' | 'broken';

export interface Judged {
  /** Relative to the folder that was asked for. */
  readonly file: string;
  readonly expected: Known;
  readonly found: Known | 'unknown' | 'unreadable';
  readonly operations: number;
  readonly ms: number;
  /** Why it is not as it should be, or not readable. */
  readonly detail: string;
}

export interface JudgeOptions {
  /** One history may take this long, ms; beyond, its verdict is `unknown`, which is not what anyone expects. */
  readonly timeLimitMs: number;
}

export const judgeDefaults: JudgeOptions = Object.freeze({ timeLimitMs: 30_000 });

/** Every history under the folder, in the order of names. Throws where there is none. */
export function* judgeFolder(folder: string, options: JudgeOptions = judgeDefaults): Generator<Judged> {
  let count = 0;
  for (const file of filesUnder(folder)) {
    const expected = expectedOf(file);
    if (expected === undefined) continue;
    count++;
    yield judgeFile(folder, file, expected, options);
  }
  if (count === 0) throw new Error(`no history with a known verdict under ${folder}`);
}

function judgeFile(
  folder: string,
  file: string,
  expected: Judged['expected'],
  { timeLimitMs }: JudgeOptions,
): Judged {
  const startMs = performance.now();
  const isExpired = (): boolean => performance.now() - startMs > timeLimitMs;
  const base = { file: path.relative(folder, file), expected };
  let operations = 0;
  try {
    const text = fs.readFileSync(file, 'utf8');
    if (file.endsWith('.jsonl'))
      return { ...base, ...judgeChannels(text, isExpired), ms: performance.now() - startMs };
    let verdict: Verdict;
    if (file.endsWith('.log')) {
      const history = readRegisterHistory(text);
      operations = history.length;
      verdict = check(register, history, { isExpired });
    } else {
      const history = readTextHistory(text);
      operations = history.length;
      verdict = check(texts, history, { isExpired });
    }
    const ms = performance.now() - startMs;
    if (operations === 0)
      return { ...base, found: 'unreadable', operations, ms, detail: 'no operation in it' };
    return { ...base, found: verdict.verdict, operations, ms, detail: detailOf(verdict) };
  } catch (error) {
    const detail = error instanceof Error ? error.message : String(error);
    return { ...base, found: 'unreadable', operations, ms: performance.now() - startMs, detail };
  }
}

function judgeChannels(text: string, isExpired: () => boolean): Omit<Judged, 'file' | 'expected' | 'ms'> {
  const events = readChannelHistory(text);
  const { problems, unknown } = judgeChannelHistory(events, { isExpired });
  const found = problems.length > 0 ? 'broken' : unknown ? 'unknown' : 'kept';
  const operations = events.filter(({ type }) => type === 'append' || type === 'read').length;
  return operations === 0
    ? { found: 'unreadable', operations, detail: 'no operation in it' }
    : { found, operations, detail: problems.join('; ') };
}

function detailOf(verdict: Verdict): string {
  if (verdict.verdict !== 'not-linearizable') return '';
  const { key, longest, stuckAt } = verdict;
  const where = key === '' ? '' : `key ${key}: `;
  return `${where}after ${longest.length} operations none of these can come next: ${stuckAt.slice(0, 8).join('; ')}`;
}

function* filesUnder(folder: string): Generator<string> {
  const entries = fs.readdirSync(folder, { withFileTypes: true }).sort((a, b) => (a.name < b.name ? -1 : 1));
  for (const entry of entries) {
    const full = path.join(folder, entry.name);
    if (entry.isDirectory()) yield* filesUnder(full);
    else if (entry.isFile()) yield full;
  }
}

/** Undefined: not a history. A register's log without a verdict is an error: it would go unjudged in silence. */
function expectedOf(file: string): Judged['expected'] | undefined {
  if (file.endsWith('-ok.txt')) return 'linearizable';
  if (file.endsWith('-bad.txt')) return 'not-linearizable';
  if (file.endsWith('-ok.jsonl')) return 'kept';
  if (file.endsWith('-bad.jsonl')) return 'broken';
  if (!file.endsWith('.log')) return undefined;
  const verdicts = path.join(path.dirname(file), 'verdicts.tsv');
  for (const line of fs.existsSync(verdicts) ? fs.readFileSync(verdicts, 'utf8').split(/\r?\n/) : []) {
    const [name, verdict] = line.split('\t');
    if (name !== path.basename(file)) continue;
    if (verdict === 'linearizable' || verdict === 'not-linearizable') return verdict;
  }
  throw new Error(`${file} has no verdict in ${verdicts}`);
}

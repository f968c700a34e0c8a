/** The rate of `hansard import` on generated chat, the command's own start included. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { forgetProcess, removeFolder, temporaryFolder, watchProcess } from './leftovers.js';
import { chatTexts, randomOf } from './payload.js';
import { Interrupted } from './system.js';

const lines = 100_000;
const channels = 200;
const timeoutMs = 120_000;
const mainScript = fileURLToPath(new URL('../../src/cli/main.js', import.meta.url));

/** Messages per second. Each round has its own channels: a repeated file adds nothing. */
export async function importRate(endpoints: string, round: number, signal: AbortSignal): Promise<number> {
  const dir = temporaryFolder('hansard-bench-import-');
  try {
    const file = join(dir, 'chat.jsonl');
    writeFileSync(file, generated(round));
    const startedMs = performance.now();
    await imported(file, endpoints, signal);
    return lines / ((performance.now() - startedMs) / 1000);
  } finally {
    removeFolder(dir);
  }
}

async function imported(file: string, endpoints: string, signal: AbortSignal): Promise<void> {
  const child = spawn(process.execPath, [mainScript, 'import', file, '--endpoint', endpoints], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  const pid = child.pid ?? 0;
  watchProcess(pid);
  let said = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    said = (said + text).slice(-500);
  });
  const end = (): void => {
    child.kill('SIGKILL');
  };
  const timer = setTimeout(end, timeoutMs);
  signal.addEventListener('abort', end, { once: true });
  try {
    const [status] = (await once(child, 'close')) as [number | null];
    if (signal.aborted) throw new Interrupted();
    if (status !== 0) throw new Error(`hansard import ended with ${status}: ${said}`);
  } finally {
    clearTimeout(timer);
    signal.removeEventListener('abort', end);
    forgetProcess(pid);
  }
}

/** Short lines as people chat: 20 to 140 bytes, runs of a few in the same channel. */
function generated(round: number): string {
  const random = randomOf(round + 7);
  const texts = chatTexts(2_000, 140, round + 1);
  const out: string[] = [];
  let channel = 0;
  let time = Date.UTC(2024, 0, 1);
  for (let i = 0; i < lines; i++) {
    if (random() < 0.4) channel = Math.floor(random() ** 2 * channels);
    time += Math.floor(random() * 5_000);
    out.push(
      JSON.stringify({
        channel: `import-${round}/${channel}`,
        time: new Date(time).toISOString(),
        author: `person-${Math.floor(random() * 50)}`,
        text: (texts[i % texts.length] as string).slice(0, 20 + Math.floor(random() ** 2 * 120)),
      }),
    );
  }
  return `${out.join('\n')}\n`;
}

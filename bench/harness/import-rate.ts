/** The rate of `hansard import` on generated chat, the command's own start included. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { chatTexts, randomOf } from './payload.js';

const lines = 100_000;
const channels = 200;
const timeoutMs = 120_000;
const mainScript = fileURLToPath(new URL('../../src/cli/main.js', import.meta.url));

/** Messages per second. Each round has its own channels: a repeated file adds nothing. */
export async function importRate(endpoints: string, round: number): Promise<number> {
  const dir = mkdtempSync(join(tmpdir(), 'hansard-bench-import-'));
  try {
    const file = join(dir, 'chat.jsonl');
    writeFileSync(file, generated(round));
    const startedMs = performance.now();
    const { status, stderr } = spawnSync(
      process.execPath,
      [mainScript, 'import', file, '--endpoint', endpoints],
      { timeout: timeoutMs, stdio: ['ignore', 'ignore', 'pipe'] },
    );
    if (status !== 0) throw new Error(`hansard import ended with ${status}: ${String(stderr).slice(-500)}`);
    return lines / ((performance.now() - startedMs) / 1000);
  } finally {
    rmSync(dir, { recursive: true, force: true });
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

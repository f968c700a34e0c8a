/** Messages that people wrote, from the data sets beside the repository. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';

/** Texts of the Ubuntu IRC, in their order; undefined where the data is not at hand. */
export function ircTexts(limit = 50_000): string[] | undefined {
  const folder = process.env.HANSARD_SHARED ?? '../shared';
  const file = join(folder, 'data', 'ubuntu-irc.jsonl.gz');
  if (!existsSync(file)) return undefined;
  const texts: string[] = [];
  for (const line of gunzipSync(readFileSync(file)).toString().split('\n')) {
    if (line === '' || texts.length >= limit) continue;
    const { text } = JSON.parse(line) as { text?: unknown };
    if (typeof text === 'string' && text !== '') texts.push(text);
  }
  return texts;
}

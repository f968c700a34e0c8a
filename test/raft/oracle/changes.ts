/** `v1 l2 r3 u4` as changes, or an error's text. */
import { ConfChangeKind, type ConfChangeSingle } from '../../../src/raft/index.js';

const kinds: Record<string, ConfChangeKind> = {
  v: ConfChangeKind.addVoter,
  l: ConfChangeKind.addLearner,
  r: ConfChangeKind.remove,
  u: ConfChangeKind.update,
};

export function parseChanges(text: string): ConfChangeSingle[] | string {
  const changes: ConfChangeSingle[] = [];
  for (const token of text.split(/\s+/).filter((word) => word !== '')) {
    if (token.length < 2) return `unknown token ${token}`;
    const kind = kinds[token[0]!];
    const id = Number(token.slice(1));
    if (kind === undefined || !Number.isSafeInteger(id)) return `unknown input: ${token}`;
    changes.push({ kind, id });
  }
  return changes;
}

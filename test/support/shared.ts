/** Where the cases lie that the project did not write: HANSARD_SHARED, else ../shared beside the repository. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** dist/test/support/ → the repository. */
const root = fileURLToPath(new URL('../../..', import.meta.url));

/** The path inside the shared folder, or undefined where it does not exist. */
export function sharedPath(...parts: string[]): string | undefined {
  const base = process.env.HANSARD_SHARED ?? join(root, '..', 'shared');
  const path = join(base, ...parts);
  return existsSync(path) ? path : undefined;
}

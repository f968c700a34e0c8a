/** Puts a mutant's patches into a file's text. */
import type { PlantedBug } from './table.js';

/** The marker that a child looks for: a patch whose file was never loaded would prove nothing. */
export const marker = 'hansardPlanted';

/** Throws where a patch does not fit exactly once: the code moved on, and the mutant has to follow. */
export function plant(bug: PlantedBug, file: string, source: string): string {
  let text = source;
  for (const patch of bug.patches) {
    if (patch.file !== file) continue;
    const count = text.split(patch.find).length - 1;
    if (count !== 1) {
      throw new Error(
        `mutant ${bug.name}: ${JSON.stringify(patch.find)} occurs ${count} times in ${file}, not once`,
      );
    }
    // A function: `$` in the text means nothing.
    text = text.replace(patch.find, () => patch.replace);
  }
  if (text === source) return source;
  return `${text}\n;(globalThis.${marker} ??= []).push(${JSON.stringify(file)});\n`;
}

export function filesOf(bug: PlantedBug): string[] {
  return [...new Set(bug.patches.map((patch) => patch.file))];
}

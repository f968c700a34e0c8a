/** Node's module hook: whatever file the mutant names is changed while it is loaded. */
import type { InitializeHook, LoadHook } from 'node:module';
import { filesOf, plant } from './plant.js';
import { type PlantedBug, plantedBugs } from './table.js';

let bug: PlantedBug | undefined;
/** dist/, as a URL. */
const root = new URL('../../../', import.meta.url).href;

export const initialize: InitializeHook<{ name: string }> = ({ name }) => {
  bug = plantedBugs.find((one) => one.name === name);
  if (bug === undefined) throw new Error(`there is no mutant ${name}`);
};

export const load: LoadHook = async (url, context, nextLoad) => {
  const loaded = await nextLoad(url, context);
  const file = url.startsWith(root) ? url.slice(root.length) : '';
  if (bug === undefined || !filesOf(bug).includes(file)) return loaded;
  return { ...loaded, source: plant(bug, file, String(loaded.source)) };
};

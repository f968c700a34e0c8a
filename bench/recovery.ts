/**
 * The start of a node that crashed under full load: its tails were full, 150,000 messages are in the log alone.
 *
 *     npm run bench -- recovery [--batch 16] [any option of footprint]
 */
const defaults = ['--channels', '1000', '--messages', '400000', '--unsealed', '150000', '--batch', '16'];
process.argv.splice(2, 0, ...defaults, '--order', 'random', '--recovery');
await import('./footprint.js');
export {};

// The design's layers ("The house"): what a folder of src/ may import. Anything
// not allowed here is an error; the suite runs it (npm run check:layers).
const may = {
  common: [],
  raft: ['common'],
  wal: ['common'],
  conversation: ['common'],
  store: ['common', 'conversation'],
  partition: ['common', 'raft', 'wal', 'conversation', 'store'],
  transport: ['common'],
  node: ['common', 'raft', 'wal', 'conversation', 'store', 'partition', 'transport'],
  // Looks into files that no node has open; knows every format, and nothing depends on it but the command.
  inspect: ['common', 'wal', 'conversation', 'store', 'node'],
  api: ['common', 'conversation', 'node', 'partition', 'store'],
  client: ['common'],
  embedded: ['common', 'client', 'api', 'node'],
  cli: ['common', 'client', 'api', 'node', 'inspect', 'cluster'],
};
const forbidden = Object.entries(may).map(([folder, allowed]) => ({
  name: `layer-${folder}`,
  comment: `src/${folder} may import only: ${['itself', ...allowed].join(', ')}`,
  severity: 'error',
  from: { path: `^src/${folder}/` },
  to: { path: '^(src|test|bench)/', pathNot: `^src/(${[folder, ...allowed].join('|')})/` },
}));
forbidden.push(
  {
    name: 'pure-core',
    comment: 'raft/ and conversation/ know no clock, randomness, promise or I/O',
    severity: 'error',
    from: { path: '^src/(raft|conversation)/' },
    to: { dependencyTypes: ['core', 'npm', 'npm-dev'] },
  },
  {
    name: 'client-without-leveldb',
    comment: 'the SDK runs in web applications',
    severity: 'error',
    from: { path: '^src/(client|common)/' },
    to: { path: 'node_modules/(level|classic-level|abstract-level)' },
  },
  { name: 'no-circular', severity: 'error', from: {}, to: { circular: true, viaOnly: { dependencyTypesNot: ['type-only'] } } },
);
module.exports = {
  forbidden,
  options: { doNotFollow: { path: 'node_modules' }, tsPreCompilationDeps: true, tsConfig: { fileName: 'tsconfig.json' } },
};

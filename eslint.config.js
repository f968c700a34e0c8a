// A promise that nobody awaits loses its error; and the cores know nothing of the world but what they are given.
import tseslint from 'typescript-eslint';

/** Time, chance and what resumes later: with any of them the same entries could give two states. */
const worldly = [
  'Date',
  'performance',
  'process',
  'Promise',
  'queueMicrotask',
  'setTimeout',
  'setInterval',
  'setImmediate',
  'crypto',
  'fetch',
  'globalThis',
  'navigator',
  'Intl',
  'WeakRef',
  'FinalizationRegistry',
];
const pure = 'raft/ and conversation/ know no clock, randomness, promise or I/O: it comes in as an argument';

export default tseslint.config(
  {
    files: ['src/**/*.ts'],
    languageOptions: { parser: tseslint.parser, parserOptions: { projectService: true } },
    plugins: { '@typescript-eslint': tseslint.plugin },
    rules: { '@typescript-eslint/no-floating-promises': 'error' },
  },
  {
    files: ['src/raft/**/*.ts', 'src/conversation/**/*.ts'],
    rules: {
      'no-restricted-globals': ['error', ...worldly.map((name) => ({ name, message: pure }))],
      'no-restricted-imports': ['error', { patterns: [{ regex: '^[^.]', message: pure }] }],
      'no-restricted-syntax': [
        'error',
        { selector: "MemberExpression[object.name='Math'][property.name='random']", message: pure },
        { selector: "MemberExpression[object.name='Math'][computed=true]", message: pure },
        { selector: ':function[async=true]', message: pure },
        { selector: 'AwaitExpression', message: pure },
        { selector: 'ForOfStatement[await=true]', message: pure },
        { selector: 'ImportExpression', message: pure },
        // Locales differ from machine to machine.
        { selector: "MemberExpression[property.name=/^(localeCompare|toLocale.*)$/]", message: pure },
      ],
    },
  },
);

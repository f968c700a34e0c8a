import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import t from 'tap';
import { readContent } from '../../src/client/content-decode.js';
import { fromUIMessages, toUIMessage } from '../../src/client/convert/ai-sdk.js';
import { fromResponseItem, fromResponseItems, toResponseItem } from '../../src/client/convert/openai.js';
import { bodyOf, encodeAppend } from '../../src/client/requests.js';
import type { MessageContent, NewMessage } from '../../src/client/types.js';
import { codec } from './fake-cluster.js';

function fixture(name: string): unknown[] {
  const path = new URL(`../../../test/client/fixtures/${name}.json`, import.meta.url);
  return JSON.parse(readFileSync(path, 'utf8')) as unknown[];
}

/** Through the bytes that travel and are stored. */
function stored(message: NewMessage): MessageContent & { messageId?: string } {
  const request = codec('hansard.v1.AppendMessagesRequest').deserialize(
    Buffer.from(bodyOf(encodeAppend(new Uint8Array(0), [message], undefined))),
  ) as never as { messages: { message: object; message_id?: string }[] };
  const [only] = request.messages as [{ message: object; message_id?: string }];
  const content = readContent(codec('hansard.v1.MessageContent').serialize(only.message));
  return only.message_id === undefined ? content : { ...content, messageId: only.message_id };
}

t.test('UIMessages come back deep-equal', async (t) => {
  const originals = fixture('ai-sdk') as Parameters<typeof fromUIMessages>[0];
  for (const [i, message] of fromUIMessages(originals).entries())
    t.strictSame(toUIMessage(stored(message)), originals[i], `message ${i}`);
});

t.test('known UIMessage parts become typed parts', async (t) => {
  const [, assistant, sources] = fromUIMessages(fixture('ai-sdk') as Parameters<typeof fromUIMessages>[0]);
  const kinds = assistant?.parts?.map((part) => part.type);
  t.same(kinds?.slice(0, 6), ['custom', 'reasoning', 'reasoning', 'text', 'tool-call', 'tool-call']);
  t.match(
    assistant?.parts?.find((part) => part.type === 'tool-result'),
    { callId: 'c4', name: 'getWeather' },
  );
  t.match(sources?.parts?.[0], { type: 'source', kind: 'url', title: 'Wetter' });
  t.match(
    sources?.parts?.find((part) => part.type === 'data'),
    { name: 'weather', id: 'w1' },
  );
  t.equal(assistant?.messageId, 'a1');
});

t.test('Responses items come back deep-equal', async (t) => {
  const originals = fixture('openai');
  for (const [i, message] of fromResponseItems(originals).entries())
    t.strictSame(
      toResponseItem(stored(message)),
      originals[i],
      `item ${i}: ${(originals[i] as { type: string }).type}`,
    );
});

t.test('known Responses items become typed parts', async (t) => {
  const of = (item: object) => fromResponseItem(item);
  t.same(of({ type: 'function_call', call_id: 'c', name: 'n', arguments: '{"a": 1 ' }), {
    role: 'assistant',
    parts: [{ type: 'tool-call', callId: 'c', name: 'n', arguments: '{"a": 1 ' }],
  });
  const reasoning = of({ type: 'reasoning', id: 'r', summary: [], encrypted_content: 'xyz' }).parts?.[0];
  t.match(reasoning, { type: 'reasoning', id: 'r' });
  t.same(Buffer.from((reasoning as { encrypted: Uint8Array }).encrypted).toString(), 'xyz');
});

t.test('anything JSON, also with fields over a limit, comes back deep-equal', async (t) => {
  const long = 'x'.repeat(20_000);
  const huge = [
    {
      id: long,
      role: 'assistant',
      metadata: { long },
      parts: [
        { type: 'text', text: long, providerMetadata: { p: { long } } },
        { type: `tool-${long}`, toolCallId: 'c', state: 'input-available', input: {} },
        { type: 'tool-n', toolCallId: 'c', state: 'output-available', input: { long }, output: { long } },
        { type: `data-${long}`, data: 1 },
        { type: 'file', mediaType: 'x/y', filename: long, url: long },
      ],
    },
  ];
  for (const [i, message] of fromUIMessages(huge).entries())
    t.strictSame(toUIMessage(stored(message)), huge[i]);
  const items = [
    { type: 'function_call', call_id: long, name: long, arguments: long, id: long },
    {
      type: 'message',
      id: long,
      role: 'assistant',
      content: [{ type: 'output_text', text: 'x', annotations: [long] }],
    },
  ];
  for (const item of items) t.strictSame(toResponseItem(stored(fromResponseItem(item))), item);
  const any = fc.jsonValue({ noUnicodeString: false, maxDepth: 3 } as never);
  const words = fc.constantFrom(
    'type',
    'text',
    'state',
    'id',
    'input',
    'output',
    'content',
    'role',
    'summary',
    'call_id',
    'toolCallId',
  );
  const types = fc.constantFrom(
    'text',
    'reasoning',
    'tool-x',
    'data-y',
    'file',
    'source-url',
    'message',
    'function_call',
    'function_call_output',
    'other',
  );
  const part = fc
    .tuple(types, fc.dictionary(words, any, { noNullPrototype: true }))
    .map(([type, rest]) => ({ ...rest, type }));
  fc.assert(
    fc.property(fc.array(part, { maxLength: 4 }), (parts) => {
      const wellFormed = JSON.parse(JSON.stringify(parts).replace(/\\ud[89a-f]../g, '')) as object[];
      const message = { id: 'i', role: 'user', parts: wellFormed };
      const [ui] = fromUIMessages([message]) as [NewMessage];
      t.strictSame(JSON.stringify(sorted(toUIMessage(stored(ui)))), JSON.stringify(sorted(message)));
      for (const item of wellFormed)
        if (
          JSON.stringify(sorted(toResponseItem(stored(fromResponseItem(item))))) !==
          JSON.stringify(sorted(item))
        )
          return false;
      return true;
    }),
    { numRuns: 300 },
  );
});

function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted);
  if (typeof value !== 'object' || value === null) return value;
  return Object.entries(value)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([key, each]) => [key, sorted(each)]);
}

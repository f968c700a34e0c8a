/** One read for many who want the same page, and nobody gets one of another head or of another's answer. */
import t from 'tap';
import { bytesOf } from '../../src/api/calls.js';
import { EncodedPage, type Served } from '../../src/api/encode.js';
import { PageFlights } from '../../src/api/page-flights.js';
import type { Soon } from '../../src/api/soon.js';
import { readListResponse } from '../../src/client/responses.js';

const served = (appliedIndex: number): Served => ({
  nodeId: 1,
  role: 'primary',
  partition: 3,
  appliedIndex,
  stalenessMs: undefined,
  commitToken: Buffer.alloc(14, appliedIndex),
});
const pageAt = (headSeq: number): EncodedPage => new EncodedPage([], `next-${headSeq}`, headSeq, 'c1');

async function answered(pages: PageFlights, key: string, index: number, read: () => Soon<EncodedPage>) {
  const { headSeq, nextPageToken, servedBy } = readListResponse(
    bytesOf(await pages.answer(key, served(index), read)),
  );
  return [headSeq, nextPageToken, servedBy.appliedIndex];
}

t.test('a page that is wanted a second time is kept for the third', async (t) => {
  const pages = new PageFlights();
  let reads = 0;
  const at = (headSeq: number) => (): EncodedPage => {
    reads++;
    return pageAt(headSeq);
  };
  for (let i = 1; i <= 4; i++) t.same(await answered(pages, 'a 7', i, at(7)), [7, 'next-7', i]);
  t.equal(reads, 2, 'those wanted once take no room');
  t.same(await answered(pages, 'a 8', 9, at(8)), [8, 'next-8', 9], 'with another head it is another page');
  t.equal(reads, 3);
  t.same({ reads: pages.reads, shared: pages.shared }, { reads: 3, shared: 2 });
});

t.test('who comes while it is read waits for it; a read that fails fails for those alone', async (t) => {
  const pages = new PageFlights();
  let land: (page: EncodedPage) => void = () => {};
  let fail: (error: Error) => void = () => {};
  let reads = 0;
  const slow = (): Promise<EncodedPage> => {
    reads++;
    return new Promise((resolve, reject) => {
      land = resolve;
      fail = reject;
    });
  };
  const both = [answered(pages, 'a 7', 1, slow), answered(pages, 'a 7', 2, slow)];
  land(pageAt(7));
  t.same(await Promise.all(both), [
    [7, 'next-7', 1],
    [7, 'next-7', 2],
  ]);
  t.equal(reads, 1);
  const failing = [answered(pages, 'a 8', 1, slow), answered(pages, 'a 8', 2, slow)];
  fail(new Error('damaged'));
  for (const each of failing) await t.rejects(each, /damaged/);
  t.equal(reads, 2);
  const again = answered(pages, 'a 8', 3, slow);
  land(pageAt(8));
  t.same(await again, [8, 'next-8', 3]);
  t.equal(reads, 3);
});

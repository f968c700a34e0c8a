/** RFC 3339 to whole microseconds since 1970 and back. */
const rfc3339 =
  /^(\d{4})-(\d{2})-(\d{2})[Tt ](\d{2}):(\d{2}):(\d{2})(?:\.(\d{1,9}))?(?:[Zz]|([+-])(\d{2}):(\d{2}))$/;

/** Digits finer than a microsecond are cut. Undefined where it is no time. */
export function parseTime(text: string): number | undefined {
  const m = rfc3339.exec(text);
  if (m === null) return undefined;
  const n = (i: number) => Number(m[i] ?? 0);
  const [year, month, day, hour, minute, second] = [n(1), n(2), n(3), n(4), n(5), n(6)];
  // Year 0 has no protobuf timestamp; second 60 is a leap second, stored as the next minute's 0.
  if (year < 1 || month < 1 || month > 12 || hour > 23 || minute > 59 || second > 60) return undefined;
  const date = new Date(0);
  date.setUTCFullYear(year, month - 1, day);
  if (date.getUTCMonth() !== month - 1 || date.getUTCDate() !== day) return undefined;
  date.setUTCHours(hour, minute, second);
  if (n(9) > 23 || n(10) > 59) return undefined;
  const offsetMinutes = (n(9) * 60 + n(10)) * (m[8] === '-' ? -1 : 1);
  const micros = Number((m[7] ?? '').slice(0, 6).padEnd(6, '0'));
  return (date.getTime() - offsetMinutes * 60_000) * 1000 + micros;
}

/** In UTC; fractions only where there are any, so that `…:00Z` comes back as it came. */
export function formatTime(timeUs: number): string {
  const ms = Math.floor(timeUs / 1_000_000) * 1000;
  const micros = timeUs - ms * 1000;
  const date = new Date(ms);
  if (Number.isNaN(date.getTime())) return String(timeUs);
  const base = date.toISOString().slice(0, -5);
  if (micros === 0) return `${base}Z`;
  const digits = String(micros).padStart(6, '0');
  return `${base}.${digits.endsWith('000') ? digits.slice(0, 3) : digits}Z`;
}

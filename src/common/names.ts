/** What tenants, channels and ids may be called; the door and the state machine ask the same functions. */
import { limits } from './limits.js';

const tenantPattern = /^[a-z0-9-]{1,63}$/;
// biome-ignore lint/suspicious/noControlCharactersInRegex: finding them is the point
const controlPattern = /[\u0000-\u001f\u007f-\u009f]/;

export function isTenantName(tenant: string): boolean {
  return tenantPattern.test(tenant);
}

/**
 * Undefined where `name` may name a channel, else what is wrong with it. Applying
 * asks too: a change of the rule here needs a new apply version.
 */
export function channelNameProblem(
  name: string,
  maxBytes: number = limits.channelNameBytes,
): string | undefined {
  if (name.length === 0) return 'a channel name is empty';
  if (name.length > maxBytes || Buffer.byteLength(name) > maxBytes) {
    return `a channel name is longer than ${maxBytes} bytes`;
  }
  if (controlPattern.test(name)) return 'a channel name holds control characters';
  if (/\p{Surrogate}/u.test(name)) return 'a channel name holds a lone surrogate';
  return undefined;
}

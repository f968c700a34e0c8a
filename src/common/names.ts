/** What tenants, channels and ids may be called; the door and the state machine ask the same functions. */
import { limits } from './limits.js';

const tenantPattern = /^[a-z0-9-]{1,63}$/;
// biome-ignore lint/suspicious/noControlCharactersInRegex: finding them is the point
const controlPattern = /[\u0000-\u001f\u007f-\u009f]/;

export function isTenantName(tenant: string): boolean {
  return tenantPattern.test(tenant);
}

/** Undefined where `name` may name a channel, else what is wrong with it. */
export function channelNameProblem(name: string): string | undefined {
  if (name.length === 0) return 'a channel name is empty';
  if (name.length > limits.channelNameBytes || Buffer.byteLength(name) > limits.channelNameBytes) {
    return `a channel name is longer than ${limits.channelNameBytes} bytes`;
  }
  if (controlPattern.test(name)) return 'a channel name holds control characters';
  if (/\p{Surrogate}/u.test(name)) return 'a channel name holds a lone surrogate';
  return undefined;
}

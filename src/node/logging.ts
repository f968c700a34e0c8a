/** The process's log: pino's JSON lines on stderr, readable where a person watches. */
import { type Logger as Pino, pino } from 'pino';
import type { LogFields, Logger } from '../common/logger.js';
import type { Settings } from './settings-table.js';

/** Stderr, so that stdout stays what a command answers. */
const stderr = 2;

export async function createLogger(
  settings: Pick<Settings, 'logLevel' | 'logFormat'>,
  options: { readonly isTerminal: boolean; readonly base?: LogFields },
): Promise<Logger> {
  const pretty = settings.logFormat === 'pretty' || (settings.logFormat === 'auto' && options.isTerminal);
  const pinoOptions = {
    level: settings.logLevel,
    base: options.base ?? {},
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label: string) => ({ level: label }) },
  };
  // Written at once: the lines before a kill are the ones that matter, and logging is rare.
  const target = pretty ? await prettyStream() : pino.destination({ fd: stderr, sync: true });
  return new PinoLogger(pino(pinoOptions, target));
}

async function prettyStream() {
  const { default: pinoPretty } = await import('pino-pretty');
  return pinoPretty({
    destination: stderr,
    sync: true,
    colorize: process.env.NO_COLOR === undefined,
    translateTime: 'SYS:HH:MM:ss.l',
    ignore: 'node',
  });
}

class PinoLogger implements Logger {
  readonly #pino: Pino;
  constructor(to: Pino) {
    this.#pino = to;
  }
  debug(fields: LogFields, message: string): void {
    this.#pino.debug(fields, message);
  }
  info(fields: LogFields, message: string): void {
    this.#pino.info(fields, message);
  }
  warn(fields: LogFields, message: string): void {
    this.#pino.warn(fields, message);
  }
  error(fields: LogFields, message: string): void {
    this.#pino.error(fields, message);
  }
  child(fields: LogFields): Logger {
    return new PinoLogger(this.#pino.child(fields));
  }
}

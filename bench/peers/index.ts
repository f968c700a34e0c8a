/** The systems that a user would pick instead, where they are installed. */
import type { System } from '../harness/system.js';
import { findEtcd } from './etcd.js';
import { findNats } from './nats.js';
import { findPostgres } from './postgres.js';
import { findRabbitmq } from './rabbitmq.js';
import { findRedis } from './redis.js';

export interface Peer {
  readonly name: string;
  /** Throws Absent where the system or its client is not on this machine. */
  find(): System;
}

export const peers: readonly Peer[] = [
  { name: 'postgres', find: findPostgres },
  { name: 'redis', find: findRedis },
  { name: 'nats', find: findNats },
  { name: 'etcd', find: findEtcd },
  { name: 'rabbitmq', find: findRabbitmq },
];

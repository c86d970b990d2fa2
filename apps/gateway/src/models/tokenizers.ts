import { type ModelSpec, sharedTokenizer } from '@sluice/shared';
import type { Redis } from 'ioredis';
import { fromRedis, Problem } from '../http/problem.js';
import { ModelTokenizer } from './modelTokenizer.js';

/** The tokenizers of the models, which their workers share. Each is loaded when it is first needed. */
export class Tokenizers {
  #redis: Redis;
  #loading = new Map<string, Promise<ModelTokenizer>>();

  constructor(redis: Redis) {
    this.#redis = redis;
  }

  /** @throws Problem `no_worker` if no worker has shared it yet; `unavailable` */
  async of(spec: ModelSpec): Promise<ModelTokenizer> {
    const known = this.#loading.get(spec.id);
    if (known) return known;
    const loading = this.#load(spec);
    this.#loading.set(spec.id, loading);
    loading.catch(() => this.#loading.delete(spec.id));
    return loading;
  }

  async #load(spec: ModelSpec): Promise<ModelTokenizer> {
    const json = await fromRedis(sharedTokenizer(this.#redis, spec));
    if (json === undefined) throw new Problem('no_worker');
    return new ModelTokenizer(json);
  }
}

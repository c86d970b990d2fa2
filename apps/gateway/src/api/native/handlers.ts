import type { Routes } from '@sluice/contract';
import type { HandlersOf } from '../../http/family.js';

/** One handler for each route of Sluice's own API. */
export type NativeHandlers = HandlersOf<Routes>;

export type { LoadMessage, Measured, ModelFacts, RowResult } from '../process/protocol.js';
export { type Load, type LoadedModel, loadModel } from './load.js';
export { serve } from './serve.js';

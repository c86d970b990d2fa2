export { type Classifier, type Load, loadPipeline } from './pipeline.js';
export type { LoadMessage, ModelFacts, TextResult } from './protocol.js';
export { serve } from './serve.js';

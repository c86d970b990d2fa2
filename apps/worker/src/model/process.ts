import { loadPipeline } from './pipeline.js';
import { serve } from './serve.js';

serve(loadPipeline);

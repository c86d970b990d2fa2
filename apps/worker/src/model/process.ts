import { loadModel } from './load.js';
import { serve } from './serve.js';

serve(loadModel);

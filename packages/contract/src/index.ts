export * from './account.js';
export * from './batch.js';
export * from './key.js';
export * from './model.js';
export * from './openapi.js';
export * from './prediction.js';
export * from './problem.js';
export * from './routes.js';

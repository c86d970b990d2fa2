export * from './client.js';
export { SluiceError } from './error.js';

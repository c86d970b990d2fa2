export * from './client.js';
export { ConnectionError, SluiceError } from './error.js';

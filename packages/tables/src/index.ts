export * from './delimited.js';

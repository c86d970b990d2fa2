import { ConnectionError, SluiceError } from '@sluice/client';
import { create } from './dom.js';

/** What went wrong, in words for the user. */
export function problemOf(error: unknown): HTMLElement {
  const message = error instanceof Error ? error.message : String(error);
  const block = create('div', { class: 'problem' }, create('p', {}, message));
  if (error instanceof SluiceError) {
    // Some routes have the details in the message.
    const details = (error.errors ?? [])
      .filter(({ detail }) => !message.includes(detail))
      .map(({ pointer, detail }) => create('li', {}, `${pointer || 'body'}: ${detail}`));
    if (details.length > 0) block.append(create('ul', {}, ...details));
    const wait = error.retryAfterSeconds;
    if (wait !== undefined) block.append(create('p', {}, `Try again in ${wait} s.`));
    block.append(
      create(
        'p',
        { class: 'quiet' },
        `Status ${error.status}${error.code.startsWith('http_') ? '' : ` (${error.code})`}${error.requestId ? `, request ${error.requestId}` : ''}`,
      ),
    );
  } else if (error instanceof ConnectionError) block.append(create('p', {}, 'Is the server still running?'));
  return block;
}

import { Sluice, SluiceError } from '@sluice/client';

const sluice = new Sluice({
  url: process.env.SLUICE_URL ?? 'http://localhost:8000',
  apiKey: process.env.SLUICE_API_KEY ?? '',
});

// One text: the answer comes in the same request.
const { sentiment, confidence } = await sluice.predict('This product is amazing!');
process.stdout.write(`${sentiment} (${confidence.toFixed(3)})\n`);

// Many texts: a job. Use one idempotency key for each upload: repeated with the same key, it gives the same job.
const reviews = ['I love it', 'It broke after a day', 'Does what it says'];
const { job_id } = await sluice.batch(reviews, { idempotencyKey: 'reviews-2026-11-28' });
for await (const { progress } of sluice.events(job_id)) {
  process.stdout.write(`${Math.round(100 * progress)} %\n`);
}
for await (const { text, sentiment: label, error } of sluice.results(job_id)) {
  process.stdout.write(`${label ?? error?.detail}: ${text}\n`);
}

// Errors have a status, and a code for programs.
try {
  await sluice.predict('');
} catch (error) {
  if (!(error instanceof SluiceError)) throw error;
  process.stdout.write(`${error.status} ${error.code}\n`);
}

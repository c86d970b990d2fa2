import { OpenAIEmbeddings } from '@langchain/openai';

const { SLUICE_URL = 'http://localhost:8000', SLUICE_API_KEY } = process.env;
const embeddings = new OpenAIEmbeddings({
  model: 'all-minilm-l6-v2',
  apiKey: SLUICE_API_KEY,
  configuration: { baseURL: `${SLUICE_URL}/v1` },
});

const documents = [
  'You can change your password in the settings of your account.',
  'Parcels are delivered within three working days.',
  'An invoice is sent by e-mail at the end of each month.',
];
const vectors = await embeddings.embedDocuments(documents);
const query = await embeddings.embedQuery('How do I get a new password?');

// The vectors have length 1, so the dot product is the cosine.
const dot = (one, other) => one.reduce((sum, value, i) => sum + value * other[i], 0);
const ranked = documents
  .map((text, i) => ({ text, similarity: dot(query, vectors[i]) }))
  .sort((one, other) => other.similarity - one.similarity);
for (const { text, similarity } of ranked) process.stdout.write(`${similarity.toFixed(3)} ${text}\n`);

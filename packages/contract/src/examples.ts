import type { TaskName } from '@sluice/tasks';
import type { Bounds } from './prediction.js';

/** An example of a request and of its response, recorded from a server with the bundled models and four others. */
export interface Example {
  name: string;
  /** It needs a model for this task. */
  task?: TaskName;
  /** That model must be the first one for embeddings or text classification. */
  first?: true;
  body?: unknown;
  answer: unknown;
}

type Examples = Readonly<Record<string, readonly Example[]>>;

/** Examples of the public routes by operation. The operations on a model in a path have those of the first model. */
const publicExamples: Examples = {
  predict: [
    {
      name: 'a text',
      body: {
        text: 'This product is amazing!',
      },
      answer: {
        text: 'This product is amazing!',
        sentiment: 'positive',
        confidence: 0.9910162091255188,
        status: 'success',
        requests_remaining: 9,
      },
    },
  ],
  analyze: [
    {
      name: 'the two best labels',
      body: {
        text: 'This product is amazing!',
        top_k: 2,
      },
      answer: {
        sentiment: [
          {
            label: 'POSITIVE',
            score: 0.9910162091255188,
          },
          {
            label: 'NEGATIVE',
            score: 0.008983817882835865,
          },
        ],
      },
    },
  ],
  analyzeComment: [
    {
      name: 'a text',
      body: {
        text: 'This product is amazing!',
      },
      answer: {
        sentiment: 'POSITIVE',
      },
    },
  ],
  analyzeBatch: [
    {
      name: 'texts',
      body: {
        texts: ['I love it', 'I do not'],
      },
      answer: {
        message: 'Processing started',
        job_id: '0b9f3c1e-5d1a-4c53-9d43-5f0a1c2b3d4e',
        status: 'queued',
        total: 2,
        status_url: '/jobs/0b9f3c1e-5d1a-4c53-9d43-5f0a1c2b3d4e',
      },
    },
    {
      name: 'inputs of another task',
      task: 'text-ranking',
      body: {
        model: 'rerank',
        inputs: [
          {
            query: 'capital of France',
            texts: ['Paris', 'Berlin'],
          },
        ],
        parameters: {
          top_n: 1,
        },
      },
      answer: {
        message: 'Processing started',
        job_id: '0b9f3c1e-5d1a-4c53-9d43-5f0a1c2b3d41',
        status: 'queued',
        total: 1,
        status_url: '/jobs/0b9f3c1e-5d1a-4c53-9d43-5f0a1c2b3d41',
      },
    },
  ],
  job: [
    {
      name: 'a completed job',
      answer: {
        job_id: '0b9f3c1e-5d1a-4c53-9d43-5f0a1c2b3d4e',
        model: 'minilm-l6-sst2',
        revision: 'main',
        status: 'completed',
        total: 2,
        completed: 2,
        failed: 0,
        progress: 1,
        created_at: '2026-11-28T22:07:43.209Z',
        started_at: '2026-11-28T22:07:43.246Z',
        finished_at: '2026-11-28T22:07:43.246Z',
        expires_at: '2026-11-29T22:07:43.246Z',
        results_url: '/jobs/0b9f3c1e-5d1a-4c53-9d43-5f0a1c2b3d4e/results',
        error: null,
      },
    },
  ],
  results: [
    {
      name: 'a page',
      answer: {
        results: [
          {
            index: 0,
            text: 'I love it',
            output: [
              {
                label: 'POSITIVE',
                score: 0.9900992512702942,
              },
            ],
            sentiment: 'positive',
            confidence: 0.9900992512702942,
            tokens: 5,
          },
          {
            index: 1,
            text: 'I do not',
            output: [
              {
                label: 'NEGATIVE',
                score: 0.7957942485809326,
              },
            ],
            sentiment: 'negative',
            confidence: 0.7957942485809326,
            tokens: 5,
          },
        ],
        next_cursor: null,
      },
    },
  ],
  events: [
    {
      name: 'example',
      answer: {
        event: 'completed',
        data: '{"job_id": "0b9f3c1e-5d1a-4c53-9d43-5f0a1c2b3d4e", "status": "completed", "total": 2, "completed": 2, "failed": 0, "progress": 1}',
      },
    },
  ],
  cancelJob: [
    {
      name: 'example',
      answer: {
        job_id: '0b9f3c1e-5d1a-4c53-9d43-5f0a1c2b3d4e',
        model: 'minilm-l6-sst2',
        revision: 'main',
        status: 'canceled',
        total: 2,
        completed: 1,
        failed: 0,
        progress: 0.5,
        created_at: '2026-11-28T22:07:43.209Z',
        started_at: '2026-11-28T22:07:43.246Z',
        finished_at: '2026-11-28T22:07:43.246Z',
        expires_at: '2026-11-29T22:07:43.246Z',
        results_url: '/jobs/0b9f3c1e-5d1a-4c53-9d43-5f0a1c2b3d4e/results',
        error: null,
      },
    },
  ],
  jobs: [
    {
      name: 'a page',
      answer: {
        jobs: [
          {
            job_id: '0b9f3c1e-5d1a-4c53-9d43-5f0a1c2b3d41',
            model: 'rerank',
            revision: 'main',
            status: 'completed',
            total: 1,
            completed: 1,
            failed: 0,
            progress: 1,
            created_at: '2026-11-28T22:07:43.236Z',
            started_at: '2026-11-28T22:07:43.267Z',
            finished_at: '2026-11-28T22:07:43.267Z',
            expires_at: '2026-11-29T22:07:43.267Z',
            results_url: '/jobs/0b9f3c1e-5d1a-4c53-9d43-5f0a1c2b3d41/results',
            error: null,
          },
        ],
        next_cursor: 'p1',
      },
    },
  ],
  items: [
    {
      name: 'example',
      answer: {
        api_key: 'sk_0123456789ab_…',
      },
    },
  ],
  me: [
    {
      name: 'example',
      answer: {
        key_id: '0123456789ab',
        name: 'acme',
        scopes: ['predict', 'batch'],
        limits: [
          {
            limit: 10,
            window_seconds: 60,
            unit: 'requests',
            remaining: 10,
            reset_seconds: 0,
          },
        ],
        bulk: {
          limit: 100000,
          queued: 0,
        },
        expires_at: null,
      },
    },
  ],
  models: [
    {
      name: 'example',
      answer: [
        {
          id: 'minilm-l6-sst2',
          aliases: [],
          task: 'text-classification',
          parameters: {
            type: 'object',
            properties: {
              top_k: {
                description: 'How many labels to return, best first; all of them if not given',
                type: 'integer',
                minimum: 1,
                maximum: 9007199254740991,
              },
            },
          },
          labels: ['NEGATIVE', 'POSITIVE'],
          dimensions: null,
          max_tokens: 512,
          max_text_chars: 10000,
          revision: 'main',
          dtype: 'q8',
          runtime: 'onnxruntime 1.30.0',
          batching: true,
          drift: 0,
          default: true,
          workers: 1,
          error: null,
        },
      ],
    },
  ],
  health: [
    {
      name: 'example',
      answer: {
        status: 'ok',
      },
    },
  ],
  ready: [
    {
      name: 'example',
      answer: {
        status: 'ready',
        workers: 1,
        storage: 'ok',
      },
    },
  ],
  huggingFace_infer: [
    {
      name: 'text-classification',
      task: 'text-classification',
      body: {
        inputs: 'This product is amazing!',
        parameters: {
          top_k: 2,
        },
      },
      answer: [
        [
          {
            label: 'POSITIVE',
            score: 0.9910162091255188,
          },
          {
            label: 'NEGATIVE',
            score: 0.008983817882835865,
          },
        ],
      ],
    },
    {
      name: 'zero-shot-classification',
      task: 'zero-shot-classification',
      body: {
        inputs: 'My parcel has not arrived',
        parameters: {
          candidate_labels: ['shipping', 'billing', 'praise'],
        },
      },
      answer: [
        {
          label: 'shipping',
          score: 0.6723528504371643,
        },
        {
          label: 'billing',
          score: 0.2416849285364151,
        },
        {
          label: 'praise',
          score: 0.0859621986746788,
        },
      ],
    },
    {
      name: 'token-classification',
      task: 'token-classification',
      body: {
        inputs: 'My name is Ada Lovelace, call me at +44 20 7946 0958.',
      },
      answer: [
        {
          entity_group: 'GIVEN_NAME',
          score: 0.9998428821563721,
          word: 'ada',
          start: 11,
          end: 14,
        },
        {
          entity_group: 'SURNAME',
          score: 0.9996321797370911,
          word: 'love',
          start: 15,
          end: 19,
        },
        {
          entity_group: 'SURNAME',
          score: 0.9996239542961121,
          word: '##lace',
          start: 19,
          end: 23,
        },
        {
          entity_group: 'PHONE',
          score: 0.9662079811096191,
          word: '+ 44 20 7946 0958',
          start: 36,
          end: 52,
        },
      ],
    },
    {
      name: 'feature-extraction',
      task: 'feature-extraction',
      body: {
        inputs: ['I love it', 'I do not'],
        parameters: {
          dimensions: 4,
        },
      },
      answer: [
        [-0.80955595, 0.37761644, 0.44850445, -0.02947529],
        [-0.03363155, -0.4412163, 0.6159746, -0.6517456],
      ],
    },
    {
      name: 'text-ranking',
      task: 'text-ranking',
      body: {
        inputs: {
          query: 'capital of France',
          texts: ['Berlin is in Germany.', 'Paris is the capital of France.'],
        },
      },
      answer: [
        {
          index: 1,
          score: 0.912640392780304,
        },
        {
          index: 0,
          score: 0.33443760871887207,
        },
      ],
    },
  ],
  tei_embed: [
    {
      name: 'texts',
      body: {
        inputs: ['I love it', 'I do not'],
        dimensions: 4,
      },
      answer: [
        [-0.80955595, 0.37761644, 0.44850445, -0.02947529],
        [-0.03363155, -0.4412163, 0.6159746, -0.6517456],
      ],
    },
  ],
  tei_embedAll: [
    {
      name: 'a text; the vectors are shortened',
      body: {
        inputs: 'I love it',
      },
      answer: [
        [
          [-0.18732984, -0.0296769, 0.12880386, -0.13138567],
          [-0.9300326, -0.21731623, 0.24855065, 0.14160864],
          [-0.6035864, 0.77538764, 0.23315006, -0.4291874],
          [0.2525265, 0.50026715, 0.43664753, 0.11082498],
          [-0.5531631, -0.085695505, 0.07283232, 0.23453511],
        ],
      ],
    },
  ],
  tei_rerank: [
    {
      name: 'texts',
      body: {
        query: 'capital of France',
        texts: ['Berlin is in Germany.', 'Paris is the capital of France.'],
      },
      answer: [
        {
          index: 1,
          score: 0.912640392780304,
        },
        {
          index: 0,
          score: 0.33443760871887207,
        },
      ],
    },
  ],
  tei_predict: [
    {
      name: 'a text',
      body: {
        inputs: 'This product is amazing!',
      },
      answer: [
        {
          score: 0.9910162091255188,
          label: 'POSITIVE',
        },
        {
          score: 0.008983817882835865,
          label: 'NEGATIVE',
        },
      ],
    },
  ],
  tei_similarity: [
    {
      name: 'sentences',
      body: {
        inputs: {
          source_sentence: 'I love it',
          sentences: ['I like it', 'It rains'],
        },
      },
      answer: [0.746983098217006, 0.24167646747558572],
    },
  ],
  tei_tokenize: [
    {
      name: 'a text',
      body: {
        inputs: 'I love it',
      },
      answer: [
        [
          {
            id: 101,
            text: '[CLS]',
            special: true,
            start: null,
            stop: null,
          },
          {
            id: 1045,
            text: 'I',
            special: false,
            start: 0,
            stop: 1,
          },
          {
            id: 2293,
            text: 'love',
            special: false,
            start: 2,
            stop: 6,
          },
          {
            id: 2009,
            text: 'it',
            special: false,
            start: 7,
            stop: 9,
          },
          {
            id: 102,
            text: '[SEP]',
            special: true,
            start: null,
            stop: null,
          },
        ],
      ],
    },
  ],
  tei_info: [
    {
      name: 'example',
      answer: {
        model_id: 'minilm-l6-sst2',
        model_sha: null,
        model_dtype: 'q8',
        served_model_name: 'minilm-l6-sst2',
        model_type: {
          classifier: {
            id2label: {
              '0': 'NEGATIVE',
              '1': 'POSITIVE',
            },
            label2id: {
              NEGATIVE: 0,
              POSITIVE: 1,
            },
          },
        },
        max_input_length: 512,
        max_batch_tokens: 1024,
        max_batch_requests: 8,
        max_client_batch_size: 2048,
        auto_truncate: false,
        version: '0.1.0',
        sha: null,
        docker_label: null,
      },
    },
  ],
  tei_root: [
    {
      name: 'a text',
      task: 'text-classification',
      first: true,
      body: {
        inputs: 'This product is amazing!',
      },
      answer: [
        {
          score: 0.9910162091255188,
          label: 'POSITIVE',
        },
        {
          score: 0.008983817882835865,
          label: 'NEGATIVE',
        },
      ],
    },
    {
      name: 'texts',
      task: 'feature-extraction',
      first: true,
      body: { inputs: ['I love it', 'I do not'], dimensions: 4 },
      answer: [
        [-0.80955595, 0.37761644, 0.44850445, -0.02947529],
        [-0.03363155, -0.4412163, 0.6159746, -0.6517456],
      ],
    },
  ],
  openAi_embeddings: [
    {
      name: 'texts',
      task: 'feature-extraction',
      body: {
        model: 'all-minilm-l6-v2',
        input: ['I love it', 'I do not'],
        dimensions: 4,
      },
      answer: {
        object: 'list',
        data: [
          {
            object: 'embedding',
            index: 0,
            embedding: [-0.80955595, 0.37761644, 0.44850445, -0.02947529],
          },
          {
            object: 'embedding',
            index: 1,
            embedding: [-0.03363155, -0.4412163, 0.6159746, -0.6517456],
          },
        ],
        model: 'all-minilm-l6-v2',
        usage: {
          prompt_tokens: 10,
          total_tokens: 10,
        },
      },
    },
  ],
  openAi_embeddingsWithoutVersion: [
    {
      name: 'a text as base64',
      task: 'feature-extraction',
      body: {
        model: 'all-minilm-l6-v2',
        input: 'I love it',
        dimensions: 4,
        encoding_format: 'base64',
      },
      answer: {
        object: 'list',
        data: [
          {
            object: 'embedding',
            index: 0,
            embedding: 'Dz9Pv/FWwT5gouU+KnbxvA==',
          },
        ],
        model: 'all-minilm-l6-v2',
        usage: {
          prompt_tokens: 5,
          total_tokens: 5,
        },
      },
    },
  ],
  openAi_moderations: [
    {
      name: 'a text',
      task: 'text-classification',
      body: {
        model: 'moderation',
        input: 'You are a fool',
      },
      answer: {
        id: 'modr-0b9f3c1e5d1a4c539d435f0a1c2b3d4e',
        model: 'moderation',
        results: [
          {
            flagged: false,
            categories: {
              hate: false,
              harassment: false,
              sexual: false,
              'hate/threatening': false,
              violence: false,
              'violence/graphic': false,
              'self-harm': false,
            },
            category_scores: {
              hate: 0.3504868149757385,
              harassment: 0.23546569049358368,
              sexual: 0.0989566370844841,
              'hate/threatening': 0.09058105945587158,
              violence: 0.05333522707223892,
              'violence/graphic': 0.028177304193377495,
              'self-harm': 0.015442405827343464,
            },
            category_applied_input_types: {
              hate: ['text'],
              harassment: ['text'],
              sexual: ['text'],
              'hate/threatening': ['text'],
              violence: ['text'],
              'violence/graphic': ['text'],
              'self-harm': ['text'],
            },
          },
        ],
      },
    },
  ],
  openAi_openAiModels: [
    {
      name: 'example',
      answer: {
        object: 'list',
        data: [
          {
            id: 'minilm-l6-sst2',
            object: 'model',
            created: 1795903652,
            owned_by: 'sluice',
          },
        ],
      },
    },
  ],
  openAi_openAiModel: [
    {
      name: 'example',
      answer: {
        id: 'all-minilm-l6-v2',
        object: 'model',
        created: 1795903652,
        owned_by: 'sluice',
      },
    },
  ],
  openAi_createFile: [
    {
      name: 'example',
      answer: {
        id: 'file-0b9f3c1e5d1a4c539d435f0a1c2b3d4e',
        object: 'file',
        bytes: 132,
        created_at: 1795903666,
        expires_at: 1795990066,
        filename: 'requests.jsonl',
        purpose: 'batch',
        status: 'processed',
      },
    },
  ],
  openAi_files: [
    {
      name: 'example',
      answer: {
        object: 'list',
        data: [
          {
            id: 'file-0b9f3c1e5d1a4c539d435f0a1c2b3d4e',
            object: 'file',
            bytes: 132,
            created_at: 1795903666,
            expires_at: 1795990066,
            filename: 'requests.jsonl',
            purpose: 'batch',
            status: 'processed',
          },
        ],
        first_id: 'file-0b9f3c1e5d1a4c539d435f0a1c2b3d4e',
        last_id: 'file-0b9f3c1e5d1a4c539d435f0a1c2b3d4e',
        has_more: false,
      },
    },
  ],
  openAi_file: [
    {
      name: 'example',
      answer: {
        id: 'file-0b9f3c1e5d1a4c539d435f0a1c2b3d4e',
        object: 'file',
        bytes: 132,
        created_at: 1795903666,
        expires_at: 1795990066,
        filename: 'requests.jsonl',
        purpose: 'batch',
        status: 'processed',
      },
    },
  ],
  openAi_createBatch: [
    {
      name: 'example',
      body: {
        input_file_id: 'file-0b9f3c1e5d1a4c539d435f0a1c2b3d4e',
        endpoint: '/v1/embeddings',
        completion_window: '24h',
        metadata: {
          order: '66',
        },
      },
      answer: {
        id: 'batch_0b9f3c1e5d1a4c539d435f0a1c2b3d4e',
        object: 'batch',
        endpoint: '/v1/embeddings',
        model: 'all-minilm-l6-v2',
        errors: null,
        input_file_id: 'file-0b9f3c1e5d1a4c539d435f0a1c2b3d4e',
        completion_window: '24h',
        status: 'in_progress',
        output_file_id: null,
        error_file_id: null,
        created_at: 1795903666,
        in_progress_at: 1795903666,
        expires_at: 1795990066,
        finalizing_at: null,
        completed_at: null,
        failed_at: null,
        expired_at: null,
        cancelling_at: null,
        cancelled_at: null,
        request_counts: {
          total: 1,
          completed: 0,
          failed: 0,
        },
        metadata: {
          order: '66',
        },
      },
    },
  ],
  openAi_batch: [
    {
      name: 'example',
      answer: {
        id: 'batch_0b9f3c1e5d1a4c539d435f0a1c2b3d4e',
        object: 'batch',
        endpoint: '/v1/embeddings',
        model: 'all-minilm-l6-v2',
        errors: null,
        input_file_id: 'file-0b9f3c1e5d1a4c539d435f0a1c2b3d4e',
        completion_window: '24h',
        status: 'completed',
        output_file_id: 'file-0b9f3c1e5d1a4c539d435f0a1c2b3d4e-output',
        error_file_id: null,
        created_at: 1795903666,
        in_progress_at: 1795903666,
        expires_at: 1795990066,
        finalizing_at: null,
        completed_at: 1795903666,
        failed_at: null,
        expired_at: null,
        cancelling_at: null,
        cancelled_at: null,
        request_counts: {
          total: 1,
          completed: 1,
          failed: 0,
        },
        metadata: {
          order: '66',
        },
      },
    },
  ],
  openAi_batches: [
    {
      name: 'example',
      answer: {
        object: 'list',
        data: [
          {
            id: 'batch_0b9f3c1e5d1a4c539d435f0a1c2b3d4e',
            object: 'batch',
            endpoint: '/v1/embeddings',
            model: 'all-minilm-l6-v2',
            errors: null,
            input_file_id: 'file-0b9f3c1e5d1a4c539d435f0a1c2b3d4e',
            completion_window: '24h',
            status: 'completed',
            output_file_id: 'file-0b9f3c1e5d1a4c539d435f0a1c2b3d4e-output',
            error_file_id: null,
            created_at: 1795903666,
            in_progress_at: 1795903666,
            expires_at: 1795990066,
            finalizing_at: null,
            completed_at: 1795903666,
            failed_at: null,
            expired_at: null,
            cancelling_at: null,
            cancelled_at: null,
            request_counts: {
              total: 1,
              completed: 1,
              failed: 0,
            },
            metadata: {
              order: '66',
            },
          },
        ],
        first_id: 'batch_0b9f3c1e5d1a4c539d435f0a1c2b3d4e',
        last_id: 'batch_0b9f3c1e5d1a4c539d435f0a1c2b3d4e',
        has_more: false,
      },
    },
  ],
  openAi_fileContent: [
    {
      name: 'example',
      answer:
        '{"id":"batch_req_0b9f3c1e5d1a4c539d435f0a1c2b3d4e_0","custom_id":"first","response":{"status_code":200,"request_id":"batch_req_0b9f3c1e5d1a4c539d435f0a1c2b3d4e_0","body":{"object":"list","data":[{"object":"embedding","index":0,"embedding":[-0.80955595,0.37761644,0.44850445,-0.02947529]}],"model":"all-minilm-l6-v2","usage":{"prompt_tokens":5,"total_tokens":5}}},"error":null}\n',
    },
  ],
  openAi_cancelBatch: [
    {
      name: 'example',
      answer: {
        id: 'batch_0b9f3c1e5d1a4c539d435f0a1c2b3d4e',
        object: 'batch',
        endpoint: '/v1/embeddings',
        model: 'all-minilm-l6-v2',
        errors: null,
        input_file_id: 'file-0b9f3c1e5d1a4c539d435f0a1c2b3d4e',
        completion_window: '24h',
        status: 'completed',
        output_file_id: 'file-0b9f3c1e5d1a4c539d435f0a1c2b3d4e-output',
        error_file_id: null,
        created_at: 1795903666,
        in_progress_at: 1795903666,
        expires_at: 1795990066,
        finalizing_at: null,
        completed_at: 1795903666,
        failed_at: null,
        expired_at: null,
        cancelling_at: null,
        cancelled_at: null,
        request_counts: {
          total: 1,
          completed: 1,
          failed: 0,
        },
        metadata: {
          order: '66',
        },
      },
    },
  ],
  openAi_deleteFile: [
    {
      name: 'example',
      answer: {
        id: 'file-0b9f3c1e5d1a4c539d435f0a1c2b3d4e',
        object: 'file',
        deleted: true,
      },
    },
  ],
  rerank_rerankV1: [
    {
      name: 'documents',
      body: {
        query: 'capital of France',
        documents: ['Berlin is in Germany.', 'Paris is the capital of France.'],
        top_n: 1,
        return_documents: true,
      },
      answer: {
        id: '0b9f3c1e-5d1a-4c53-9d43-5f0a1c2b3d42',
        results: [
          {
            index: 1,
            relevance_score: 0.912640392780304,
            document: {
              text: 'Paris is the capital of France.',
            },
          },
        ],
        meta: {
          api_version: {
            version: '1',
          },
          billed_units: {
            search_units: 1,
          },
        },
        object: 'rerank',
        model: 'rerank',
        usage: {
          prompt_tokens: 24,
          total_tokens: 24,
        },
      },
    },
  ],
  endJob: [
    {
      name: 'example',
      answer: {
        job_id: '0b9f3c1e-5d1a-4c53-9d43-5f0a1c2b3d4e',
        model: 'minilm-l6-sst2',
        revision: 'main',
        status: 'canceled',
        total: 2,
        completed: 1,
        failed: 0,
        progress: 0.5,
        created_at: '2026-11-28T22:07:43.209Z',
        started_at: '2026-11-28T22:07:43.246Z',
        finished_at: '2026-11-28T22:07:43.246Z',
        expires_at: '2026-11-29T22:07:43.246Z',
        results_url: '/jobs/0b9f3c1e-5d1a-4c53-9d43-5f0a1c2b3d4e/results',
        error: null,
      },
    },
  ],
  docs: [
    {
      name: 'example',
      answer: '<!doctype html>…',
    },
  ],
  playground: [
    {
      name: 'example',
      answer: '<!doctype html>…',
    },
  ],
  openapi: [
    {
      name: 'example',
      answer: {
        openapi: '3.1.0',
        info: {
          title: 'Sluice',
          version: '0.1.0',
        },
        paths: {},
      },
    },
  ],
};

/** Examples of the routes of the admin port by operation. */
export const adminExamples: Examples = {
  createKey: [
    {
      name: 'example',
      body: {
        name: 'acme',
        limits: [
          {
            limit: 600,
            window_seconds: 60,
          },
        ],
        expires_at: '2027-01-01T00:00:00Z',
      },
      answer: {
        key: 'sk_0123456789ab_…',
        key_id: '0123456789ab',
        name: 'acme',
        status: 'live',
        scopes: ['predict', 'batch'],
        limits: [
          {
            limit: 600,
            window_seconds: 60,
            unit: 'requests',
          },
        ],
        bulk_limit: 100000,
        webhook_url: null,
        created_at: '2026-11-28T22:07:49.336Z',
        expires_at: '2027-01-01T00:00:00.000Z',
        revoked_at: null,
        last_used_at: null,
        previous_secret_until: null,
      },
    },
  ],
  keys: [
    {
      name: 'example',
      answer: {
        keys: [
          {
            key_id: '0123456789ab',
            name: 'acme',
            status: 'live',
            scopes: ['predict', 'batch'],
            limits: [
              {
                limit: 10,
                window_seconds: 60,
                unit: 'requests',
              },
            ],
            bulk_limit: 100000,
            webhook_url: null,
            created_at: '2026-11-28T22:07:31.598Z',
            expires_at: null,
            revoked_at: null,
            last_used_at: '2026-11-28T22:07:43.218Z',
            previous_secret_until: null,
          },
        ],
        next_cursor: 'p1',
      },
    },
  ],
  key: [
    {
      name: 'example',
      answer: {
        key_id: '0123456789ab',
        name: 'acme',
        status: 'live',
        scopes: ['predict', 'batch'],
        limits: [
          {
            limit: 600,
            window_seconds: 60,
            unit: 'requests',
          },
        ],
        bulk_limit: 100000,
        webhook_url: null,
        created_at: '2026-11-28T22:07:49.336Z',
        expires_at: '2027-01-01T00:00:00.000Z',
        revoked_at: null,
        last_used_at: null,
        previous_secret_until: null,
      },
    },
  ],
  updateKey: [
    {
      name: 'example',
      body: {
        limits: [
          {
            limit: 1200,
            window_seconds: 60,
          },
        ],
      },
      answer: {
        key_id: '0123456789ab',
        name: 'acme',
        status: 'live',
        scopes: ['predict', 'batch'],
        limits: [
          {
            limit: 1200,
            window_seconds: 60,
            unit: 'requests',
          },
        ],
        bulk_limit: 100000,
        webhook_url: null,
        created_at: '2026-11-28T22:07:49.336Z',
        expires_at: '2027-01-01T00:00:00.000Z',
        revoked_at: null,
        last_used_at: null,
        previous_secret_until: null,
      },
    },
  ],
  revokeKey: [
    {
      name: 'example',
      answer: {
        key_id: '0123456789ab',
        name: 'acme',
        status: 'revoked',
        scopes: ['predict', 'batch'],
        limits: [
          {
            limit: 1200,
            window_seconds: 60,
            unit: 'requests',
          },
        ],
        bulk_limit: 100000,
        webhook_url: null,
        created_at: '2026-11-28T22:07:49.336Z',
        expires_at: '2027-01-01T00:00:00.000Z',
        revoked_at: '2026-11-28T22:07:49.371Z',
        last_used_at: null,
        previous_secret_until: '2026-11-29T22:07:49.364Z',
      },
    },
  ],
  rotateKey: [
    {
      name: 'example',
      body: {
        grace_seconds: 86400,
      },
      answer: {
        key: 'sk_0123456789ab_…',
        key_id: '0123456789ab',
        name: 'acme',
        status: 'live',
        scopes: ['predict', 'batch'],
        limits: [
          {
            limit: 1200,
            window_seconds: 60,
            unit: 'requests',
          },
        ],
        bulk_limit: 100000,
        webhook_url: null,
        created_at: '2026-11-28T22:07:49.336Z',
        expires_at: '2027-01-01T00:00:00.000Z',
        revoked_at: null,
        last_used_at: null,
        previous_secret_until: '2026-11-29T22:07:49.364Z',
      },
    },
  ],
  keyUsage: [
    {
      name: 'example',
      answer: {
        key_id: '0123456789ab',
        days: [
          {
            date: '2026-11-28',
            requests: 25,
            texts: 38,
            refused: 1,
          },
        ],
      },
    },
  ],
  jobs: [
    {
      name: 'example',
      answer: {
        jobs: [
          {
            job_id: '0b9f3c1e-5d1a-4c53-9d43-5f0a1c2b3d4e',
            model: 'minilm-l6-sst2',
            revision: 'main',
            status: 'running',
            total: 20000,
            completed: 7360,
            failed: 0,
            progress: 0.368,
            created_at: '2026-11-28T22:07:43.209Z',
            started_at: '2026-11-28T22:07:43.246Z',
            finished_at: null,
            expires_at: null,
            error: null,
            key_id: '0123456789ab',
            key_name: 'acme',
            age_seconds: 23.4,
            items_per_second: 314.5,
          },
        ],
        next_cursor: null,
      },
    },
  ],
  job: [
    {
      name: 'example',
      answer: {
        job_id: '0b9f3c1e-5d1a-4c53-9d43-5f0a1c2b3d4e',
        model: 'minilm-l6-sst2',
        revision: 'main',
        status: 'running',
        total: 20000,
        completed: 7360,
        failed: 0,
        progress: 0.368,
        created_at: '2026-11-28T22:07:43.209Z',
        started_at: '2026-11-28T22:07:43.246Z',
        finished_at: null,
        expires_at: null,
        error: null,
        key_id: '0123456789ab',
        key_name: 'acme',
        age_seconds: 23.4,
        items_per_second: 314.5,
      },
    },
  ],
  cancelJob: [
    {
      name: 'example',
      answer: {
        job_id: '0b9f3c1e-5d1a-4c53-9d43-5f0a1c2b3d4e',
        model: 'minilm-l6-sst2',
        revision: 'main',
        status: 'canceled',
        total: 20000,
        completed: 7360,
        failed: 0,
        progress: 0.368,
        created_at: '2026-11-28T22:07:43.209Z',
        started_at: '2026-11-28T22:07:43.246Z',
        finished_at: '2026-11-28T22:08:06.646Z',
        expires_at: '2026-11-29T22:08:06.646Z',
        error: 'Canceled by the operator',
        key_id: '0123456789ab',
        key_name: 'acme',
        age_seconds: 23.4,
        items_per_second: 314.5,
      },
    },
  ],
  health: [
    {
      name: 'example',
      answer: {
        status: 'ok',
      },
    },
  ],
  ready: [
    {
      name: 'example',
      answer: {
        status: 'ready',
        workers: 1,
        storage: 'ok',
      },
    },
  ],
  openapi: [
    {
      name: 'example',
      answer: {
        openapi: '3.1.0',
        info: {
          title: 'Sluice',
          version: '0.1.0',
        },
        paths: {},
      },
    },
  ],
  metrics: [
    {
      name: 'example',
      answer:
        '# HELP sluice_redis_up Whether Redis answers this process: 1 or 0\n# TYPE sluice_redis_up gauge\nsluice_redis_up 1\n',
    },
  ],
};

const rerank = publicExamples.rerank_rerankV1 ?? [];
const ofModel = Object.entries(publicExamples)
  .filter(([name]) => name.startsWith('tei_'))
  .map(([name, examples]) => [name.replace(/^tei_/, 'teiModel_'), examples] as const);

const examples: Examples = {
  ...publicExamples,
  ...Object.fromEntries(ofModel),
  rerank_rerankV2: rerank,
  rerank_rerankDocuments: rerank,
};

/** Length of the longest text in a value, in Unicode characters. */
function longestText(value: unknown): number {
  if (typeof value === 'string') return Array.from(value).length;
  if (typeof value !== 'object' || value === null) return 0;
  return Math.max(0, ...Object.values(value).map(longestText));
}

/** The examples that fit the configured limits and models; each names the first model of its task. */
export function examplesFor({ models, maxTextChars }: Pick<Bounds, 'models' | 'maxTextChars'>): Examples {
  const nameOf = (task: TaskName) => models.find((model) => model.task === task)?.name;
  const first = models.find(
    ({ task }) => task === 'feature-extraction' || task === 'text-classification',
  )?.task;
  const withModel = (example: Example, task: TaskName): Example => {
    const { body } = example;
    const hasModel = typeof body === 'object' && body !== null && 'model' in body;
    return hasModel ? { ...example, body: { ...body, model: nameOf(task) } } : example;
  };
  return Object.fromEntries(
    Object.entries(examples).map(([operation, all]) => [
      operation,
      all.flatMap((example) => {
        if (longestText(example.body) > maxTextChars) return [];
        if (example.task === undefined) return [example];
        if (example.first && example.task !== first) return [];
        return nameOf(example.task) === undefined ? [] : [withModel(example, example.task)];
      }),
    ]),
  );
}

import * as z from 'zod';

/** Why a model cannot be served, for `GET /models`; the log has the file and the cause. */
export const modelErrorCodeSchema = z.enum([
  /** The folder, or the repository or revision on the Hub, does not exist. */
  'source_not_found',
  /** The Hub cannot be reached, or refused the download. */
  'download_failed',
  /** A file that a model needs is not there. */
  'file_missing',
  /** A file is not what its name says, or is incomplete. */
  'file_corrupt',
  /** There are no weights of the configured dtype. */
  'dtype_not_found',
  /** The model does not fit its task, or needs what Sluice does not have. */
  'not_supported',
  /** Its files do not say how to use it, so that `models.json` must. */
  'settings_needed',
  /** `max_tokens` is more than the model has positions. */
  'max_tokens_too_large',
  /** The model does not fit into the memory of the machine or container. */
  'not_enough_memory',
  /** Any other error while it loaded, or its processes end again and again. */
  'load_failed',
]);
export type ModelErrorCode = z.infer<typeof modelErrorCodeSchema>;

/** A model that cannot be served. The message is one line, shown after "The model <id> cannot be loaded: ". */
export class ModelError extends Error {
  override name = 'ModelError';
  constructor(
    readonly code: ModelErrorCode,
    message: string,
  ) {
    super(message);
  }
}

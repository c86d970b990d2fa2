/** The files of a model on this machine. */
export interface FetchedModel {
  folder: string;
  /** Size of the weights. */
  weightsBytes: number;
  /** The commit of a model from the Hub, or its configured revision. */
  revision: string;
  /**
   * Explains a load that failed: looks for a damaged file.
   * @throws ModelError `file_corrupt` that names it
   */
  verify(): Promise<void>;
}

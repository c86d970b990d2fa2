import { createHash } from 'node:crypto';
import { createReadStream, existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join, relative } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

/** Bytes that are sent at once of a file, and the pause after them: slow enough for progress lines in the log. */
const PART_BYTES = 3_000_000;
const PAUSE_MS = 300;

interface Repository {
  /** Folder with its files. */
  folder: string;
  /** Commit of each revision. */
  revisions: Readonly<Record<string, string>>;
  /** A token that requests must have. */
  token?: string;
}

export const COMMIT = '0123456789abcdef0123456789abcdef01234567';

/**
 * The part of the Hugging Face Hub that a download uses: what a revision is, its files, and the files themselves. Weights
 * are at another origin, as on the Hub.
 */
export class Hub {
  #repositories: Readonly<Record<string, Repository>>;
  #server: Server;
  #storage: Server;
  /** Requests, as `<method> <path>`. */
  requested: string[] = [];
  /** The `Authorization` fields that each origin has received. */
  readonly tokens = { hub: new Set<string | undefined>(), storage: new Set<string | undefined>() };
  /** What is sent instead of a file, by its name. */
  readonly instead = new Map<string, Buffer>();

  private constructor(repositories: Readonly<Record<string, Repository>>) {
    this.#repositories = repositories;
    this.#server = createServer(this.serve);
    this.#storage = createServer((request, response) => {
      this.tokens.storage.add(request.headers.authorization);
      void this.#send(decodeURIComponent(request.url?.slice(1) ?? ''), response);
    });
  }

  static async start(repositories: Readonly<Record<string, Repository>>): Promise<Hub> {
    const hub = new Hub(repositories);
    for (const server of [hub.#server, hub.#storage])
      await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    return hub;
  }

  get url(): string {
    return urlOf(this.#server);
  }

  close(): void {
    for (const server of [this.#server, this.#storage]) {
      server.closeAllConnections();
      server.close();
    }
  }

  /** Answers a request to the Hub itself. */
  readonly serve = (request: IncomingMessage, response: ServerResponse): void => {
    const { pathname } = new URL(request.url ?? '/', 'http://hub');
    this.requested.push(`${request.method} ${pathname}`);
    this.tokens.hub.add(request.headers.authorization);
    const [, api, name = '', kind, revision = '', file = ''] =
      /^(\/api\/models)?\/(\w+\/\w+)\/(revision|tree|resolve)\/([^/]+)\/?(.*)$/.exec(pathname) ?? [];
    const repository = this.#repositories[name];
    const allowed =
      repository?.token === undefined || request.headers.authorization === `Bearer ${repository.token}`;
    if (repository === undefined || !allowed) {
      response.writeHead(repository ? 401 : 404).end('{}');
      return;
    }
    const commits = Object.values(repository.revisions);
    const commit = repository.revisions[decodeURIComponent(revision)];
    if (api && kind === 'revision' && commit) json(response, { _id: name, id: name, sha: commit });
    else if (api && kind === 'tree' && commits.includes(revision)) json(response, filesOf(repository.folder));
    else if (!api && kind === 'resolve' && commits.includes(revision)) {
      const path = join(repository.folder, file);
      if (!file.endsWith('.onnx')) void this.#send(path, response);
      else response.writeHead(302, { Location: `${urlOf(this.#storage)}/${encodeURIComponent(path)}` }).end();
    } else response.writeHead(404).end('{}');
  };

  async #send(path: string, response: ServerResponse): Promise<void> {
    const instead = [...this.instead].find(([name]) => path.endsWith(name))?.[1];
    if (instead) response.end(instead);
    else if (!existsSync(path)) response.writeHead(404).end();
    else {
      response.writeHead(200, { 'Content-Length': statSync(path).size });
      for await (const part of createReadStream(path, { highWaterMark: PART_BYTES })) {
        response.write(part);
        if (part.length === PART_BYTES) await delay(PAUSE_MS);
      }
      response.end();
    }
  }
}

function json(response: ServerResponse, value: unknown): void {
  response.writeHead(200, { 'Content-Type': 'application/json' }).end(JSON.stringify(value));
}

/** The URL of a server on this machine. */
export const urlOf = (server: { address(): unknown }) =>
  `http://127.0.0.1:${(server.address() as AddressInfo).port}`;

/** The files of a folder as the Hub lists them; weights are large files, which have a hash. */
function filesOf(folder: string) {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map(({ parentPath, name }) => {
      const path = join(parentPath, name);
      const { size } = statSync(path);
      const oid = createHash('sha256').update(readFileSync(path)).digest('hex');
      return {
        type: 'file',
        path: relative(folder, path),
        size,
        oid,
        ...(name.endsWith('.onnx') ? { lfs: { oid, size, pointerSize: 130 } } : {}),
      };
    });
}

import { ConnectionError } from '@sluice/client';
import {
  type AdminJob,
  adminJobSchema,
  adminJobsSchema,
  jobParams,
  keyIdSchema,
  problemSchema,
} from '@sluice/contract';
import type * as z from 'zod';
import { CliError, UsageError } from './cliError.js';
import { adminPort } from './terminal.js';

/** The filters of `sluice jobs --all`. */
export interface AdminJobFilters {
  key?: string;
  status?: string;
}

/** Jobs of all keys, without texts. @throws CliError if the admin port cannot be reached, or refuses */
export async function allJobs({ key, status }: AdminJobFilters): Promise<AdminJob[]> {
  if (key !== undefined && !keyIdSchema.safeParse(key).success)
    throw new UsageError('--key: not a key id (12 hexadecimal digits)');
  const statuses = adminJobSchema.shape.status;
  if (status !== undefined && !statuses.safeParse(status).success)
    throw new UsageError(`--status: use ${statuses.options.join(', ')}`);
  const jobs: AdminJob[] = [];
  let cursor: string | null = null;
  do {
    const query = new URLSearchParams({
      limit: '1000',
      ...(key ? { key } : {}),
      ...(status ? { status } : {}),
      ...(cursor ? { cursor } : {}),
    });
    const page: z.infer<typeof adminJobsSchema> = await callAdmin(
      'GET',
      `/admin/jobs?${query}`,
      adminJobsSchema,
    );
    jobs.push(...page.jobs);
    cursor = page.next_cursor;
  } while (cursor !== null);
  return jobs;
}

/** Cancels a job of any key. @throws CliError */
export async function cancelAnyJob(id: string): Promise<AdminJob> {
  if (!jobParams.safeParse({ id }).success) throw new CliError(`No job has the id ${id}`);
  return callAdmin('POST', `/admin/jobs/${encodeURIComponent(id)}/cancel`, adminJobSchema);
}

async function callAdmin<T extends z.ZodType>(
  method: 'GET' | 'POST',
  path: string,
  schema: T,
): Promise<z.infer<T>> {
  const { url, token } = await adminPort();
  let response: Response;
  try {
    response = await fetch(`${url.replace(/\/$/, '')}${path}`, {
      method,
      headers: { Authorization: `Bearer ${token}` },
    });
  } catch (error) {
    const { message } = new ConnectionError(url, error, 'Cannot reach the admin port at');
    throw new CliError(`${message}. Check that the gateway runs, or set SLUICE_ADMIN_URL`);
  }
  const body: unknown = await response.json().catch(() => undefined);
  const problem = problemSchema.safeParse(body);
  if (response.status === 404 && (problem.data?.detail ?? 'Not Found') === 'Not Found')
    throw new CliError(`${url} is not the admin port of a gateway. Set SLUICE_ADMIN_URL`);
  if (!response.ok) throw new CliError(problem.data?.detail ?? `The admin port answered ${response.status}`);
  const parsed = schema.safeParse(body);
  if (!parsed.success) throw new CliError(`${url} is not the admin port of a Sluice gateway`);
  return parsed.data;
}

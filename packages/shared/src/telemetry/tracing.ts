import { setTimeout as delay } from 'node:timers/promises';
import {
  type Attributes,
  type Context,
  context,
  DiagLogLevel,
  diag,
  type Link,
  propagation,
  ROOT_CONTEXT,
  type Span,
  type SpanKind,
  SpanStatusCode,
  trace,
} from '@opentelemetry/api';
import * as z from 'zod';
import type { Log } from '../log.js';
import { version } from '../version.js';

/** The trace that a message continues, as W3C Trace Context (https://www.w3.org/TR/trace-context/). */
export const traceContextSchema = z.object({
  traceparent: z.string(),
  tracestate: z.string().exactOptional(),
});
export type TraceContext = z.infer<typeof traceContextSchema>;

/** The tracer of Sluice. Its spans do nothing unless {@link startTracing} has started the export. */
const tracer = trace.getTracer('sluice');

const PROBLEM_EVERY_MS = 60_000;
const MAX_PROBLEM_CHARS = 500;

/** A drain waits this long for the last spans to be exported, in milliseconds. */
const EXPORT_MS = 2_000;

/** Whether the environment asks for traces: by an exporter or by an endpoint. */
function wantsTraces(env: Readonly<Record<string, string | undefined>>): boolean {
  if (env.OTEL_SDK_DISABLED?.toLowerCase() === 'true' || env.OTEL_TRACES_EXPORTER === 'none') return false;
  return Boolean(
    env.OTEL_TRACES_EXPORTER || env.OTEL_EXPORTER_OTLP_ENDPOINT || env.OTEL_EXPORTER_OTLP_TRACES_ENDPOINT,
  );
}

/**
 * Starts the export of spans if the environment asks for it, with the standard variables
 * (https://opentelemetry.io/docs/languages/sdk-configuration/). Otherwise no module of the SDK is loaded.
 * @param name of the process, as part of the default service name `sluice-<name>`
 * @returns ends the export; it waits at most {@link EXPORT_MS}
 */
export async function startTracing(
  name: string,
  env: Readonly<Record<string, string | undefined>>,
  log: Log,
): Promise<() => Promise<void>> {
  if (!wantsTraces(env)) return async () => {};
  const { core, NodeSDK, resources } = await import('@opentelemetry/sdk-node');
  logProblems(log);
  const sdk = new NodeSDK({
    resource: resources.resourceFromAttributes({
      'service.name': `sluice-${name}`,
      'service.version': version,
    }),
    // Messages carry W3C Trace Context.
    textMapPropagator: new core.W3CTraceContextPropagator(),
    // Sluice does not use OpenTelemetry for metrics and logs.
    metricReaders: [],
    logRecordProcessors: [],
    instrumentations: [],
  });
  sdk.start();
  log.info('Exporting traces');
  return async () => {
    const ended = sdk
      .shutdown()
      .catch((err: unknown) => log.warn({ err }, 'Could not export the last spans'));
    await Promise.race([ended, delay(EXPORT_MS, undefined, { ref: false })]);
  };
}

/** Logs what the SDK complains about, such as a collector that cannot be reached, at most once a minute. */
function logProblems(log: Log): void {
  let loggedMs = Number.NEGATIVE_INFINITY;
  const complain = (problem: string) => {
    if (performance.now() - loggedMs < PROBLEM_EVERY_MS) return;
    loggedMs = performance.now();
    log.warn({ problem: problem.slice(0, MAX_PROBLEM_CHARS) }, 'Traces may be lost');
  };
  const ignore = () => {};
  diag.setLogger(
    { error: complain, warn: complain, info: ignore, debug: ignore, verbose: ignore },
    { logLevel: DiagLogLevel.WARN, suppressOverrideMessage: true },
  );
}

/** The context of a span, in the form that a message carries; undefined if the span is not traced. */
export function traceContextOf(span: Span): TraceContext | undefined {
  const carrier: Record<string, string> = {};
  propagation.inject(trace.setSpan(ROOT_CONTEXT, span), carrier);
  return traceContextSchema.safeParse(carrier).data;
}

/** The trace of the running code, in the form that a message carries; undefined outside a trace. */
export function presentTrace(): TraceContext | undefined {
  const span = trace.getActiveSpan();
  return span && traceContextOf(span);
}

/** The context that a message or the head of a request carries. */
const contextOf = (carrier: object | undefined): Context =>
  carrier === undefined ? ROOT_CONTEXT : propagation.extract(ROOT_CONTEXT, carrier);

interface SpanOptions {
  kind: SpanKind;
  attributes?: Attributes;
  /** What it continues: another span, or what a message or the head of a request carries. */
  parent?: Span | object | undefined;
  /** Other traces that it belongs to, such as those of the items of a micro-batch. */
  links?: readonly (Span | TraceContext | undefined)[];
  /** In milliseconds since the epoch; now if not given. */
  startMs?: number;
}

const isSpan = (value: Span | object): value is Span => 'spanContext' in value;

/** Starts a span; its user ends it. */
export function startSpan(name: string, { kind, attributes, parent, links, startMs }: SpanOptions): Span {
  const parentContext =
    parent !== undefined && isSpan(parent) ? trace.setSpan(ROOT_CONTEXT, parent) : contextOf(parent);
  const linked = (links ?? []).flatMap((link): Link[] => {
    const spanContext =
      link === undefined
        ? undefined
        : isSpan(link)
          ? link.spanContext()
          : trace.getSpanContext(contextOf(link));
    return spanContext && trace.isSpanContextValid(spanContext) ? [{ context: spanContext }] : [];
  });
  return tracer.startSpan(
    name,
    {
      kind,
      ...(attributes ? { attributes } : {}),
      ...(linked.length > 0 ? { links: linked } : {}),
      ...(startMs === undefined ? {} : { startTime: startMs }),
    },
    parentContext,
  );
}

/** Runs a function as part of a span, which it does not end. */
export const inSpan = <T>(span: Span, run: () => T): T =>
  context.with(trace.setSpan(context.active(), span), run);

/** Marks a span as failed. */
export function failSpan(span: Span, reason: string): void {
  span.setAttribute('error.type', reason);
  span.setStatus({ code: SpanStatusCode.ERROR });
}

/** A time on the monotonic clock of this process, or now, in milliseconds since the epoch. */
export const epochMs = (performanceMs = performance.now()): number =>
  Date.now() - performance.now() + performanceMs;

/** The span of the running code; undefined outside a span. */
export const presentSpan = (): Span | undefined => trace.getActiveSpan();

export { type Span, SpanKind } from '@opentelemetry/api';

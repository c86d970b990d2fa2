import { IncomingMessage, ServerResponse } from 'node:http';
import { Socket } from 'node:net';
import cors from 'cors';
import type { RequestHandler } from 'express';
import helmet from 'helmet';

/** How long a browser may cache a preflight response, in seconds. */
const PREFLIGHT_SECONDS = 600;

/**
 * Security header fields for browsers. The reference is a page with scripts and styles from the same origin.
 * @param secure whether the server speaks HTTPS
 */
export function securityHeaders(secure: boolean): RequestHandler {
  const fields = fieldsOf(
    helmet({
      contentSecurityPolicy: {
        directives: {
          'default-src': ["'self'"],
          'style-src': ["'self'", "'unsafe-inline'"],
          'font-src': ["'self'", 'data:'],
          'frame-ancestors': ["'none'"],
          'upgrade-insecure-requests': null,
        },
      },
      xFrameOptions: { action: 'deny' },
      strictTransportSecurity: secure && { maxAge: 31_536_000, includeSubDomains: false },
    }),
  );
  return (_request, response, next) => {
    for (const [name, value] of fields) response.setHeader(name, value);
    next();
  };
}

/** Runs a middleware once, and returns the header fields that it sets. They must not depend on the request. */
function fieldsOf(middleware: ReturnType<typeof helmet>): readonly (readonly [string, string])[] {
  const fields: [string, string][] = [];
  const request = new IncomingMessage(new Socket());
  const response = new (class extends ServerResponse {
    override setHeader(name: string, value: unknown): this {
      fields.push([name, String(value)]);
      return this;
    }
  })(request);
  middleware(request, response, () => {});
  return fields;
}

/** Lets pages of other origins call the API (https://fetch.spec.whatwg.org/#http-cors-protocol). */
export function crossOrigin(origins: readonly string[]): RequestHandler {
  return cors({
    origin: origins.includes('*') ? '*' : [...origins],
    methods: ['GET', 'POST', 'DELETE'],
    allowedHeaders: [
      'Accept',
      'Authorization',
      'Content-Type',
      'Idempotency-Key',
      'X-API-Key',
      'X-Request-Id',
    ],
    exposedHeaders: ['Location', 'RateLimit', 'RateLimit-Policy', 'Retry-After', 'X-Request-Id'],
    maxAge: PREFLIGHT_SECONDS,
    // The route itself answers OPTIONS, so that an unknown path gets 404.
    preflightContinue: true,
  });
}

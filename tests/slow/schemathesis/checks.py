"""Checks of this API in addition to those of schemathesis, and what it needs to know of NDJSON and Idempotency-Key."""

import json
from itertools import count as counter

import schemathesis
from schemathesis.specs.openapi.checks import UseAfterFree, use_after_free


count = counter()


@schemathesis.check
def use_after_erase(ctx, response, case):
    """The built-in use_after_free, but only after a DELETE that erases (204). One that cancels (200) keeps the job."""
    try:
        return use_after_free(ctx, response, case)
    except UseAfterFree:
        for related in ctx.internals.find_related(case_id=case.id):
            answer = ctx.internals.find_response(case_id=related.id)
            if related.operation.method.lower() == "delete" and answer is not None and answer.status_code == 204:
                raise
    return None


@schemathesis.serializer("application/x-ndjson")
def ndjson(_ctx, value):
    """A valid body of one line for any text, since OpenAPI 3.1 cannot describe a line; an invalid one for other values."""
    if not isinstance(value, str):
        return b"null\n"
    return json.dumps({"id": 7, "text": f"fine {str(value)[:100]}"}).encode() + b"\n"


@schemathesis.hook
def before_call(_ctx, case, _kwargs=None):
    """Avoids what a schema cannot say: used idempotency keys, texts that are too long, prompts that the model lacks."""
    body = case.body
    if isinstance(body, dict):
        parts = body.get("input")
        if isinstance(parts, list) and len(parts) > 1 and all(isinstance(part, dict) for part in parts):
            body["input"] = parts[:1]
        for part in (body, body.get("parameters")):
            if not isinstance(part, dict):
                continue
            if ("inputs" in body or "texts" in body) and part.get("truncate", False) in (None, False):
                part["truncate"] = True
            if isinstance(part.get("prompt_name"), str):
                part["prompt_name"] = None
            if isinstance(part.get("dimensions"), (int, float)) and part["dimensions"] > 32:
                part["dimensions"] = 32
            if isinstance(part.get("max_tokens_per_doc"), (int, float)) and part["max_tokens_per_doc"] >= 1:
                part["max_tokens_per_doc"] = 4096
    key = (case.headers or {}).get("Idempotency-Key")
    if isinstance(key, str) and 0 < len(key.strip()) <= 200:
        case.headers["Idempotency-Key"] = f"{key}{next(count)}"

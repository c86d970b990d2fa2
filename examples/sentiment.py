"""One text, and a job of several, with requests."""

import json
import os
import time

import requests

URL = os.environ.get("SLUICE_URL", "http://localhost:8000")
session = requests.Session()
session.headers["X-API-Key"] = os.environ["SLUICE_API_KEY"]


def post(path, **kwargs):
    """Sends a request; after 429 or 503 waits for Retry-After and tries again."""
    for _ in range(5):
        response = session.post(URL + path, timeout=60, **kwargs)
        if response.status_code not in (429, 503):
            break
        time.sleep(int(response.headers.get("Retry-After", 1)))
    response.raise_for_status()
    return response.json()


answer = post("/predict", json={"text": "This product is amazing!"})
print(answer["sentiment"], round(answer["confidence"], 3))

# A job: each line is a JSON text, or an object with your own id.
lines = [{"id": "a", "text": "I love it"}, {"id": "b", "text": "It broke after a day"}]
job = post(
    "/analyze_batch",
    data="\n".join(json.dumps(line) for line in lines),
    headers={"Content-Type": "application/x-ndjson", "Idempotency-Key": "reviews-of-today"},
)
while True:
    state = session.get(URL + job["status_url"], timeout=60).json()
    if state["status"] not in ("queued", "running"):
        break
    time.sleep(0.5)

with session.get(
    URL + job["status_url"] + "/results",
    headers={"Accept": "application/x-ndjson"},
    stream=True,
    timeout=60,
) as results:
    for line in results.iter_lines():
        result = json.loads(line)
        print(result["id"], result.get("sentiment") or result["error"]["detail"])

"""The service of the FastAPI tutorial in a good version: key check, rate limit in the process, model in the thread pool."""

import json
import os
import threading
import time
from collections import deque
from pathlib import Path

import numpy
import onnxruntime
from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import APIKeyHeader
from pydantic import BaseModel
from tokenizers import Tokenizer

MODEL = Path(__file__).parents[2] / "models" / "minilm-l6-sst2"
API_KEY = os.environ["API_KEY"]
LIMIT = int(os.environ.get("RATE_LIMIT_REQUESTS", "10"))
WINDOW_SECONDS = 60


class SentimentModel:
    def __init__(self) -> None:
        config = json.loads((MODEL / "config.json").read_text())
        self.labels = [config["id2label"][str(i)] for i in range(len(config["id2label"]))]
        self.tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
        self.tokenizer.enable_truncation(512)
        options = onnxruntime.SessionOptions()
        # Requests run in parallel threads; several threads within one request would gain nothing.
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            str(MODEL / "onnx" / "model_quantized.onnx"), options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, text: str) -> tuple[str, float]:
        encoding = self.tokenizer.encode(text)
        (logits,) = self.session.run(
            None,
            {
                "input_ids": numpy.array([encoding.ids], dtype=numpy.int64),
                "attention_mask": numpy.array([encoding.attention_mask], dtype=numpy.int64),
                "token_type_ids": numpy.array([encoding.type_ids], dtype=numpy.int64),
            },
        )
        scores = numpy.exp(logits[0] - logits[0].max())
        scores /= scores.sum()
        best = int(scores.argmax())
        return self.labels[best], float(scores[best])


class RateLimiter:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.times: dict[str, deque[float]] = {}

    def take(self, key: str) -> int | None:
        """Free slots after this request; None if there was none."""
        now = time.monotonic()
        with self.lock:
            times = self.times.setdefault(key, deque())
            while times and times[0] <= now - WINDOW_SECONDS:
                times.popleft()
            if len(times) >= LIMIT:
                return None
            times.append(now)
            return LIMIT - len(times)


class Comment(BaseModel):
    text: str


app = FastAPI()
model = SentimentModel()
limiter = RateLimiter()


def places_left(api_key: str = Depends(APIKeyHeader(name="X-API-Key"))) -> int:
    if api_key != API_KEY:
        raise HTTPException(status_code=403, detail="Invalid API key")
    left = limiter.take(api_key)
    if left is None:
        raise HTTPException(status_code=429, detail="Rate limit exceeded. Please try again later.")
    return left


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}


@app.post("/predict")
def predict(comment: Comment, left: int = Depends(places_left)) -> dict[str, str | float | int]:
    label, score = model(comment.text)
    return {
        "text": comment.text,
        "sentiment": label.lower(),
        "confidence": score,
        "status": "success",
        "requests_remaining": left,
    }

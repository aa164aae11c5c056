"""The server that most people write first, as the yardstick: FastAPI, SentenceTransformer.encode per request, a dict of floats.

python -m tests.bench.server_naive MODEL PORT
"""

from __future__ import annotations

import sys
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer


class Asked(BaseModel):
    inputs: str | list[str]


def main() -> None:
    model = SentenceTransformer(sys.argv[1], device="cpu", local_files_only=True)
    app = FastAPI()

    @app.get("/ready")
    def ready() -> dict[str, bool]:
        return {"ready": True}

    @app.post("/predict")
    def predict(asked: Asked) -> dict[str, Any]:
        texts = [asked.inputs] if isinstance(asked.inputs, str) else asked.inputs
        return {"embeddings": model.encode(texts, show_progress_bar=False).tolist()}

    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")


if __name__ == "__main__":
    main()

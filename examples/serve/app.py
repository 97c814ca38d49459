"""A classifier behind HTTP: pictures to /predict, without torch.

MODEL=RUN/export/onnx/model.onnx uvicorn app:app --app-dir examples/serve
"""

import asyncio
import os
import sys
import threading
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Request, UploadFile
from fastapi.responses import JSONResponse
from PIL import Image

os.environ.setdefault("MODEL", "model.onnx")
sys.path.insert(0, str(Path(os.environ["MODEL"]).resolve().parent))  # an export has classify.py
from classify import Model

MOST_PICTURES = 32  # of a request
MOST_BYTES = 10 * 2**20  # of a picture
Image.MAX_IMAGE_PIXELS = 2 * 10**7  # Pillow refuses twice as many, before it decodes any
SECONDS = 60  # for a request, so that slow clients don't hold all connections
AT_ONCE = threading.BoundedSemaphore(2)  # requests that hold a picture in memory: up to 0.9 GB each

model = Model(os.environ["MODEL"])
app = FastAPI(title="Classifier")


@app.middleware("http")
async def limit(request: Request, call_next: Any) -> Any:
    """Refuse what is too large before it is read, and what takes too long."""
    if request.method == "POST":
        length = request.headers.get("content-length", "")
        if not length.isdigit():
            return JSONResponse({"detail": "give the length of the request"}, 411)
        if int(length) > MOST_PICTURES * MOST_BYTES:
            return JSONResponse({"detail": "the request is too large"}, 413)
    try:
        async with asyncio.timeout(SECONDS):
            return await call_next(request)
    except TimeoutError:
        return JSONResponse({"detail": f"not done after {SECONDS} s"}, 408)


@app.get("/health")
async def health() -> dict[str, Any]:  # not in a thread: these may all wait for AT_ONCE
    """Say that the model is loaded, and which classes it knows."""
    return {"status": "ok", "classes": model.class_names}


@app.post("/predict")
def predict(pictures: list[UploadFile]) -> list[dict[str, Any]]:
    """Return the class of each picture, and the probabilities of all classes."""
    if len(pictures) > MOST_PICTURES:
        raise HTTPException(413, f"{len(pictures)} pictures; at most {MOST_PICTURES} at once")
    with AT_ONCE:
        found = model([_read(picture) for picture in pictures]).tolist()
    names = model.class_names
    return [
        {"file": one.filename, "class": names[row.index(max(row))]}
        | {"probabilities": dict(zip(names, row))}
        for one, row in zip(pictures, found)
    ]


def _read(picture: UploadFile) -> Any:
    if (picture.size or 0) > MOST_BYTES:
        raise HTTPException(413, f"{picture.filename}: more than {MOST_BYTES:,} bytes")
    try:
        return model.read(picture.file)
    except Exception as error:  # Pillow raises every kind for what is no picture, or a damaged one
        raise HTTPException(400, f"{picture.filename}: no picture that can be read") from error

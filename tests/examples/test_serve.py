"""The server answers pictures with classes, and everything else with 4xx."""

import asyncio
import importlib
import io
import struct
import sys
import zlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from project import Classifier
from tests.conftest import CONFIGS

SERVE = CONFIGS.parent / "examples" / "serve"


@pytest.fixture
def client(onnx: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.syspath_prepend(SERVE)
    monkeypatch.setenv("MODEL", str(onnx / "model.onnx"))
    most = Image.MAX_IMAGE_PIXELS
    before = list(sys.path)
    yield TestClient(importlib.import_module("app").app, raise_server_exceptions=False)
    Image.MAX_IMAGE_PIXELS = most
    sys.path[:] = before
    for name in ("app", "classify"):
        sys.modules.pop(name, None)


def png(width: int = 20, height: int = 12) -> bytes:
    file = io.BytesIO()
    generator = np.random.default_rng(width)
    Image.fromarray(generator.integers(0, 256, (height, width, 3), np.uint8)).save(file, "png")
    return file.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
    )


def bomb(width: int = 100_000, height: int = 100_000) -> bytes:
    """A PNG that says that it has ten thousand million pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 10_000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def send(client: TestClient, *contents: bytes) -> Any:
    files = [("pictures", (f"{n}.png", content)) for n, content in enumerate(contents)]
    return client.post("/predict", files=files)


def test_pictures_are_classified(client: TestClient, backbone: Path) -> None:
    health = client.get("/health")
    assert health.status_code == 200 and health.json()["classes"] == list("0123456789")
    contents = [png(), png(30, 40), png(8, 8)]
    answer = send(client, *contents)
    assert answer.status_code == 200
    expected = Classifier.load(backbone)([Image.open(io.BytesIO(content)) for content in contents])
    assert [one["class"] for one in answer.json()] == expected.classes
    found = [list(one["probabilities"].values()) for one in answer.json()]
    np.testing.assert_allclose(found, expected.probabilities.numpy(), atol=1e-4)


HOSTILE = {
    "empty": b"",
    "text": b"no picture",
    "cut": png()[:60],
    "header alone": png()[:33],
    "bomb": bomb(),
    "flat": bomb(0, 1),
    "script": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "zip": b"PK\x03\x04" + b"\0" * 100,
    "html": b"<script>alert(1)</script>",
    "text bomb": b"\x89PNG\r\n\x1a\n"
    + chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 9, 8, 2, 0, 0, 0))
    + chunk(b"zTXt", b"a\0\0" + zlib.compress(b"\0" * 10**7)),
    "zeros": b"\0" * 1000,
    "long": b"x" * (10 * 2**20 + 1),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_picture_is_refused(name: str, client: TestClient) -> None:
    answer = send(client, png(), HOSTILE[name])
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.json()["detail"].startswith("1.png: ")
    assert send(client, png()).status_code == 200  # and it goes on


def test_what_is_also_a_picture_is_one(client: TestClient) -> None:
    """A file that is a picture, and something else for another program."""
    assert send(client, png() + HOSTILE["zip"]).json()[0]["class"] in "0123456789"


def test_limits(client: TestClient) -> None:
    assert send(client, *[png()] * 32).status_code == 200
    assert send(client, *[png()] * 33).status_code == 413
    assert client.post("/predict").status_code in (411, 422)
    assert client.post("/predict", json={"pictures": "x"}).status_code == 422
    huge = client.post("/predict", content=b"", headers={"content-length": "999999999999"})
    assert huge.status_code == 413
    assert send(client, *[b"x"] * 1001).status_code == 400
    many = {f"field {number}": "x" for number in range(5000)}
    files = [("pictures", ("a.png", png()))]
    assert client.post("/predict", data=many, files=files).status_code == 400
    for kind, code in (("image/png", 422), ("multipart/form-data", 400), ("text/html", 422)):
        answer = client.post("/predict", content=png(), headers={"content-type": kind})
        assert answer.status_code == code, kind
    endless = client.post("/predict", content=iter([b"x"]))
    assert endless.status_code == 411
    assert client.get("/predict").status_code == 405


def test_any_bytes_are_answered(client: TestClient) -> None:
    generator, whole = np.random.default_rng(0), png()
    for number in range(30):
        content = bytearray(whole)
        for place in generator.integers(0, len(content), 1 + number):
            content[place] = generator.integers(256)
        assert send(client, bytes(content)).status_code in (200, 400)


async def endless() -> AsyncIterator[bytes]:
    yield b"--b\r\n"
    await asyncio.sleep(60)


def test_slow_clients_are_left_and_hold_up_nobody(client: TestClient) -> None:
    async def talk() -> tuple[int, list[int]]:
        transport = httpx.ASGITransport(client.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://it") as other:
            files = [("pictures", ("a.png", png()))]
            sent = [asyncio.create_task(other.post("/predict", files=files)) for _ in range(41)]
            await asyncio.sleep(0.3)
            health = await asyncio.wait_for(other.get("/health"), 5)  # not behind the others
            for _ in range(2):
                app.AT_ONCE.release()
            codes = {answer.status_code for answer in await asyncio.gather(*sent)}
            app.SECONDS = 0.2
            form = {"content-type": "multipart/form-data; boundary=b", "content-length": "99"}
            slow = await other.post("/predict", content=endless(), headers=form)
            return health.status_code, [*codes, slow.status_code]

    app = sys.modules["app"]
    for _ in range(2):
        app.AT_ONCE.acquire()
    assert asyncio.run(talk()) == (200, [200, 408])


def test_the_image_has_no_torch(onnx: Path) -> None:
    lines = (SERVE / "Dockerfile").read_text().splitlines()
    code = [line.split() for line in lines if not line.startswith("#")]
    assert not any("torch" in word for words in code for word in words)
    copied = [words[1:-1] for words in code if words[:1] == ["COPY"]]
    assert {SERVE / name for name in copied[0]} == {SERVE / "app.py"}
    assert copied[1][0] == "--from=export"
    assert all((onnx / name).is_file() for name in copied[1][1:])

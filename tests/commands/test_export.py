"""An exported file computes what the checkpoint computes, from the pixels on, or there is none."""

import base64
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from project import Classifier
from project.cli import main
from project.commands.export import command
from project.commands.export.graph import Resize
from project.decoding.decode import Decoder
from project.environment import PACKAGE
from project.errors import UserError
from project.exported.description import Description
from project.exported.running import open_exported
from tests.conftest import Run
from tests.test_classifier import FOLDER

QUICK = ("--trainer.max_epochs=1", "--trainer.logger=false", "--test_after_fit=false")
WIDE = [(40, 30), (64, 64), (50, 20), (101, 67), (20, 14), (3, 2), (64, 10), (300, 200)]
TALL = [(30, 90), (63, 65), (10, 200)]


@pytest.fixture(autouse=True)
def briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latencies aren't tested."""
    monkeypatch.setattr("project.commands.export.check.SECONDS", 0.0)


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    channels = () if mode == "L" else (3,)
    generator = np.random.default_rng(width * 1000 + height)
    return Image.fromarray(generator.integers(0, 256, (height, width, *channels), dtype=np.uint8))


@pytest.mark.parametrize("how", ["crop", "squash", "pad"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_the_graph_resizes_as_pillow_does(how: Any, mode: Any) -> None:
    decoder = Decoder(mode, (64, 48), how, fast=False)
    resize = Resize(decoder)
    for size in (*WIDE, *TALL):
        picture = noise(*size, mode)
        pixels = np.asarray(picture).reshape(1, size[1], size[0], -1)
        found = resize(torch.tensor(pixels))[0].numpy()
        expected = decoder.of_picture(picture).astype(np.float32)
        difference = np.abs(found - expected)
        assert difference.max() <= 1, size
        if size in WIDE:  # Pillow may go through the rows of tall pictures first
            assert (difference > 0).mean() < 0.02, size


def test_an_export_says_what_it_is(onnx: Path, backbone: Path) -> None:
    assert {path.name for path in onnx.iterdir()} >= {"model.onnx", "classify.py", "check.json"}
    about = open_exported(onnx / "model.onnx").description
    assert about.class_names == tuple("0123456789") and about.size == (8, 8) and about.mode == "L"
    assert about.normalization == {"mean": [0.5], "std": [0.5]} and about.precision == "fp32"
    assert "FullTraining" in about.config and about.run["directory"] == backbone.name
    assert "torch" in about.versions
    check = json.loads((onnx / "check.json").read_text())
    same = check["same_pixels"]
    assert same["images"] == 50 and same["agreement"] == 1 and same["probability"] < 1e-5
    assert same["accuracy"] == same["accuracy_of_checkpoint"] > 0
    assert check["whole"]["probability"] < 1e-5 and check["milliseconds"]["32"] > 0


def test_it_takes_any_number_of_images_of_any_size(onnx: Path, backbone: Path) -> None:
    exported, classifier = open_exported(onnx / "model.onnx"), Classifier.load(backbone)
    for count, width, height in ((1, 8, 8), (3, 20, 17), (2, 1, 9)):
        pictures = [noise(width, height, "L")] * count
        images = np.stack([np.asarray(picture)[:, :, None] for picture in pictures])
        probabilities, logits = exported(images)
        expected = classifier(pictures).probabilities.numpy()
        np.testing.assert_allclose(probabilities, expected, atol=2e-3)
        assert logits.shape == probabilities.shape == (count, 10)


def test_the_file_beside_it_classifies_alone(onnx: Path, backbone: Path) -> None:
    noise(30, 20).save("a.png")
    done = subprocess.run(
        [sys.executable, "-S", "classify.py", "model.onnx", str(Path("a.png").absolute())],
        cwd=onnx,
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = Classifier.load(backbone)("a.png")
    _, name, probability = done.stdout.split("\t")
    assert name == found.classes[0]
    assert float(probability) == pytest.approx(found.probabilities.max().item(), abs=1e-4)
    text = (onnx / "classify.py").read_text()
    assert PACKAGE + "." not in text and "torch" not in text


@pytest.mark.parametrize("format_", ["torch_export", "safetensors"])
def test_other_formats(
    format_: str, backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["export", str(backbone), "--format", format_, "--output=out", "--check=20"])
    assert "classify: python -m project predict out PICTURES" in capsys.readouterr().out
    check = json.loads(Path("out/check.json").read_text())
    assert check["same_pixels"]["agreement"] == 1
    pictures = [noise(8, 8, "L")] * 2
    expected = Classifier.load(backbone)(pictures).probabilities
    if format_ == "safetensors":
        torch.testing.assert_close(Classifier.load("out")(pictures).probabilities, expected)
    else:
        images = np.stack([np.asarray(picture)[:, :, None] for picture in pictures])
        found = open_exported(Path("out/model.pt2"))(images)[0]
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


PRECISIONS = (("fp16", "torch_export", 1e-5), ("bf16", "safetensors", 1e-4))


@pytest.mark.slow
def test_the_checkpoint_stays_in_full_precision_beside_it(backbone: Path) -> None:
    for format_, precision, least in (
        ("torch_export", "fp16", 1e-5),
        ("safetensors", "bf16", 1e-4),
    ):
        options = (f"--format={format_}", f"--precision={precision}", f"--output={precision}")
        main(["export", str(backbone), *options, "--max_loss=1"])
        same = json.loads(Path(precision, "check.json").read_text())["same_pixels"]
        assert least < same["logit"] < 0.1


def test_less_precision_is_refused_where_it_loses_too_much(
    backbone: Path, fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    main(["export", str(backbone), "--precision=int8", "--output=int8", "--max_loss=0.5"])
    found = json.loads(Path("int8/check.json").read_text())["same_pixels"]
    assert 0 < found["probability"] < 0.5
    assert open_exported(Path("int8/model.onnx")).description.precision == "int8"

    def lossy(found: Any, most: float) -> None:
        found.same_pixels.accuracy = found.same_pixels.accuracy_of_checkpoint - 0.02
        refuse(found, most)

    refuse = command.refuse_loss
    monkeypatch.setattr(command, "refuse_loss", lossy)
    said = fails(*("export", backbone, "--format=safetensors", "--precision=bf16", "--output=bf16"))
    assert "0.0200 of accuracy is lost" in said and "more than --max_loss 0.01" in said
    assert not Path("bf16").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no such checkpoint or run directory"),
        (["--format=onnx", "--precision=bf16"], "precision: onnxruntime computes nothing in bf16"),
        (["--format=torch_export", "--precision=int8"], "precision: int8 is for --format onnx"),
        (["--check=0"], "check: 0 must be at least 1"),
        (["--max_loss=2"], "max_loss: 2.0 must be in [0, 1]"),
        (["--format=keras"], "format: "),
        (["--output=."], "output: . exists; choose another, or delete it"),
    ],
)
def test_what_cannot_be_exported(
    arguments: list[str], message: str, backbone: Path, fails: Callable[..., str]
) -> None:
    run_ = [] if arguments == ["nowhere"] else [str(backbone)]
    assert message in fails("export", *run_, *arguments)


def test_files_of_others_are_told(tmp_path: Path) -> None:
    Path("model.onnx").write_bytes(b"no onnx")
    Path("model.pt2").write_bytes(b"no program")
    for name in ("model.onnx", "model.pt2"):
        with pytest.raises(UserError, match=f"{name} can't be opened as"):
            open_exported(Path(name))
    with pytest.raises(UserError, match="doesn't say which classes it knows"):
        Description.of({"classifier": "1", "class_names": "[1"}, Path("model.onnx"))


def test_a_network_of_ones_own(
    run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, fails: Callable[..., str]
) -> None:
    """The one of docs/extending.md."""
    from tests.test_extending import SECTIONS, write_files

    monkeypatch.syspath_prepend(Path.cwd())
    write_files(SECTIONS["A network"], Path.cwd())
    done = run("fit", "--model.network=my_network.Tiny", *QUICK)
    sys.modules.pop("my_network")
    export = ("export", str(done.path), "--check=10")
    assert fails(*export).endswith("give --trust my_network")
    picture = noise(20, 30, "L")
    for format_ in ("safetensors", "onnx"):  # the latter from the program of torch_export
        main([*export, f"--format={format_}", "--trust=my_network"])
    classifier = Classifier.load(done.path / "export/safetensors", trust_packages=["my_network"])
    expected = classifier(picture).probabilities.numpy()
    sys.modules.pop("my_network")
    found, _ = open_exported(done.path / "export/onnx/model.onnx")(
        np.asarray(picture)[None, ..., None]
    )
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_a_card_is_beside_the_file(pets: Path, run: Callable[..., Run]) -> None:
    for split in pets.iterdir():
        (split / "dog").rename(split / "dög <b>")
    done = run(*FOLDER[:-1], f"--data.root={pets}")
    main(["export", str(done.path), "--format=safetensors"])
    card = (done.path / "export" / "safetensors" / "README.md").read_text()
    _, front, text = card.split("---\n", 2)
    about = yaml.safe_load(front)
    assert about["pipeline_tag"] == "image-classification"
    accuracy = about["model-index"][0]["results"][0]["metrics"][0]["value"]
    assert accuracy == pytest.approx(done.summary["test/accuracy"], abs=1e-6)
    assert '"cat", "dög &lt;b>"' in text and "| test | 8 |" in text
    assert f"| accuracy | {done.summary['test/accuracy']:.4f} |" in text
    assert "| calibration error | " in text
    assert re.search(r"^\| cat \| 4 \| \d\.\d{3} \|", text, re.M)
    assert f"{done.summary['parameters_total']:,} parameters" in text and "torch 2" in text
    assert "\n\n## Data\n" in text


class Hub(BaseHTTPRequestHandler):
    """Answers as a hub does, and keeps what is sent."""

    sent: ClassVar[list[tuple[str, str, bytes]]] = []

    def do_GET(self) -> None:
        self.answer({})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.sent.append((self.path, self.headers.get("authorization", ""), body))
        if self.path.endswith("/preupload/main"):
            files = json.loads(body)["files"]
            self.answer(
                {
                    "files": [
                        {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                        for file in files
                    ]
                }
            )
        else:
            where = f"http://{self.headers['host']}/me/model"
            commit = {"commitUrl": f"{where}/commit/1", "commitOid": "1"}
            self.answer({"url": where, **commit})

    def answer(self, content: Any) -> None:
        text = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str, bytes]]]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        Hub.sent.clear()
        yield Hub.sent
        server.shutdown()
        thread.join()


def test_an_export_is_sent_to_a_hub(
    hub: list[tuple[str, str, bytes]], backbone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--format=safetensors", "--output=out", "--check=5", "--push_to_hub=me/model")
    main(["export", str(backbone), *options])
    assert capsys.readouterr().out.splitlines()[-1].endswith("/me/model")
    _, token, body = next(one for one in hub if one[0].endswith("/create"))
    assert token == "Bearer hf_secret" and b"private" in body
    (commit,) = [body for path, _, body in hub if "/commit/main" in path]
    rows = [json.loads(line) for line in commit.splitlines()]
    files = {row["value"]["path"]: row["value"] for row in rows if row["key"] == "file"}
    assert files.keys() == {"model.safetensors", "README.md", "check.json"}
    sent = base64.b64decode(files["model.safetensors"]["content"])
    assert sent == Path("out/model.safetensors").read_bytes()


def test_a_hub_that_is_not_there(
    backbone: Path, fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    options = ("--format=safetensors", "--output=out", "--check=5", "--push_to_hub=me/model")
    said = fails("export", backbone, *options)
    assert said.startswith("push_to_hub: me/model: ") and said.endswith("; out is there")
    assert Path("out/model.safetensors").is_file()

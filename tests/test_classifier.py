"""``Classifier`` gives from Python what ``predict`` gives, whatever form a picture has."""

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from project import Classifier
from project.approaches import FullTraining, ImageClassifier, TrainFromScratch
from project.cli import main
from project.csv_text import read_table
from project.data import Digits
from project.environment import PACKAGE
from project.errors import UserError
from tests.conftest import Run

FOLDER = (
    *("fit", "--data=ImageFolder", "--data.image_size=16", "--data.num_workers=0"),
    *("--model.network=CNN", "--model.network.channels=[4]", "--trainer.max_epochs=1"),
    *("--trainer.logger=false", "--test_after_fit=false"),
)


@pytest.fixture
def pet_run(pets: Path, run: Callable[..., Run]) -> Path:
    return run(*FOLDER, f"--data.root={pets}", "--data.resize=pad").path


def test_the_numbers_are_those_of_predict(pet_run: Path, pets: Path) -> None:
    main(
        [
            *("predict", f"--ckpt_path={pet_run}", "--run_dir=predicted", "--trainer.logger=false"),
            f"--data.predict_dir={pets / 'test'}",
        ]
    )
    rows = list(read_table(Path("predicted/predictions.csv")))
    paths = [row["image"] for row in rows]
    found = Classifier.load(pet_run)(paths, batch_size=3)
    assert found.class_names == ("cat", "dog") and len(found) == 8
    assert found.classes == [row["class"] for row in rows]
    said = torch.tensor(
        [[float(row[f"probability_{name}"]) for name in ("cat", "dog")] for row in rows]
    )
    torch.testing.assert_close(found.probabilities, said, atol=1e-5, rtol=0)
    assert found.probabilities.std() > 1e-4  # or equal numbers would say nothing


def test_a_picture_may_have_any_form(pet_run: Path) -> None:
    generator = np.random.default_rng(0)
    array = generator.integers(0, 256, (30, 50, 3), dtype=np.uint8)
    Image.fromarray(array).save("a.png")
    classifier = Classifier.load(pet_run / "checkpoints" / "best.ckpt", device="cpu")
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    forms = ["a.png", Path("a.png"), Image.open("a.png"), Image.fromarray(array), array, tensor]
    found = classifier(forms).probabilities
    assert (found == found[0]).all()
    for one in forms:
        torch.testing.assert_close(classifier(one).probabilities, found[:1])
    names = ["a.png", "a.png"]
    arrays_of_names = (np.array(names), np.array(names, object))
    for batch in (np.stack([array, array]), torch.stack([tensor, tensor]), *arrays_of_names):
        torch.testing.assert_close(classifier(batch).probabilities, found[:2])
    grey = array[:, :, 0]
    same = classifier([grey, Image.fromarray(grey).convert("RGB")]).probabilities
    torch.testing.assert_close(same[0], same[1])
    assert len(classifier([])) == 0


def test_a_rotated_picture_is_turned(pet_run: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(array).save("turned.png", exif=exif)
    classifier = Classifier.load(pet_run)
    found = classifier(["turned.png", Image.open("turned.png"), np.rot90(array, 3)]).probabilities
    assert (found == found[0]).all() and (found[0] != classifier(array).probabilities).any()


def test_features_and_layers(pet_run: Path) -> None:
    classifier = Classifier.load(pet_run)
    arrays = np.zeros((3, 20, 20, 3), np.uint8)
    features = classifier.features(arrays, batch_size=2)
    head = classifier.model.network.head
    with torch.no_grad():
        again = head(features).softmax(1)
    torch.testing.assert_close(again, classifier(arrays).probabilities)
    name = next(name for name in classifier.layer_names if name.startswith("backbone."))
    assert len(classifier.features(arrays, layer=name, batch_size=2)) == 3
    with pytest.raises(UserError, match="no layer nowhere; known are backbone"):
        classifier.features(arrays, layer="nowhere")
    several, first = nn.Identity(), nn.Identity()
    several.register_forward_hook(lambda module, inputs, output: (output, output))
    first.register_forward_hook(lambda module, inputs, output: output[0])
    classifier.model.network.head = nn.Sequential(several, first, head)
    with pytest.raises(UserError, match=r"the layer head.0 returns a tuple, which is no tensor"):
        classifier.features(arrays, layer="head.0")


def test_the_test_images_of_an_array_source(run: Callable[..., Run]) -> None:
    done = run("fit", "--trainer.max_epochs=1", "--trainer.logger=false")
    data = Digits()
    data.setup("test")
    assert data.test_images is not None
    batch = data.test_images[torch.arange(len(data.test_images))]
    right = Classifier.load(done.path)(batch.images).labels == batch.labels
    assert right.float().mean().item() == pytest.approx(done.summary["test/accuracy"])
    Classifier.load(done.path)(np.asarray(Image.new("L", (8, 8))))  # which can't be written to


def half_a_file() -> Image.Image:
    file = io.BytesIO()
    Image.new("RGB", (50, 50)).save(file, "bmp")
    return Image.open(io.BytesIO(file.getvalue()[:3000]))


NO_PICTURES: list[tuple[object, str]] = [
    (np.zeros((4, 4), np.float32), r"uint8 \[H, W, 1 or 3\], .* not float32 \[4, 4\]"),
    (torch.zeros(4, 4, 3), r"uint8 \[1 or 3, H, W\], .* not torch.float32 \[4, 4, 3\]"),
    (np.zeros((0, 4, 3), np.uint8), r"not uint8 \[0, 4, 3\]"),
    *((one, f"{type(one).__name__} is no picture") for one in (3, None, b"x", io.BytesIO())),
    *((one, "a picture: broken image") for one in (half_a_file(), Image.new("L", (0, 5)))),
    ("nowhere.jpg", "nowhere.jpg: broken image: No such file"),
]


def test_what_is_no_picture(pet_run: Path) -> None:
    classifier = Classifier.load(pet_run)
    for picture, message in NO_PICTURES:
        for given in ([picture], picture):
            with pytest.raises(UserError, match=message):
                classifier(given)  # type: ignore[arg-type]


def test_a_run_that_cannot_be_loaded(pet_run: Path) -> None:
    with pytest.raises(UserError, match="nowhere: no such checkpoint or run directory"):
        Classifier.load("nowhere")
    (pet_run / "config.yaml").rename("config.yaml")
    with pytest.raises(UserError, match="no .*config.yaml says how its images are read"):
        Classifier.load(pet_run)
    (pet_run / "config.yaml").write_text("model: {}\n")
    with pytest.raises(UserError, match="is no config of a run: it lacks model or data"):
        Classifier.load(pet_run)


@pytest.mark.parametrize("load", [Classifier.load, ImageClassifier.load_from_checkpoint])
def test_a_run_runs_no_code_that_is_not_trusted(
    load: Callable[..., object],
    run: Callable[..., Run],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    Path("my_small.py").write_text(
        f"from {PACKAGE}.networks import MLP\n\n\nclass Small(MLP):\n"
        "    def __init__(self, image_shape, num_logits, width=4):  # without types\n"
        "        super().__init__(image_shape, num_logits, [width])\n"
    )
    done = run("fit", "--model.network=my_small.Small", "--trainer.max_epochs=1", *FOLDER[-2:])
    sys.modules.pop("my_small")
    with pytest.raises(UserError, match="names my_small.Small .*--trust my_small"):
        load(done.path)
    assert "my_small" not in sys.modules
    assert load(done.path, trust_packages=["my_small"])
    del sys.modules["my_small"]


def test_the_base_class_loads_a_checkpoint(run: Callable[..., Run], backbone: Path) -> None:
    done = run("fit", "--trainer.max_epochs=1", "--trainer.logger=false", "--test_after_fit=false")
    model = ImageClassifier.load_from_checkpoint(done.path)
    assert type(model) is TrainFromScratch
    assert type(ImageClassifier.load_from_checkpoint(backbone)) is FullTraining
    state = done.best["state_dict"]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    with pytest.raises(UserError, match="is of TrainFromScratch, not of FullTraining"):
        FullTraining.load_from_checkpoint(done.path)
    checkpoint = done.best
    del checkpoint["hyper_parameters"]["_class_path"]
    torch.save(checkpoint, "old.ckpt")
    with pytest.raises(UserError, match=r"old.ckpt doesn't say of which class it is; call load_"):
        ImageClassifier.load_from_checkpoint("old.ckpt")
    assert isinstance(TrainFromScratch.load_from_checkpoint("old.ckpt"), TrainFromScratch)


def test_the_package_is_imported_quickly() -> None:
    code = f"import {PACKAGE}, sys; assert not {{'torch', 'numpy'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'Clasifier'"):
        __import__(PACKAGE).Clasifier  # noqa: B018

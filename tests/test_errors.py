"""Each mistake gets one message that names what is wrong, and what would be right."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

BAD_ARGUMENTS: list[tuple[str, list[str], str]] = [
    ("command", ["fitt"], "no command 'fitt'; did you mean fit"),
    ("no config", ["fit", "--config", "nope.yaml"], "there is no file .*nope.yaml"),
    (
        "trainer option",
        ["fit", "--trainer.max_epoch", "3"],
        "mean trainer.max_epochs or trainer.min_epochs",
    ),
    ("abbreviation", ["fit", "--trainer.max_ep", "3"], "no option 'trainer.max_ep'"),
    ("type", ["fit", "--trainer.max_epochs", "two"], "trainer.max_epochs: expected int, got 'two'"),
    ("model class", ["fit", "--model", "Scratch"], "no class 'Scratch'; did you mean TrainFromS"),
    ("model option", ["fit", "--model.netwrk", "MLP"], "no option 'netwrk'; did you mean network"),
    ("network class", ["fit", "--model.network", "MLPP"], "model.network: no class 'MLPP'; .* MLP"),
    (
        "network option",
        ["fit", "--model.network.hiden", "3"],
        "MLP has no option 'hiden'; .*hidden",
    ),
    (
        "what an optimizer is passed",
        ["fit", "--model.optimizer=Adam", "--model.optimizer.learning_rate=3"],
        "Adam has no option 'learning_rate'; did you mean lr",
    ),
    *(
        (
            f"in other words: {word}",
            [command, f"--{word}=3"],
            f"'{word}'; did you mean {option}\\?$",
        )
        for command, word, option in (
            ("fit", "lr", "model.optimizer.lr"),
            ("fit", "learning_rate", "model.optimizer.lr"),
            ("fit", "epochs", "trainer.max_epochs"),
            ("fit", "trainer.epochs", "trainer.max_epochs"),
            ("test", "batch_size", "data.batch_size"),
            ("fit", "imgsz", "data.image_size"),
            ("fit", "gpus", "trainer.devices"),
            ("fit", "seed", "seed_everything"),
            ("fit", "root", "data.root"),
            ("recommend", "workers", "data.num_workers"),
            ("plan", "backbone", "model.backbone"),
        )
    ),
    ("of another command", ["inspect", "--epochs=3"], "^no option 'epochs'$"),
    ("below a class", ["fit", "--model.lr=3"], "FromScratch has no option 'lr'; .* optimizer.lr"),
    (
        "option of no optimizer",
        ["fit", "--model.optimizer.lr", "0.1"],
        "^model.optimizer: 'lr' is of no optimizer; name one before, as by --model.optimizer Adam",
    ),
    (
        "option of a short name",
        ["fit", "--data={class_path: Digits, init_args: {augment: {class_path: Augment}, x: 1}}"],
        "Digits has no option 'x'",
    ),
    (
        "empty",
        ["fit", "--model=FineTuning", "--model.weights", ""],
        "^model.weights: an empty value",
    ),
    ("empty after =", ["recommend", "--data=.", "--check="], "^check: an empty value; give one"),
    ("empty run", ["export", ""], "^an empty value; give one"),
    ("empty pictures", ["predict", "run", ""], "^predict: an empty path; give one"),
    (
        "one class",
        ["fit", "--data=ImageFolder", "--data.classes=[]"],
        "^data.classes: none must be",
    ),
    ("a time for a number", ["fit", "--data.batch_size", "1:30"], "expected int, got '1:30'"),
    ("no trainer", ["fit", "--config=null.yaml"], "^trainer: None must be options below it"),
    ("abstract data", ["fit", "--data", "ImageDataModule"], "^data: needs a class that isn't abst"),
    ("abstract files", ["fit", "--data", "FileDataModule"], "isn't abstract; known are CIFAR10, D"),
    ("data of no class", ["recommend", "--data.root", "."], "^data: needs a class that isn't abst"),
    (
        "a root without its class",
        ["fit", "--data.root", "."],
        "^data.root: . isn't read, as Digits",
    ),
    ("nor of inspect", ["inspect", "--data.root", "."], "^data: needs a class that isn't abstract"),
    (
        "abstract model",
        ["fit", "--model", "ImageClassifier"],
        "^model: needs a class that isn't abst",
    ),
    ("abstract network", ["fit", "--model.network", "Network"], "has no architecture of its own"),
    (
        "abstract operation",
        ["fit", "--data.augment=[project.data.augment.Operation]"],
        r"^data.augment\[0\]: needs a class that isn't abstract; known are Affine, ",
    ),
    ("optimizer class", ["fit", "--model.optimizer", "Adm"], "model.optimizer: no class 'Adm'"),
    (
        "optimizer type",
        ["fit", "--model.optimizer", "Adam", "--model.optimizer.lr", "fast"],
        "model.optimizer.lr: expected float, got 'fast'",
    ),
    (
        "optimizer value",
        ["fit", "--model.optimizer", "Adam", "--model.optimizer.lr", "-1"],
        "model.optimizer: Invalid learning rate: -1",
    ),
    (
        "scheduler interval",
        [
            "fit",
            "--model.lr_scheduler.scheduler=WarmupCosine",
            "--model.lr_scheduler.interval=epoch",
        ],
        "WarmupCosine needs interval: step",
    ),
    ("linked", ["fit", "--model.num_classes", "5"], "model.num_classes: comes from the data"),
    ("linked", ["fit", "--model.image_shape", "[1,2,3]"], "model.image_shape: comes from the data"),
    ("data class", ["fit", "--data", "Digit"], "data: no class 'Digit'; did you mean Digits"),
    ("data value", ["fit", "--data.batch_size", "0"], "data.batch_size: 0 must be at least 1"),
    ("data value", ["fit", "--data.val_fraction", "1.5"], r"data.val_fraction: 1.5 must be in \[0"),
    ("augment value", ["fit", "--data.augment.flip", "3"], r"data.augment.flip: 3.0 is not in \[0"),
    ("augment option", ["fit", "--data.augment.flp", "1"], "Augment has no option 'flp'; .*flip"),
    (
        "augment item",
        ["fit", "--data.augment=[HorizontalFlp]"],
        r"data.augment\[0\]: no class 'H.*Flip",
    ),
    ("augment alone", ["fit", "--data.augment=Rotation"], r"give a list, as in \[Rotation\]"),
    (
        "augment item's option",
        ["fit", "--data.augment=[{class_path: Rotation, init_args: {degrees: 300}}]"],
        r"^data.augment.Rotation.degrees: 300.0 must be in \[0, 180\]",
    ),
    ("augment class", ["fit", "--data.augment", "Augmnt"], "data.augment: no class 'Augmnt'"),
    ("std", ["fit", "--data.std", "0"], "data.std: .* must be greater than 0"),
    ("mean", ["fit", "--data.mean", "[0.1, 0.2]"], "data.mean: 2 values for 1 channels"),
    (
        "variant",
        ["fit", "--data=MNIST", "--data.variant=EMNIST"],
        "expected one of 'MNIST', .*EMNIST",
    ),
    ("one logit", ["fit", "--model.one_logit", "true"], "one_logit: needs two classes, .* has 10"),
    (
        "small image",
        ["fit", "--model=FullTraining", "--data.image_size=6"],
        "images of 6×6 are too small",
    ),
    ("precision", ["fit", "--trainer.precision=bf17"], "expected one of .*bf16-mixed.*bf17"),
    ("no device", ["fit", "--trainer.accelerator", "tpu"], "torch_xla"),
    (
        "backbone",
        ["fit", "--model=FineTuning", "--model.backbone=vgg99"],
        "^model.backbone: no 'vgg99' in torchvision.*did you mean vgg",
    ),
    (
        "timm backbone",
        ["fit", "--model=FineTuning", "--model.backbone=timm/resnet1"],
        "no 'timm/resnet1' in timm.*did you mean timm/resnet",
    ),
    (
        "weights",
        ["fit", "--model=FineTuning", "--model.backbone=resnet18", "--model.weights=V9"],
        "model.weights: V9 is neither a file nor published weights of resnet18; known",
    ),
    (
        "weights file",
        ["fit", "--model=FineTuning", "--model.backbone=resnet18", "--model.weights=no.pt"],
        "no.pt is not a file of weights",
    ),
    (
        "network of a library",
        [
            *("fit", "--model=FullTraining", "--model.network=LibraryNetwork"),
            "--model.network.name=resnet99",
        ],
        "^model.network.name: no 'resnet99' in torchvision; did you mean resnet",
    ),
    (
        "weights of a library's network",
        [
            *("fit", "--model=TrainFromScratch", "--model.network=LibraryNetwork"),
            *("--model.network.name=resnet18", "--model.network.weights=V9"),
        ],
        "^model.network.weights: V9 is neither a file nor published weights of resnet18",
    ),
    (
        "module of a network",
        ["fit", "--model.network=nowhere.Tiny"],
        "^model.network: there is no module 'nowhere' in the working directory or among",
    ),
    (
        "class in a module",
        ["fit", "--model.network=json.Tiny"],
        "^model.network: the module json has no class 'Tiny'$",
    ),
    (
        "class of another kind",
        ["fit", "--model.network=json.JSONDecoder"],
        "^model.network: .* is not a subclass of Network$",
    ),
    (
        "data of another kind",
        ["fit", "--data=json.JSONDecoder"],
        "not a subclass of ImageDataModule",
    ),
    ("no backbone", ["fit", "--model=FineTuning", "--model.backbone=runs/x"], "runs/x: no such"),
    ("no run", ["test", "--ckpt_path", "nothing"], "nothing: no such checkpoint or run directory"),
]


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("args", "message"),
    [pytest.param(args, message, id=name) for name, args, message in BAD_ARGUMENTS],
)
def test_bad_argument(args: list[str], message: str, fails: Callable[..., str]) -> None:
    Path("null.yaml").write_text("trainer: null")
    assert_matches(fails(*args), message)


def test_bad_files(fails: Callable[..., str], tmp_path: Path) -> None:
    Path("broken.yaml").write_text("model: [\n")
    assert_matches(fails("fit", "--config", "broken.yaml"), "line 2")
    Path("typo.yaml").write_text("trainer:\n  max_epoch: 3\n")
    assert_matches(fails("fit", "--config", "typo.yaml"), "did you mean trainer.max_epochs")
    Path("linked.yaml").write_text("model: {class_path: FullTraining, init_args: {num_classes: 3}}")
    assert_matches(fails("fit", "--config", "linked.yaml"), "model.num_classes: comes from")
    Path("x.ckpt").write_text("hello")
    assert_matches(fails("test", "--ckpt_path", "x.ckpt"), "no .*config.yaml beside it")
    assert_matches(
        fails("fit", "--model=FineTuning", "--model.backbone=x.ckpt"),
        "x.ckpt can't be opened as a checkpoint",
    )
    Path("used").mkdir()
    Path("used/config.yaml").touch()
    assert_matches(fails("fit", "--run_dir", "used"), "used: holds another run")
    Path("file").touch()
    assert_matches(fails("fit", "--run_dir", "file/run"), "file/run can't be made")


def test_checkpoint_and_config_must_fit(
    run: Callable[..., Any], fails: Callable[..., str], pets: Path
) -> None:
    quick = ("--trainer.max_epochs=1", "--trainer.logger=false")
    folder = ("--data=ImageFolder", f"--data.root={pets}", "--data.image_size=16")
    fitted = run("fit", *folder, "--data.val_fraction=0", *quick)
    assert_matches(
        fails("test", "--ckpt_path", fitted.path, "--model.network.hidden=[3]"),
        "the checkpoint is of another network",
    )
    assert_matches(
        fails("validate", "--ckpt_path", fitted.path), "no validation images to validate"
    )
    for split in ("train", "test"):
        (pets / split / "cat").rename(pets / split / "lynx")
    message = fails("test", "--ckpt_path", fitted.path)
    assert_matches(message, "knows the classes cat, dog, and the data has dog, lynx")


def test_broken_image_in_a_worker_is_named(fails: Callable[..., str], pets: Path) -> None:
    (pets / "train" / "cat" / "4.jpg").write_text("<html>")
    message = fails(
        *("fit", "--data=ImageFolder", f"--data.root={pets}", "--data.image_size=16"),
        *("--data.cache=off", "--data.num_workers=1", "--trainer.logger=false"),
    )
    assert_matches(message, "^[^ ]*cat/4.jpg: broken image: not an image$")


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


def folder_missing(root: Path) -> str:
    return "data.root: .* is not a folder"


def folder_empty(root: Path) -> str:
    root.mkdir()
    return "needs a subfolder for each of two or more classes, and has none"


def folder_of_one_class(root: Path) -> str:
    picture(root / "train" / "a" / "1.png")
    return "two or more classes, and has only a"


def folder_with_empty_class(root: Path) -> str:
    picture(root / "a" / "1.png")
    (root / "b").mkdir()
    return "b holds no images; remove it or fill it"


def folder_with_hidden_only(root: Path) -> str:
    picture(root / "a" / "1.png")
    picture(root / "b" / "._1.png")
    return "b holds no images"


def folder_with_unknown_class(root: Path) -> str:
    for name in ("train/a", "train/b", "val/c"):
        picture(root / name / "1.png")
    return "val has classes that the training images lack: c; known are a, b"


def folder_with_truncated_file(root: Path) -> str:
    for name in ("a", "b"):
        for number in range(4):
            picture(root / name / f"{number}.jpg")
    broken = root / "b" / "2.jpg"
    broken.write_bytes(broken.read_bytes()[:700])
    return "b/2.jpg: broken image: .*truncated"


def folder_with_text_file(root: Path) -> str:
    for name in ("a", "b"):
        for number in range(4):
            picture(root / name / f"{number}.jpg")
    (root / "a" / "0.jpg").write_text("<html>")
    return "a/0.jpg: broken image: not an image"


@pytest.mark.parametrize(
    "make",
    [make for name, make in globals().items() if name.startswith("folder_")],
    ids=[name for name in globals() if name.startswith("folder_")],
)
def test_bad_folder(make: Callable[[Path], str], fails: Callable[..., str], tmp_path: Path) -> None:
    message = make(tmp_path / "images")
    args: list[Any] = ["fit", "--data", "ImageFolder", "--data.root", tmp_path / "images"]
    assert_matches(fails(*args, "--data.image_size=32", "--trainer.logger=false"), message)


def assert_matches(found: str, pattern: str) -> None:
    import re

    assert re.search(pattern, found), f"{pattern!r} not in {found!r}"


@pytest.mark.parametrize("option", ["trainer.precision", "data.root", "model", "run_dir"])
def test_the_character_0_is_refused_by_its_key(option: str, fails: Callable[..., str]) -> None:
    assert fails("fit", f"--{option}=\0").startswith(f"{option}: holds the character \\0")

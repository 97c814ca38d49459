"""Ranks train on the same data, or all of them end with one error."""

import multiprocessing
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from project.data import Digits, ImageFolder
from project.data.ranks import check_equal, num_ranks
from tests.conftest import folder_of
from tests.ranks import Ranks

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
    pytest.mark.timeout(60),
]


def set_up(rank: int, build: Callable[[int], Any], answers: Any) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{Path.cwd()}/store", rank=rank, world_size=2
    )
    try:
        assert num_ranks() == 2
        build(rank).setup("fit")
        answers.put((rank, "equal"))
    except Exception as error:
        answers.put((rank, f"{type(error).__name__} {error}"))


def on_two_ranks(build: Callable[[int], Any]) -> list[str]:
    """Set up the data of each rank, and return what each ended with."""
    fork = multiprocessing.get_context("fork")  # to import torch again takes seconds
    answers: Any = fork.SimpleQueue()
    processes = [fork.Process(target=set_up, args=(rank, build, answers)) for rank in range(2)]
    for process in processes:
        process.start()
    found = dict(answers.get() for _ in processes)
    for process in processes:
        process.join()
    Path("store").unlink(missing_ok=True)
    return [found[rank] for rank in range(2)]


@pytest.fixture
def roots(tmp_path: Path) -> list[Path]:
    """The same images at two places, copied at another time; all files are of the same size."""
    first = folder_of(tmp_path / "a" / "images", [b"cat", b"dog"], [b"%d" % n for n in range(9)])
    for number, path in enumerate(sorted(first.rglob("*.png"))):
        Image.new("L", (4, 4), number).save(path.with_suffix(".bmp"))
        path.unlink()
    second = tmp_path / "b" / "images"
    shutil.copytree(first, second)
    for path in second.rglob("*.bmp"):
        os.utime(path, (1, 1))
    return [first, second]


def folders(roots: list[Path], **options: Any) -> list[str]:
    return on_two_ranks(
        lambda rank: ImageFolder(root=str(roots[rank]), cache="off", image_size=4, **options)
    )


def test_copies_are_the_same(roots: list[Path]) -> None:
    assert folders(roots) == ["equal", "equal"]


def swap(root: Path) -> None:
    (root / "cat").rename(root / "new")
    (root / "dog").rename(root / "cat")
    (root / "new").rename(root / "dog")


CHANGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "class folders swapped": (swap, "different training images: rank 0 has SHA-256 "),
    "a file less": (
        lambda root: (root / "cat" / "3.bmp").unlink(),
        "different number of training images: rank 0 has 12, rank 1 has 11; all of them need",
    ),
    "a file of another name": (
        lambda root: (root / "cat" / "3.bmp").rename(root / "cat" / "33.bmp"),
        "different training images",
    ),
    "a class of another name": (
        lambda root: (root / "cat").rename(root / "cow"),
        "different classes: rank 0 has cat as number 1, rank 1 has cow",
    ),
    "a class more": (
        lambda root: shutil.copytree(root / "cat", root / "cow"),
        "different classes: rank 0 has 2, rank 1 has 3",
    ),
    "an empty class": (
        lambda root: [file.unlink() for file in (root / "cat").iterdir()],
        "rank 1: .*cat holds no images",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_files_are_one_error_of_all_ranks(change: str, roots: list[Path]) -> None:
    alter, message = CHANGES[change]
    alter(roots[1])
    first, second = folders(roots)
    assert re.match(f"UserError (data: the ranks have )?{message}", first)
    assert second == first.replace("UserError rank 1: ", "UserError ")


@pytest.mark.parametrize("broken", [0, 1])
def test_an_error_of_one_rank_ends_both(broken: int) -> None:
    class Failing(Digits):
        def load(self) -> Any:
            raise RuntimeError("no disk")

    said = on_two_ranks(lambda rank: (Failing if rank == broken else Digits)())
    assert said[broken] == "RuntimeError no disk"
    assert said[1 - broken] == f"UserError rank {broken}: no disk"


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 8}, "data.batch_size: rank 0 has 64, rank 1 has 8"),
        ({"split_seed": 3}, "training images: rank 0 has SHA-256 "),
        ({"limit_per_class": 3}, "number of training images: rank 0 has 1295, rank 1 has 30"),
        ({"steps_per_epoch": 3}, "data.steps_per_epoch: rank 0 has None, rank 1 has 3"),
        ({"sampling": "sqrt"}, "data.sampling: rank 0 has natural, rank 1 has sqrt"),
        ({"image_size": 9}, "image size: rank 0 has 8 as number 2, rank 1 has 9"),
    ],
)
def test_other_options_are_an_error(options: dict[str, Any], message: str) -> None:
    first, second = on_two_ranks(lambda rank: Digits(**(options if rank else {})))
    assert first == second
    assert first.startswith(f"UserError data: the ranks have different {message}")


def test_one_process_compares_nothing() -> None:
    check_equal({"anything": object()})


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_command_ends_with_one_line_on_all_ranks(roots: list[Path], ranks: Ranks) -> None:
    args = ("fit", "--data=ImageFolder", "--data.root=images", "--data.image_size=8")
    more = ("--trainer.logger=false", "--trainer.max_epochs=1", f"--run_dir={roots[0].parent}/run")
    swap(roots[1])
    done = ranks(*args, *more, folders=(roots[0].parent, roots[1].parent))
    assert done.code == 2
    for said in (done.said, done.said_by_second):
        (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
        assert line.startswith("error: data: the ranks have different training images: rank 0 has ")
    assert "epoch" not in done.said

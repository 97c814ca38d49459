"""Bad images are named all at once, or left out; excluded ones are left out; the others stay."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from project.console import readable
from project.csv_text import read_table, table
from project.data import ImageFolder, cache
from project.data.bad_images import LIST, SKIPPED, write_bad
from project.errors import UserError
from tests.conftest import Run
from tests.data.test_folder import decoded as decoded_paths  # noqa: F401  # a fixture
from tests.data.test_folder import entries, pixels
from tests.data.test_ranks import on_two_ranks

SPLITS = ("train", "val", "test")
CACHES = ("auto", "disk", "memory", "off")
BAD: dict[str, Callable[[Path], Any]] = {
    "train/cat/3.png": lambda path: path.write_text("<html>"),
    "train/cat/9.png": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "train/dog/4.png": lambda path: path.write_bytes(b""),
    "test/dog/2.png": lambda path: (path.unlink(), path.symlink_to("nowhere")),
}
SEEN = "decoded_paths"  # paths that were decoded


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of 20 training and 4 test images, all of them different."""
    for split, count in (("train", 20), ("test", 4)):
        for label, name in enumerate(("cat", "dog")):
            (tmp_path / "root" / split / name).mkdir(parents=True)
            for number in range(count):
                image = Image.new("L", (6, 4), 100 * label + 2 * number + (split == "test"))
                image.save(tmp_path / "root" / split / name / f"{number}.png")
    return tmp_path / "root"


def damage(root: Path, *names: str) -> list[str]:
    for name in names or BAD:
        BAD[name](root / name)
    return [str(root / name) for name in names or BAD]


def folder(root: Path, **options: Any) -> Any:
    data = ImageFolder(root=str(root), **{"image_size": 4, "max_bad_fraction": 0.2, **options})
    data.setup("fit")
    return data


def index(data: Any) -> dict[str, list[tuple[str, int]]]:
    """Path and label of each image of each split."""
    return {
        split: [(str(images.path(n)), int(images.labels[n])) for n in range(len(images))]
        for split in SPLITS
        if (images := getattr(data, f"{split}_images")) is not None
    }


def error_of(root: Path, **options: Any) -> str:
    with pytest.raises(UserError) as error:
        folder(root, **options)
    return str(error.value)


@pytest.mark.parametrize("keep", ["auto", "disk", "memory"])
def test_all_bad_images_are_named(keep: str, root: Path) -> None:
    paths = damage(root)
    said = error_of(root, cache=keep)
    assert said.startswith("data: 4 of 48 images can't be read; ")
    assert "remove or replace them, or leave them out with --data.on_bad_image skip: " in said
    assert "\n" not in said
    for path, reason in zip(paths, ("not an image", ".+", "not an image", "No such file")):
        assert re.search(f"{path}: broken image: {reason}", said), said
    listed = {row["image"]: row["reason"] for row in read_table(Path("cache", LIST))}
    assert sorted(listed) == sorted(paths) and listed[paths[0]] == "not an image"
    assert str(Path("cache", LIST)) in said


def test_of_many_bad_images_twenty_are_named(root: Path) -> None:
    for path in (root / "train" / "cat").iterdir():
        path.write_text("")
    for path in (root / "test" / "cat").iterdir():
        path.write_text("")
    said = error_of(root, cache="memory")
    assert said.count("broken image") == 20 and said.endswith("; and 4 more")
    assert len(list(read_table(Path("cache", LIST)))) == 24


def test_one_bad_image_needs_no_list(root: Path) -> None:
    (path,) = damage(root, "train/cat/3.png")
    said = error_of(root)
    assert said.startswith(f"{path}: broken image: not an image; remove or replace them, or leave")
    assert not Path("cache", LIST).exists()


def test_a_list_that_cannot_be_written_changes_nothing(root: Path) -> None:
    damage(root)
    Path("cache").write_text("")
    assert "4 of 48 images can't be read; remove" in error_of(root)


@pytest.mark.parametrize("keep", CACHES)
@pytest.mark.parametrize("limit", [None, 15])
def test_skipped_images_are_those_and_no_others(keep: Any, limit: int | None, root: Path) -> None:
    whole = folder(root, cache="off", limit_per_class=limit)
    kept = index(whole)
    shown = {
        path: image
        for split, images in kept.items()
        for (path, _), image in zip(images, pixels(getattr(whole, f"{split}_images")))
    }
    bad = damage(root)
    data = folder(root, cache=keep, on_bad_image="skip", limit_per_class=limit)
    expected = {s: [one for one in images if one[0] not in bad] for s, images in kept.items()}
    assert index(data) == expected
    used = {path for images in kept.values() for path, _ in images}
    assert sorted(path for path, _ in data.skipped) == sorted(set(bad) & used)
    for split in SPLITS:
        images = getattr(data, f"{split}_images")
        assert images.in_memory == (keep != "off")
        for number, (path, _) in enumerate(expected[split]):
            assert torch.equal(images[torch.tensor([number])].images[0], shown[path])


def test_content_is_of_what_is_left(root: Path) -> None:
    damage(root)
    found = {
        keep: [getattr(data, f"{split}_images").content() for split in SPLITS]
        for keep in CACHES
        if (data := folder(root, cache=keep, on_bad_image="skip"))
    }
    assert all(contents == found["off"] for contents in found.values())
    assert folder(root, cache="off").train_images.content() != found["off"][0]


def test_too_many_bad_images_are_an_error(root: Path) -> None:
    damage(root)
    said = error_of(root, on_bad_image="skip", max_bad_fraction=0.08)
    assert "4 of 48 images can't be read" in said
    assert "; more than data.max_bad_fraction: 0.08 allows: " in said
    folder(root, on_bad_image="skip", max_bad_fraction=0.09)
    for wrong in (-0.1, 1.1):
        with pytest.raises(UserError, match=r"data.max_bad_fraction: .* must be at "):
            folder(root, max_bad_fraction=wrong)


@pytest.mark.parametrize("keep", ["auto", "off"])
def test_a_class_needs_training_images(keep: Any, root: Path) -> None:
    for path in (root / "train" / "cat").iterdir():
        path.write_text("")
    options: Any = {"on_bad_image": "skip", "max_bad_fraction": 1.0}
    said = error_of(root, cache=keep, **options)
    assert said == "data.on_bad_image: all training images of cat can't be read"


def test_a_split_may_lose_all_its_images(root: Path) -> None:
    for path in (root / "test").rglob("*.png"):
        path.write_text("")
    data = folder(root, on_bad_image="skip")
    assert data.test_images is None and len(data.train_images) + len(data.val_images) == 40


def test_bad_images_that_are_not_needed_are_no_error(root: Path) -> None:
    whole = folder(root, limit_per_class=3, val_fraction=0)
    used = {path for images in index(whole).values() for path, _ in images}
    unused = next(path for path in (root / "train" / "cat").iterdir() if str(path) not in used)
    unused.write_text("")
    folder(root, limit_per_class=3, val_fraction=0)
    error_of(root)  # makes an entry of all
    data = folder(root, limit_per_class=3, val_fraction=0)
    assert index(data) == index(whole)


@pytest.mark.usefixtures(SEEN)
def test_what_was_decoded_before_an_error_is_kept(root: Path, request: Any) -> None:
    seen: list[Path] = request.getfixturevalue(SEEN)

    def count(expected: int, **options: Any) -> Any:
        seen.clear()
        found = folder(root, **options) if options else error_of(root)
        assert len(seen) == expected, seen
        return found

    bad = damage(root)
    first = count(48)
    assert count(0) == first  # the second start
    skipped = count(0, on_bad_image="skip")
    assert pixels(skipped.train_images).shape[0] + len(skipped.val_images) == 37
    for path in bad[1:]:
        Path(path).unlink()
    assert bad[0] in count(1)  # no longer a list
    Image.new("L", (6, 4), 77).save(bad[0])
    whole = count(1, on_bad_image="error")
    assert 77 in pixels(whole.train_images) or 77 in pixels(whole.val_images)
    plain = folder(root, cache="off")
    for split in SPLITS:
        name = f"{split}_images"
        assert torch.equal(pixels(getattr(whole, name)), pixels(getattr(plain, name)))
    os.utime(root / "train" / "cat" / "0.png", (1, 1))
    shutil.copy(root / "train" / "cat" / "0.png", root / "train" / "cat" / "new.png")
    count(2, on_bad_image="error")


@pytest.mark.parametrize("keep", ["disk", "off"])
@pytest.mark.usefixtures(SEEN)
def test_a_bad_file_is_read_again_when_it_may_have_changed(
    keep: Any, root: Path, request: Any
) -> None:
    """As when it could not be read by this user, or was restored with its time."""
    seen: list[Path] = request.getfixturevalue(SEEN)
    path = root / "train" / "cat" / "3.png"
    content, status = path.read_bytes(), path.stat()
    path.write_bytes(bytes(len(content)))
    os.utime(path, ns=(1, status.st_mtime_ns))
    assert len(folder(root, cache=keep, on_bad_image="skip").skipped) == 1
    path.write_bytes(content)
    os.utime(path, ns=(1, status.st_mtime_ns))
    seen.clear()
    assert folder(root, cache=keep, on_bad_image="skip").skipped == []
    assert seen == [path]


def test_an_error_of_the_machine_is_not_skipped(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, *_: Any, **__: Any) -> Any:
        if Path(path).name == "3.png":
            raise OSError(5, "Input/output error")
        return opened(path)

    opened = Image.open
    monkeypatch.setattr(Image, "open", fail)
    for keep in CACHES:
        said = error_of(root, cache=keep, on_bad_image="skip")
        assert "3 of" not in said and "the machine may be at fault, so they aren't skipped" in said
    monkeypatch.undo()
    os.chdir(root.parent)
    for keep in CACHES:
        assert folder(root, cache=keep, on_bad_image="skip").skipped == []


@pytest.mark.usefixtures(SEEN)
def test_what_is_bad_is_found_once(root: Path, request: Any) -> None:
    seen: list[Path] = request.getfixturevalue(SEEN)
    damage(root)
    options: Any = {"cache": "off", "on_bad_image": "skip"}
    first = folder(root, **options)
    assert len(seen) == 48
    seen.clear()
    again = folder(root, **options)
    larger = folder(root, image_size=5, resize="squash", **options)
    assert seen == [] and index(again) == index(first) == index(larger)
    shutil.rmtree("cache")
    folder(root, on_bad_image="skip")
    seen.clear()
    folder(root, **options)
    assert seen == []  # the decoded images tell it, too
    folder(root, image_size=5, **options)
    assert len(seen) == 4  # the bad ones alone


def test_a_cache_that_cannot_be_written_changes_nothing(root: Path) -> None:
    damage(root)
    expected = index(folder(root, cache="off", on_bad_image="skip"))
    shutil.rmtree("cache")
    Path("cache").write_text("")
    for keep, gb in (("auto", 4.0), ("auto", 0.0), ("memory", 4.0), ("off", 4.0)):
        data = folder(root, cache=keep, memory_gb=gb, on_bad_image="skip")
        assert index(data) == expected


def test_room_for_a_new_entry_may_be_that_of_a_similar_one(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder(root)
    cache._used.clear()  # as another process
    expected = entries()
    (root / "train" / "cat" / "0.png").unlink()
    size = Path("cache", expected[0]).stat().st_size
    data = folder(root, cache="disk", cache_gb=1.2 * size / 1e9)
    assert len(entries()) == 1 and entries() != expected
    plain = folder(root, cache="off")
    assert torch.equal(pixels(data.train_images), pixels(plain.train_images))


@pytest.mark.usefixtures(SEEN)
def test_a_damaged_entry_is_not_copied_from(root: Path, request: Any) -> None:
    seen: list[Path] = request.getfixturevalue(SEEN)
    folder(root)
    with Path("cache", entries()[0]).open("r+b") as file:
        file.seek(300)
        file.write(bytes(200))
    cache._whole.clear()  # as another process
    (root / "train" / "cat" / "0.png").unlink()
    seen.clear()
    folder(root)
    assert len(seen) == 47


@pytest.mark.parametrize("keep", CACHES)
def test_lazily_the_same_images_are_left_out(keep: Any, root: Path) -> None:
    damage(root)
    expected = index(folder(root, cache=keep, on_bad_image="skip"))
    lazy = ImageFolder(root=str(root), image_size=8, on_bad_image="skip", max_bad_fraction=0.2)
    lazy.setup_lazily()
    assert index(lazy) == expected
    assert len(lazy.train_images.decoded()) == len(lazy.train_images)  # type: ignore[union-attr]


def test_who_only_counts_reads_nothing(
    root: Path, capsys: pytest.CaptureFixture[str], request: Any
) -> None:
    seen: list[Path] = request.getfixturevalue(SEEN)
    damage(root)

    def counted() -> int:
        data = ImageFolder(root=str(root), cache="off", on_bad_image="skip", max_bad_fraction=0.2)
        data.only_counts = True
        data.setup("fit")
        assert data.train_images and data.val_images and data.test_images
        return len(data.train_images) + len(data.val_images) + len(data.test_images)

    assert counted() == 48 and seen == []
    assert "which images can't be read isn't known yet; all are counted" in capsys.readouterr().out
    folder(root, cache="off", on_bad_image="skip")
    seen.clear()
    assert counted() == 44 and seen == []


@pytest.mark.parametrize("keep", CACHES)
def test_ranks_skip_the_same_images(keep: Any, root: Path) -> None:
    damage(root)

    def build(rank: int) -> Any:
        options: Any = {"on_bad_image": "skip", "max_bad_fraction": 0.2}
        return ImageFolder(root=str(root), image_size=4, cache=keep, **options)

    assert on_two_ranks(build) == ["equal", "equal"]


def test_ranks_with_other_bad_images_end(root: Path) -> None:
    other = root.parent / "other"
    shutil.copytree(root, other)
    for path, name in ((root, "3.png"), (other, "5.png")):
        content = (path / "train" / "cat" / name).read_bytes()
        (path / "train" / "cat" / name).write_bytes(bytes(len(content)))

    def build(rank: int) -> Any:
        where, options = (root, other)[rank], {"cache": "memory", "on_bad_image": "skip"}
        data = ImageFolder(root=str(where), image_size=4, **options)  # type: ignore[arg-type]
        data._facts = lambda: {}  # type: ignore[method-assign]  # which finds it already here
        return data

    first, second = on_two_ranks(build)
    assert first == second
    assert "have different skipped images: rank 0 has 3.png as number 1, rank 1 has 5.png" in first


def test_an_error_is_that_of_all_ranks(root: Path) -> None:
    damage(root)
    first, second = on_two_ranks(lambda rank: ImageFolder(root=str(root), image_size=4))
    assert first == second and "4 of 48 images can't be read" in first


FIT = ("fit", "--data=ImageFolder", "--data.image_size=4", "--trainer.max_epochs=1")
QUIET = ("--trainer.logger=false", "--trainer.enable_progress_bar=false")


def test_a_run_tells_what_it_skipped(run: Callable[..., Run], root: Path) -> None:
    paths = damage(root, "train/cat/3.png", "test/dog/2.png")
    args = (*FIT, *QUIET, f"--data.root={root}", "--data.on_bad_image=skip")
    done = run(*args, "--data.max_bad_fraction=0.1")
    assert f"2 of 48 images can't be read and are left out; {SKIPPED} in the run" in done.out
    rows = list(read_table(done.path / SKIPPED))
    assert sorted(row["image"] for row in rows) == sorted(paths)
    summary = json.loads((done.path / "summary.json").read_text())
    assert [summary["data"][split]["images"] for split in SPLITS] == [35, 4, 7]
    clean = run(*FIT, *QUIET, f"--data.root={root}", f"--data.exclude={done.path / SKIPPED}")
    assert json.loads((clean.path / "summary.json").read_text())["data"] == summary["data"]
    assert not (clean.path / SKIPPED).exists()
    assert "data.exclude: 2 images are left out" in clean.out


def test_fit_names_them_and_leaves_no_run(fails: Callable[..., str], root: Path) -> None:
    damage(root)
    said = fails(*FIT, *QUIET, f"--data.root={root}", "--run_dir=new")
    assert said.startswith("data: 4 of 48 images can't be read; ")
    assert not Path("new").exists()


@pytest.mark.parametrize("keep", ["auto", "off"])
def test_predict_skips_likewise(keep: Any, root: Path) -> None:
    bad = damage(root)
    data = ImageFolder(
        root=str(root), image_size=4, cache=keep, predict_dir=str(root), on_bad_image="skip",
        max_bad_fraction=0.2,
    )  # fmt: skip
    data.setup("predict")
    assert data.test_images is not None and len(data.test_images) == 44
    assert sorted(path for path, _ in data.skipped) == sorted(bad)
    pixels(data.test_images)


LISTS: dict[str, tuple[str, str]] = {  # content and name of a file that names two images
    "lines": ("{root}/train/cat/3.png\n\n{root}/train/dog/4.png\n", "x.txt"),
    "below root": ("train/cat/3.png\r\ntrain/dog/4.png", "x.lst"),
    "below here": ("root/train/cat/3.png\n./root/train/../train/dog/4.png\n", "x"),
    "image": ("score,image\n1,train/cat/3.png\n2,train/dog/4.png\n", "x.csv"),
    "file": ('"file"\n"{root}/train/cat/3.png"\n"{root}/train/dog/4.png"\n', "x.CSV"),
    "path, with a mark": ("\ufeffPath,a\nroot/train/cat/3.png,\nroot/train/dog/4.png\n", "x.csv"),
    "first of several": ("path,image\nx,train/cat/3.png\ny,train/dog/4.png\n", "x.csv"),
    "twice": ("train/cat/3.png\ntrain/cat/3.png\ntrain/dog/4.png\n", "x.txt"),
}


@pytest.mark.parametrize("kind", LISTS)
@pytest.mark.parametrize("keep", ["auto", "off"])
def test_excluded_images_are_left_out_of_their_splits(kind: str, keep: Any, root: Path) -> None:
    content, name = LISTS[kind]
    Path(name).write_text(content.format(root=root))
    gone = {str(root / "train/cat/3.png"), str(root / "train/dog/4.png")}
    whole = folder(root, cache=keep)
    data = folder(root, cache=keep, exclude=name)
    assert index(data) == {
        split: [one for one in images if one[0] not in gone]
        for split, images in index(whole).items()
    }
    assert data.train_images.content() != whole.train_images.content()
    assert data.train_images.fingerprint() != whole.train_images.fingerprint()


def test_lines_that_name_no_image_are_counted(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("x.txt").write_text("train/cat/3.png\nno.png\ntrain/cat\n")
    folder(root, exclude="x.txt")
    line = "data.exclude: 1 images are left out; 2 of its lines name none\n"
    assert line in capsys.readouterr().out
    Path("x.txt").write_text("no.png\n")
    assert error_of(root, exclude="x.txt") == (
        f"data.exclude: x.txt: none of its 1 lines names an image of {root}"
    )
    Path("x.txt").write_text("")
    assert "x.txt: it is empty, and names no" in error_of(root, exclude="x.txt")


def test_images_beyond_a_limit_may_be_excluded(root: Path) -> None:
    whole = folder(root, limit_per_class=3)
    used = {path for images in index(whole).values() for path, _ in images}
    every = sorted(map(str, root.rglob("*.png")))
    Path("x.txt").write_text(next(path for path in every if path not in used))
    assert index(folder(root, limit_per_class=3, exclude="x.txt")) == index(whole)


@pytest.mark.parametrize(
    ("content", "name", "said"),
    [
        (None, "x.txt", "x.txt: No such file"),
        (b"a,b\n1,2\n", "x.csv", "x.csv needs a column image, file or path, and has a, b"),
        (b"", "x.csv", "x.csv needs a column image, file or path, and has none"),
        (b"\x89PNG\0\0", "x.png", "x.png is no text"),
        (b'image\n"' + b"x" * 200_000, "x.csv", "x.csv: field larger than"),
    ],
)
def test_a_list_that_cannot_be_read(
    content: bytes | None, name: str, said: str, root: Path
) -> None:
    if content is not None:
        Path(name).write_bytes(content)
    assert error_of(root, exclude=name).startswith(f"data.exclude: {said}")


def test_a_class_keeps_an_image(root: Path) -> None:
    Path("x.txt").write_text("".join(f"train/dog/{number}.png\n" for number in range(20)))
    said = error_of(root, exclude="x.txt")
    assert said == "data.exclude: all training images of dog are in x.txt"


@pytest.mark.parametrize(
    "name", ["=1+1", "'a", "-x", "#1", "a,b", 'a"b', "a\nb", os.fsdecode(b"\xff"), " a "]
)
def test_odd_names_are_read_back(name: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = root / "train" / "cat" / f"{name}.png"
    path.write_text("")
    skipped = folder(root, on_bad_image="skip")
    assert len(skipped.skipped) == 1
    write_bad(Path("x.csv"), skipped.skipped)
    assert index(folder(root, exclude="x.csv")) == index(skipped)
    monkeypatch.chdir(path.parent)
    with table(Path("y.csv")) as rows:  # with a mark in front of what would be a formula
        rows.row(("image",))
        rows.row((readable(path.name),))
    assert index(folder(root, exclude="y.csv")) == index(skipped)


def test_excluded_bad_images_are_no_error(root: Path) -> None:
    paths = damage(root)
    Path("x.txt").write_text("\n".join(paths))
    data = folder(root, exclude="x.txt")
    assert data.skipped == [] and sum(map(len, index(data).values())) == 44


def test_ranks_exclude_the_same_images(root: Path) -> None:
    Path("a.txt").write_text("train/cat/3.png")
    Path("b.txt").write_text("train/cat/4.png")

    def build(lists: str) -> Callable[[int], Any]:
        return lambda rank: ImageFolder(
            root=str(root), image_size=4, cache="off", exclude=f"{lists[rank]}.txt"
        )

    assert on_two_ranks(build("aa")) == ["equal", "equal"]
    first, second = on_two_ranks(build("ab"))
    assert first == second and "the ranks have different " in first

"""Whatever lies in a folder, the search for images ends, opens only files, and labels them."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from project.data import ImageFolder, listing
from project.data.decode import open_image
from project.data.listing import Search, class_folders
from project.errors import UserError
from tests.conftest import folder_of

pytestmark = pytest.mark.timeout(20)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    listing._tell.cache_clear()
    return folder_of(tmp_path / "images", [b"cat", b"dog"], [b"%d" % number for number in range(8)])


def loaded(root: Path, **options: Any) -> Any:
    data = ImageFolder(root=str(root), image_size=4, cache="memory", **options)
    data.setup("fit")
    return data


def counts(root: Path) -> list[int]:
    """Images of each class, in all splits."""
    data = loaded(root)
    splits = (data.train_images, data.val_images, data.test_images)
    return [sum(int((s.labels == k).sum()) for s in splits) for k in range(data.num_classes)]


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(path.parent)  # the name of a socket may have 107 bytes
        server.bind(path.name)
        os.chdir(here)


SPECIAL: dict[str, Callable[[Path], Any]] = {
    "pipe": os.mkfifo,
    "socket": a_socket,
    "link to a device": lambda path: path.symlink_to("/dev/zero"),
    "link to a pipe": lambda path: (
        os.mkfifo(path.with_suffix("")),
        path.symlink_to(path.with_suffix("").name),
    ),
}


@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_no_regular_file_is_left_out_and_never_opened(
    kind: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = root / "cat" / "x.png"
    SPECIAL[kind](path)
    assert counts(root) == [8, 8]
    assert capsys.readouterr().out.count(f"{path} is left out: it is not a regular file\n") == 1
    with pytest.raises(UserError, match="x.png: broken image: not a regular file"):
        open_image(path)


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("cat/self", "."),
        ("cat/up", ".."),
        ("cat/above", "../.."),
        ("cat/everything", "/"),
        ("self", "."),
        ("up", ".."),
        ("everything", "/"),
        ("cat/circle", "circle"),
        ("cat/nowhere", "missing"),
    ],
)
def test_a_link_back_changes_nothing(
    link: str, target: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a link in a class to what is above it, 16 images were once 656, with wrong labels."""
    (root / link).symlink_to(target)
    assert counts(root) == [8, 8]
    line = f"{root / link} is left out: it leads to "
    assert capsys.readouterr().out.count(line) == ("circle" not in link and "where" not in link)


def test_links_to_other_places_are_followed(root: Path, tmp_path: Path) -> None:
    other = folder_of(tmp_path / "other", [b"more", b"owl"], [b"1", b"2", b"3"])
    (root / "cat" / "more").symlink_to(other / "more")
    (root / "owl").symlink_to(other / "owl")
    (root / "dog" / "single.png").symlink_to(other / "owl" / "1.png")
    (other / "more" / "back").symlink_to(root / "cat")  # a circle by way of another folder
    (other / "owl" / "up").symlink_to(other)  # above where the link leads
    assert counts(root) == [11, 9, 3]


@pytest.mark.parametrize("link", ["cat/dogs", "hound", "cat/deep/dogs"])
def test_one_folder_in_two_classes_is_an_error(link: str, root: Path) -> None:
    (root / link).parent.mkdir(exist_ok=True)
    (root / link).symlink_to(root / "dog")
    with pytest.raises(UserError, match=r"data.root: .* and .* are one folder, in two classes"):
        loaded(root)


def test_a_folder_that_is_reached_twice_in_a_class_counts_once(root: Path) -> None:
    (root / "cat" / "more").mkdir()
    (root / "cat" / "0.png").rename(root / "cat" / "more" / "0.png")
    (root / "cat" / "again").symlink_to("more")
    assert counts(root) == [8, 8]


def test_a_split_may_be_a_link_to_another(root: Path, tmp_path: Path) -> None:
    root.rename(tmp_path / "train")
    (tmp_path / "test").symlink_to("train")
    data = loaded(tmp_path)
    assert len(data.test_images) == 16 and len(data.train_images) + len(data.val_images) == 16


def test_order_is_that_of_the_names(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b/2.png", "b/a/1.png", "a.png/3.png", "z.png", "b/.hidden/4.png", "c/x.txt"):
        (root / "cat" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "cat" / name).touch()
    found = [f"{number}.png" for number in range(8)]
    found += ["z.png", "a.png/3.png", "b/2.png", "b/a/1.png"]
    assert Search(root).images_below(root / "cat") == [f"{root}/cat/{name}" for name in found]
    monkeypatch.chdir(root / "cat")
    assert Search(Path()).images_below(Path()) == found


@pytest.mark.skipif(not listing._pseudo_devices(), reason="Linux alone tells them")
@pytest.mark.parametrize("place", ["/proc", "/proc/self", "/sys"])
def test_file_systems_of_the_machine_are_refused(place: str, root: Path) -> None:
    with pytest.raises(UserError, match=f"data.root: {place} is of the system, and holds no im"):
        loaded(Path(place))
    (root / "cat" / "link").symlink_to(place)
    assert counts(root) == [8, 8]


def test_folders_without_end_are_one_line(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(listing, "MOST_EMPTY", 30)
    monkeypatch.setattr(listing, "NEWS_SECONDS", 0)
    deep = root / "cat"
    for _ in range(40):
        deep /= "a"
    deep.mkdir(parents=True)
    with pytest.raises(UserError, match=r"doesn't look like folders of images: 31 of the folders"):
        Search(root).images_below(root / "cat")
    assert f"looking for images in {root}: 8 in 2 folders\n" in capsys.readouterr().out


def test_runs_are_not_searched_by_way_of_links(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "1.png").touch()
        (tmp_path / name / "deep" / "root").symlink_to("/")
        (tmp_path / name / "root").symlink_to("/")
    assert class_folders(tmp_path, Path("cache")) == [tmp_path / "a", tmp_path / "b"]

"""Whatever lies in a folder, the search for images ends, opens only files, and labels them."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from project.data import ImageFolder
from project.decoding import formats, listing
from project.decoding.decode import open_image
from project.decoding.listing import Search, look
from project.errors import UserError
from tests.conftest import folder_of

pytestmark = pytest.mark.timeout(20)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    listing.tell.cache_clear()
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
    assert look(tmp_path, Path("cache")).folders == [tmp_path / "a", tmp_path / "b"]


# Which files are images


def readable_formats() -> dict[str, str]:
    """The formats that Pillow writes and reads, by one extension of each."""
    Image.init()
    found = {}
    for end, name in Image.registered_extensions().items():
        if name in Image.SAVE and name in {*Image.OPEN, "MPO"} - {"EPS"}:
            found.setdefault(end, name)
    return found


@pytest.mark.filterwarnings("ignore:IM image format:DeprecationWarning")
def test_every_format_that_pillow_reads_counts(root: Path) -> None:
    """Of 36 such files, 20 were once left out in silence."""
    picture, written = Image.new("RGB", (16, 16), (9, 99, 199)), []
    for end, name in readable_formats().items():
        for mode in ("RGB", "L", "1"):
            try:
                picture.convert(mode).save(path := root / "cat" / f"x{end.upper()}", name)
                open_image(path)
            except (OSError, ValueError, UserError):  # a stub, or another mode
                path.unlink(missing_ok=True)
                continue
            written.append(end)
            break
    assert {".gif", ".jfif", ".jpe", ".jp2", ".tga", ".mpo", ".ico", ".webp"} <= {*written}
    found = Search(root).images_below(root / "cat")
    assert {Path(path).suffix.lower() for path in found} == {".png", *written}


@pytest.mark.parametrize("end", "eps ps mpg mpeg pdf h5 hdf grib bufr wmf emf txt mp4 py".split())
def test_what_is_no_picture_does_not_count(end: str) -> None:
    assert end not in formats.image_extensions()


def test_a_file_without_extension_is_told_by_its_first_bytes(root: Path) -> None:
    picture = Image.new("RGB", (4, 4))
    for number, name in enumerate(("PNG", "JPEG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "QOI")):
        picture.save(root / "cat" / f"000{number}", name)
    picture.save(root / "cat" / "IMG 1.5 m", "PNG")
    picture.save(root / "cat" / "cat.123", "PNG")
    texts = (b"", b"BMW is a car", b"P1 is a text", b"Python", b"%!PS-Adobe", b"/* C */", b"GIF")
    for number, text in enumerate(texts):
        (root / "dog" / f"text{number}").write_bytes(text)
        (root / "dog" / f"long{number}").write_bytes(text + b" and the rest of a text")
    os.mkfifo(root / "dog" / "pipe")
    search = Search(root)
    assert len(search.images_below(root / "cat")) == 8 + 10
    assert len(search.images_below(root / "dog")) == 8
    assert search.left_out == {"": 2 * len(texts) + 1}
    assert loaded(root).class_names == ("cat", "dog")  # and they can be read


def test_files_with_an_extension_are_not_opened(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **options: Any) -> Any:
        raise AssertionError(args)

    (root / "cat" / "a.txt").touch()
    formats.image_extensions()
    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr(Image, "open", refuse)
    search = Search(root)
    assert len(search.images_below(root / "cat")) == 8 and search.left_out == {".txt": 1}


MADE = (  # by systems, NAS systems, editors, version control, Jupyter
    *("@eaDir/1.jpg", "#recycle/1.jpg", "#snapshot/1.jpg", "@Recycle/1.jpg", "lost+found/1.jpg"),
    *("$RECYCLE.BIN/1.jpg", "$Recycle.Bin/1.jpg", "System Volume Information/1.jpg"),
    *("RECYCLER/1.jpg", "__MACOSX/1.jpg", "__MACOSX/._1.jpg", "Network Trash Folder/1.jpg"),
    *("Temporary Items/1.jpg", "__pycache__/1.jpg", "CVS/1.jpg", "_svn/1.jpg", ".git/1.jpg"),
    *(
        ".ipynb_checkpoints/1-checkpoint.jpg",
        ".@__thumb/1.jpg",
        ".thumbnails/1.jpg",
        ".Trash-0/1.j",
    ),
    *("Thumbs.db", "THUMBS.DB", "ehthumbs.db", "desktop.ini", "Desktop.ini", ".DS_Store", "Icon\r"),
    *("._1.jpg", "Picasa.ini", "1.jpg~", "~$1.docx", "#1.jpg#", ".1.jpg.swp"),
)


@pytest.mark.parametrize("place", ["", "cat"])
def test_what_systems_make_never_counts(
    place: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in MADE:
        (root / place / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(root / place / name, "png")
    assert counts(root) == [8, 8]
    assert capsys.readouterr().out == ""


def test_folders_of_a_run_are_no_classes(root: Path) -> None:
    """As with ``--data.root=. --run_dir=.``; without a run, a class may have these names."""
    for name in ("checkpoints", "pictures"):
        (root / name).mkdir()
        Image.new("L", (4, 4)).save(root / name / "1.png")
    assert len(counts(root)) == 4
    (root / "config.yaml").touch()
    (root / ".lock").touch()
    assert counts(root) == [8, 8]


def test_what_is_left_out_is_one_line(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(12):
        (root / "cat" / f"a.x{number}").touch()
        (root / "dog" / f"{number}.TXT").touch()
    (root / "dog" / "README").touch()
    counts(root)
    (line,) = capsys.readouterr().out.splitlines()
    named = ", ".join(f"1 .x{number}" for number in (0, 1, 10, 11, 2, 3, 4, 5, 6))
    assert line == f"{root}: left out: 12 .txt, {named}, 4 others"


# What is predicted


@pytest.fixture
def photos(root: Path) -> Path:
    (root / "cat" / "deep").mkdir()
    for name in ("cat/deep/a.jpg", "cat/b.jpg", "dog/[1].jpg", "c.gif", "cat/0001", "cat/.h.jpg"):
        Image.new("L", (4, 4)).save(root / name, "png")
    (root / "cat" / "notes.txt").touch()
    (root / "cat" / "deep" / "up").symlink_to("..")
    return root


PLACES = [
    ("dog", 9),
    ("dog/[1].jpg", 1),  # a file of this name, and no pattern
    ("cat/0001", 1),
    ("cat/*.jpg", 1),
    ("cat/*", 8 + 2 + 1),  # and what is in the folder that it names
    ("*/[b-z].jpg", 1),
    ("?at/[0-3].png", 4),
    ("**", 8 + 3 + 9 + 1),
    ("**/*", 8 + 3 + 9 + 1),
    ("**/*.jpg", 3),
    ("cat/**/*.jpg", 2),
    ("**/deep/*", 1),
    ("*/**/a.jpg", 1),
    ("*t", 8 + 3),
]


@pytest.mark.parametrize(("place", "count"), PLACES)
def test_what_is_predicted(place: str, count: int, photos: Path) -> None:
    data = ImageFolder(predict_dir=f"{photos}/{place}", classes=("cat", "dog"), image_size=4)
    data.setup("predict")
    assert data.test_images is not None
    paths = [str(data.path(number)) for number in range(len(data.test_images))]
    assert len(paths) == len(set(paths)) == count and paths[0].startswith(str(photos))
    assert len(data.test_images[torch.arange(count)].images) == count


def test_a_prediction_has_no_classes(photos: Path) -> None:
    """A folder that a pattern meets twice is predicted once; errors name what was given."""
    (photos / "twin").symlink_to("cat")
    paths, notes = listing.images_at(f"{photos}/*", "predict")
    assert not [path for path in paths if "twin" in path]
    assert any("twin is left out: " in note for note in notes)


def test_a_pattern_is_of_the_working_directory(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos)
    assert listing.images_at("*/deep/*.jpg", "")[0] == ["cat/deep/a.jpg"]
    assert listing.images_at("**/deep/*.jpg", "")[0] == ["cat/deep/a.jpg"]


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("nowhere", "data.predict_dir: there is no file and no folder .*/nowhere"),
        ("nowhere/*.jpg", r"data.predict_dir: .*/nowhere/\*.jpg names no images$"),
        ("cat/*.txt", r"/cat/\*.txt names no images \(left out: 1 .txt\)"),
        ("empty", "/empty holds no images$"),
    ],
)
def test_nothing_to_predict(place: str, message: str, photos: Path) -> None:
    (photos / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        ImageFolder(predict_dir=f"{photos}/{place}").setup("predict")

"""How folders as people have them are read: a table of layouts, each with what is said of it.

``python -m tests.data.test_layout`` prints the table of docs/data.md.
"""

import unicodedata
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image

from project.data import ImageFolder
from project.data.layout import split_of
from project.decoding.listing import tell
from project.errors import UserError

PAGE = Path(__file__).parent.parent.parent / "docs" / "data.md"
BEGIN, END = "<!-- layouts: made by tests/data/test_layout.py -->\n", "<!-- end of layouts -->"


class Case(NamedTuple):
    """A layout.

    Attributes:
        holds: ``train/cat:2`` is a folder with two images, ``train/a.txt`` another file.
        read: Classes, and the images of training, validation and test; or the error.
        line: What the lines contain; empty where there must be none.
        doc: What docs/data.md says of it; empty where it isn't mentioned.
    """

    holds: str
    read: str
    line: str = ""
    doc: str = ""


CAT_DOG = "train/cat:2 train/dog:1"
LAYOUTS = [
    # classes alone
    Case("cat:2 dog:1", "cat, dog: 3 – –", doc="the classes, which are split"),
    Case("cat/day:1 cat/night:1 dog:1", "cat, dog: 3 – –"),
    Case("1:1 10:1 2:1", "1, 10, 2: 3 – –"),
    Case("cat:2 dog:1 .hidden:1 @eaDir:1 $Recycle.Bin:1 __MACOSX:1", "cat, dog: 3 – –"),
    Case("cat:1 dog:1 readme.md labels.csv", "cat, dog: 2 – –"),
    Case(
        "cat:1 dog:1 .:2", "cat, dog: 2 – –", "left out: 2 images in ROOT itself, which are of no"
    ),
    Case("cat:1 dog", "error: ROOT/dog holds no images; remove it or fill it"),
    Case("cat:1 dog/a.txt dog/b.txt", "error: remove it or fill it (left out: 2 .txt)"),
    Case(
        "cat:1", "error: ROOT needs a subfolder for each of two or more classes, and has only cat"
    ),
    Case(
        ".:3", "error: and has none, but 3 images; name the classes in a table: --data ImageTable"
    ),
    Case("", "error: and has none"),
    # splits, in any spelling
    Case(
        f"{CAT_DOG} val/cat:1 test/dog:1",
        "cat, dog: 3 1 1",
        doc="the splits",
    ),
    Case(CAT_DOG, "cat, dog: 3 – –"),
    Case(
        "Training/cat:2 Training/dog:1 Valid/cat:1 TEST/dog:1",
        "cat, dog: 3 1 1",
        doc="the same, in any usual spelling",
    ),
    Case("TRAIN/cat:1 TRAIN/dog:1 Testing/cat:1", "cat, dog: 2 – 1"),
    Case("trn/cat:1 trn/dog:1 dev/cat:1 tst/dog:1", "cat, dog: 2 1 1"),
    Case("train_set/a:1 train_set/b:1 test_set/a:1 validation_set/b:1", "a, b: 2 1 1"),
    Case("train_images/a:1 train_images/b:1 test_images/a:1", "a, b: 2 – 1"),
    Case("TrainSet/a:1 TrainSet/b:1 testset/a:1", "a, b: 2 – 1"),
    Case("train2017/a:1 train2017/b:1 val2017/a:2", "a, b: 2 2 –"),
    Case("1-train/a:1 1-train/b:1 2-test/a:1", "a, b: 2 – 1"),
    Case("trainval/a:1 trainval/b:1 test/a:1", "a, b: 2 – 1"),
    Case("seg_train/a:1 seg_train/b:1 seg_test/a:1", "a, b: 2 – 1"),
    Case("imagenet_train/a:1 imagenet_train/b:1 val/a:1", "a, b: 2 1 –"),
    Case(
        "seg_train/seg_train/a:1 seg_train/seg_train/b:1 seg_test/seg_test/a:1 seg_pred/seg_pred:3",
        "a, b: 2 – 1",
        "ROOT/seg_train/seg_train is read: ROOT/seg_train holds no other"
        "|ROOT/seg_test/seg_test is read|left out: ROOT/seg_pred, beside the splits",
        doc="the inner folders, with a line each",
    ),
    Case("train/images/a:1 train/images/b:1 test/a:1", "a, b: 2 – 1", "ROOT/train/images is read"),
    Case(f"{CAT_DOG} val/cat:1 valid/cat:1", "error: ROOT/val and ROOT/valid are both the validat"),
    Case(f"{CAT_DOG} Train/cat:1", "error: ROOT/Train and ROOT/train are both the training split"),
    Case("train_1/a:1 train_1/b:1 train_2/a:1 train_2/b:1", "error: are both the training split"),
    Case(f"{CAT_DOG} test/cat:1 test_images:2", "cat, dog: 3 – 1", "left out: ROOT/test_images"),
    Case(
        f"{CAT_DOG} test/owl:1", "error: ROOT/test has classes that the training images lack: owl"
    ),
    Case(
        f"{CAT_DOG} train:2 test:0", "cat, dog: 3 – –", "2 images in ROOT/train itself|no test spl"
    ),
    Case(f"{CAT_DOG} test/cat:1 test:2", "cat, dog: 3 – 1", "2 images in ROOT/test itself"),
    # a split without classes
    Case(
        f"{CAT_DOG} test:4",
        "cat, dog: 3 – –",
        "ROOT/test holds 4 images and no folders of classes, so it is no test split; predict "
        "--data.predict_dir ROOT/test predicts them",
        doc="no test split; a line says how to predict these images",
    ),
    Case(
        f"{CAT_DOG} val:4 test:2", "cat, dog: 3 – –", "so it is no validation split|no test split"
    ),
    Case(f"{CAT_DOG} test/unknown:4", "cat, dog: 3 – –", "ROOT/test/unknown holds 4 images and no"),
    Case(f"{CAT_DOG} test/test:4", "cat, dog: 3 – –", "ROOT/test/test holds 4 images and no"),
    Case(
        "train:5 test:2",
        "error: ROOT/train holds 5 images, and no folders of classes",
        doc="an error that names [`ImageTable`](#labels-in-a-table)",
    ),
    Case("train:5", "error: name their classes in a table: --data ImageTable"),
    # no training split
    Case(
        "val/cat:1 val/dog:1 test/cat:1 test/dog:1",
        "error: has ROOT/test and ROOT/val, and no training split; it must be named ROOT/train",
        doc="an error: nothing is for training",
    ),
    Case("test/cat:1 test/dog:1", "error: ROOT has ROOT/test, and no training split"),
    Case("test:2 val:2", "error: ROOT has ROOT/test and ROOT/val, and no training split"),
    Case("data/cat:1 data/dog:1 test/cat:1", "error: if ROOT/data with 2 folders is it, rename it"),
    Case("data/cat:1 data/dog:1 test:3", "error: if ROOT/data with 2 folders is it, rename it"),
    Case(
        "cat:1 dog:1 test/cat:1 test/dog:1",
        "error: ROOT/test has folders that lie beside it, too: cat, dog; if these are for training",
        doc="an error: move `cat` and `dog` into `train`",
    ),
    # classes that are named as splits are
    Case(
        "cat:1 dog:1 test:1",
        "cat, dog, test: 3 – –",
        "ROOT/test is a class: ROOT holds other classes, and no training split",
        doc="three classes, with a line",
    ),
    Case("bus:1 car:1 train:1", "bus, car, train: 3 – –", "ROOT/train is a class"),
    Case(
        "bus:1 car:1 train/ice:1 train/steam:1", "error: which look like classes; move what isn't"
    ),
    Case("car:1 steam_train:1", "car, steam_train: 2 – –"),
    Case("blood_test:1 steam_train:1", "blood_test, steam_train: 2 – –"),
    Case("cat:1 test/deep:1", "cat, test: 2 – –", "ROOT/test is a class"),
    # beside splits, and around them
    Case(
        f"{CAT_DOG} test/cat:1 holdout/cat:1", "cat, dog: 3 – 1", "left out: ROOT/holdout, beside"
    ),
    Case(f"{CAT_DOG} extra:3", "cat, dog: 3 – –", "left out: ROOT/extra, beside the splits"),
    Case(f"{CAT_DOG} annotations/a.xml", "cat, dog: 3 – –"),
    Case(
        "flowers/rose:1 flowers/tulip:1 LICENSE",
        "rose, tulip: 2 – –",
        "ROOT/flowers is read: no other folder of ROOT holds images",
        doc="the folder inside, with a line",
    ),
    Case("a/b/c/rose:1 a/b/c/tulip:1", "rose, tulip: 2 – –", "ROOT/a/b/c is read"),
    Case("set/train/a:1 set/train/b:1 set/test/a:1", "a, b: 2 – 1", "ROOT/set is read"),
    Case("data/train/a:1 data/train/b:1 info/a.txt", "a, b: 2 – –", "ROOT/data is read: no other"),
    Case("images/a:1 images/b:1 labels/a/1.txt", "a, b: 2 – –", "ROOT/images is read"),
    Case(
        "images:3", "error: ROOT needs a subfolder for each of two or more classes, and has only i"
    ),
    # the wrong way round
    Case(
        "cat/train:1 cat/test:1 dog/train:1 dog/test:1",
        "error: ROOT/cat and ROOT/dog have splits in them; the splits must be outside",
        doc="an error: splits are outside, classes inside",
    ),
    Case("trainA:1 trainB:1 testA:1 testB:1", "error: begin as splits do, and would be read as cl"),
    # files
    Case(
        "cat:2 dog:1 cat/a.txt cat/b.txt dog/c.mp4 dog/LICENSE cat/.x.txt cat/Thumbs.db cat/0.png~",
        "cat, dog: 3 – –",
        "ROOT: left out: 2 .txt, 1 .mp4, 1 without extension",
    ),
    Case(
        f"{CAT_DOG} test/cat:1 test/cat/a.JSON train/dog/b.json",
        "cat, dog: 3 – 1",
        "ROOT: left out: 2 .json",
    ),
]


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4)).save(path)


def made(root: Path, holds: str) -> Path:
    tell.cache_clear()
    root.mkdir(exist_ok=True)
    for one in holds.split():
        name, _, count = one.partition(":")
        if "." in name.strip(".") or name.endswith(("LICENSE", "~")):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text("text")
        else:
            (root / name).mkdir(parents=True, exist_ok=True)
            for number in range(int(count or 0)):
                image(root / name / f"{number}.png")
    return root


def loaded(root: Path, **options: Any) -> Any:
    data = ImageFolder(root=str(root), image_size=4, cache="off", val_fraction=0, **options)
    data.setup("fit")
    return data


@pytest.mark.parametrize("case", LAYOUTS, ids=lambda case: case.holds)
def test_layout(case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = made(tmp_path / "images", case.holds)
    if case.read.startswith("error: "):
        with pytest.raises(UserError) as said:
            loaded(root)
        text = str(said.value).replace(str(root), "ROOT")
        assert case.read.removeprefix("error: ") in text and "\n" not in text
        return
    data = loaded(root, test_fraction=0)
    counts = [len(split) if split else "–" for split in (data.train_images, data.val_images)]
    counts.append(len(data.test_images) if data.test_images else "–")
    assert f"{', '.join(data.class_names)}: {counts[0]} {counts[1]} {counts[2]}" == case.read
    lines = capsys.readouterr().out.replace(str(root), "ROOT").splitlines()
    wanted = [line for line in case.line.split("|") if line]
    assert len(lines) == len(wanted), lines
    for line in wanted:
        assert sum(line in found for found in lines) == 1, lines


def test_the_table_is_long_enough() -> None:
    assert len({case.holds for case in LAYOUTS}) == len(LAYOUTS) >= 40


def documented() -> str:
    """Return the table of docs/data.md."""
    rows = ["| in `FOLDER` | is read as |", "|---|---|"]
    for case in LAYOUTS:
        if case.doc:
            names = [one.partition(":")[0] for one in case.holds.split()]
            rows.append(f"| {' '.join(f'`{name}`' for name in names)} | {case.doc} |")
    return "\n".join(rows) + "\n"


def test_the_page_has_this_table() -> None:
    assert PAGE.read_text().partition(BEGIN)[2].partition(END)[0] == documented()


@pytest.mark.parametrize(
    ("split", "names"),
    [
        ("train", "train Train TRAIN training trn train_set train-images TrainSet traindata"),
        ("train", "train2017 01_train 1.train train_val trainval train_224 ｔｒａｉｎ"),
        ("val", "val Val valid validation validate dev val_set ValidationSet dev-images val2017"),
        ("test", "test Test testing tst test_set test-data TESTSET test_images test1"),
        (None, "trains contest testimony cat seg_train value devil trainee train_labels t latest"),
        (None, "testA holdout unlabeled exam steam_train"),
    ],
)
def test_spelling(split: str | None, names: str) -> None:
    assert {name: split_of(name) for name in names.split()} == dict.fromkeys(names.split(), split)


def test_names_are_compared_in_one_form(tmp_path: Path) -> None:
    """What macOS and some archives write differs from what a keyboard does."""
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    assert composed != decomposed
    for place in (f"train/{composed}", f"train/{composed}/more", "train/owl", f"test/{decomposed}"):
        image(tmp_path / place / "1.png")
    assert loaded(tmp_path).class_names == (composed, "owl")
    for classes in ((decomposed, "owl"), ("owl", composed)):
        data = loaded(tmp_path, classes=classes)
        assert set(data.class_names) == {composed, "owl"}
        assert data.test_images.labels.tolist() == [classes.index(min(classes))]
    with pytest.raises(UserError, match="has a class twice"):
        loaded(tmp_path, classes=(composed, decomposed))
    image(tmp_path / "train" / decomposed / "1.png")
    with pytest.raises(UserError, match=f"two folders of .*train read as {composed}; rename one"):
        loaded(tmp_path)


if __name__ == "__main__":
    print(documented(), end="")

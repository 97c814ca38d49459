"""The examples of docs/extending.md run as they stand there."""

import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from project.cli import main
from tests.conftest import Run

GUIDE = (Path(__file__).parent.parent / "docs" / "extending.md").read_text()
SECTIONS = dict(section.split("\n", 1) for section in GUIDE.split("\n## ")[1:])
QUICK = ("--trainer.max_epochs=1", "--trainer.logger=false")
LOGGED = {
    "A callback": {"train/grad_2.0_norm_total", "train/grad_2.0_norm/network.head.weight"},
    "A metric": {"val/top3", "test/top3", "val/auroc", "test/auroc"},
}


def blocks(section: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A folder that modules are imported from, as the working directory with ``python -m``."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("my_"):
            del sys.modules[name]


def write_files(section: str, folder: Path) -> list[str]:
    """Write the blocks of code to the files that their first lines name."""
    names = []
    for block in blocks(section, "python") + blocks(section, "yaml"):
        names.append(block.splitlines()[0].removeprefix("# "))
        (folder / names[-1]).write_text(block)
    return names


@pytest.mark.parametrize("title", SECTIONS)
def test_example(
    title: str,
    importable: Path,
    run: Callable[..., Run],
    capfd: pytest.CaptureFixture[str],
) -> None:
    section = SECTIONS[title]
    module = Path(write_files(section, importable)[0]).stem
    (commands,) = blocks(section, "sh")
    for line in commands.splitlines():
        args = shlex.split(line.removeprefix("python -m project "))
        if any(arg.endswith(".help") for arg in args):
            with pytest.raises(SystemExit) as exit_:
                main(args)
            assert exit_.value.code == 0
            assert f"={module}." in capfd.readouterr().out
            continue
        finished = run(*args, *QUICK)
        config = (finished.path / "config.yaml").read_text()
        assert f"{module}." in config
        assert {"val/loss", "test/loss", *LOGGED.get(title, ())} <= set(finished.summary)
        assert finished.best["state_dict"]
        saved = yaml.safe_load(config)
        assert saved["data"]["class_path"] in ("project.data.Digits", "my_data.Stripes")


def test_guide_covers_every_extension_point() -> None:
    assert list(SECTIONS) == [
        *("A network", "A data set", "An approach", "A callback", "An augmentation", "A loss"),
        *("A metric", "A cut into layer groups", "A pretrained backbone from elsewhere"),
    ]


def test_imported_class_has_a_short_name(
    importable: Path, run: Callable[..., Run], fails: Callable[..., str]
) -> None:
    write_files(SECTIONS["A network"], importable)
    __import__("my_network")
    finished = run("fit", "--model.network", "Tiny", *QUICK)
    assert "my_network.Tiny" in (finished.path / "config.yaml").read_text()
    again = ("test", "--ckpt_path", finished.path, "--trainer.logger=false")
    assert fails(*again).endswith("give --trust my_network")
    tested = run(*again, "--trust=my_network")
    assert tested.summary["test/loss"] == finished.summary["test/loss"]
    assert "trust" not in (tested.path / "config.yaml").read_text()

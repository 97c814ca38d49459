"""What README and docs name is there: links, sections, configs and commands."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from lightning.pytorch.cli import LightningCLI

from project.cli import COMMANDS
from project.environment import PACKAGE
from tests.conftest import CONFIGS

ROOT = CONFIGS.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def links(page: Path) -> Iterator[tuple[str, str]]:
    """Yield file and section of each link that stays in the repository."""
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if "://" not in target:
            file, _, section = target.partition("#")
            yield file, section


def sections(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    broken = []
    for file, section in links(page):
        target = page.parent / file if file else page
        if not target.exists() or (section and section not in sections(target)):
            broken.append(f"{file}#{section}")
    return broken


def unknown_configs(text: str) -> list[str]:
    """Return what follows ``--config`` and is no shipped config."""
    named = re.findall(r"--config[ =](configs/\S+?\.yaml)", text)
    return [path for path in named if not (ROOT / path).is_file()]


def unknown_commands(text: str) -> list[str]:
    """Return what follows ``python -m`` and the package, and is no command."""
    known = {*LightningCLI.subcommands(), *COMMANDS}
    words = re.findall(rf"python -m {PACKAGE} +([a-z][\w-]*)", text)
    return [word for word in words if word not in known]


@every_page
def test_links_resolve(page: Path) -> None:
    assert broken_links(page) == []


@every_page
def test_configs_and_commands_exist(page: Path) -> None:
    text = page.read_text()
    assert unknown_configs(text) == []
    assert unknown_commands(text) == []


@every_page
def test_nothing_is_left_of_a_merge(page: Path) -> None:
    assert not re.search("^(<{7}|={7}$|>{7})", page.read_text(), re.MULTILINE)


def test_architecture_names_every_module() -> None:
    """Of the package itself and of the folder with the most; others say it in their own way."""
    text = (ROOT / "docs/architecture.md").read_text().partition("## Where things are")[2]
    folders = (ROOT / PACKAGE, ROOT / PACKAGE / "callbacks")
    modules = [path for folder in folders for path in folder.glob("[a-z]*.py")]
    assert [path.name for path in modules if not re.search(rf"\b{path.stem}\b", text)] == []


def test_a_page_names_every_config_in_a_table() -> None:
    page = (ROOT / "docs" / "configs.md").read_text()
    rows = re.findall(r"^\| `(configs/[^`]+)` \|", page, re.MULTILINE)
    shipped = {path.relative_to(ROOT).as_posix() for path in CONFIGS.rglob("*.yaml")}
    made = {path for path in shipped if Path(path).name.startswith("recommended")}
    assert sorted(rows) == sorted(shipped - made)


def test_what_is_wrong_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A title\n[a](#a-title) [b](#other) [c](gone.md) [d](https://e.org/gone.md)\n"
    )
    assert broken_links(page) == ["#other", "gone.md#"]
    text = f"`python -m {PACKAGE} fix --config configs/gone.yaml`, `python -m {PACKAGE} plan`"
    assert unknown_commands(text) == ["fix"]
    assert unknown_configs(text) == ["configs/gone.yaml"]

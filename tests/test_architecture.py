"""Imports point one way, and no layer names another's classes by their paths."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from project.environment import PACKAGE
from tests.conftest import CONFIGS

ROOT = CONFIGS.parent / PACKAGE
LAYERS = (  # from top to bottom; a module may import what is below it, or beside it in its folder
    ("cli",),
    ("commands",),
    ("classifier",),
    ("lightning_cli",),
    ("opening", "run_options"),
    ("resuming",),
    ("parsing",),
    ("mistakes",),
    ("length",),
    ("callbacks",),
    ("finetuning",),
    ("approaches",),
    ("data",),
    ("networks",),
    ("exported",),
    ("decoding",),
    ("tracking", "metrics_file"),
    ("wandb_logger",),
    ("runs",),
    ("class_paths", "failures"),
    ("trust",),
    ("checkpoints", "csv_text"),
    ("artifacts", "checkpoint_format", "saving", "upstream"),
    ("run_files",),
    ("console", "durations", "environment", "config_text"),
    ("errors", "randomness", "signals"),
)
PLACES = {name: place for place, layer in enumerate(LAYERS) for name in layer}
MODULES = sorted(path for path in ROOT.rglob("*.py") if path.parent != ROOT or path.stem in PLACES)


def imported(path: Path) -> Iterator[str]:
    """Yield the modules of the package that a module imports, by their names without it."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
            if node.module == PACKAGE:
                names = [f"{PACKAGE}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        yield from (name.partition(".")[2] for name in names if name.startswith(f"{PACKAGE}."))


def place(path: Path) -> int:
    return PLACES[path.relative_to(ROOT).parts[0].removesuffix(".py")]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    own = path.relative_to(ROOT).parts[0]
    for name in imported(path):
        other = name.partition(".")[0]
        if other in PLACES and other != own:
            assert PLACES[other] > place(path), f"{path.relative_to(ROOT)} imports {name}"


def test_every_module_has_a_layer() -> None:
    names = {path.stem if path.suffix else path.name for path in ROOT.iterdir()}
    assert names - {"__init__", "__main__", "__pycache__"} == set(PLACES)


def _name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_no_circle() -> None:
    """Also within a folder, where the layers say nothing."""
    graph = {_name(path): set(imported(path)) for path in ROOT.rglob("*.py")}

    def follow(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " → ".join((*way, module))
        for name in graph.get(module, ()):
            if name in graph and name not in done:
                follow(name, (*way, module))
        done.add(module)

    done: set[str] = set()
    for module in graph:
        follow(module, ())


def test_networks_know_torch_alone() -> None:
    for path in (ROOT / "networks").glob("*.py"):
        code = re.sub(r'""".*?"""', "", path.read_text(), flags=re.DOTALL)
        assert not re.search(r"\b(lightning|jsonargparse|wandb)\b", code), path


def test_no_string_is_a_path_into_the_package() -> None:
    """It would not survive a rename, a move or a subclass."""
    for path in ROOT.rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        keys = {id(key) for node in nodes if isinstance(node, ast.Dict) for key in node.keys}
        for node in nodes:
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not re.match(rf"{PACKAGE}(\.\w+)+$", node.value), (path, node.value)
                assert node.value != PACKAGE or id(node) in keys, path  # W&B has such an option
                assert not re.search(rf"-m {PACKAGE}\b", node.value) or "``" in node.value, path

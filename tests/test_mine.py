"""``make mine`` in copies of the tracked files: what it leaves runs, and is what was asked for."""

import ast
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tools.mine import ITSELF, PARTS, files, renamed, without_command, without_marks

ROOT = Path(__file__).parent.parent
NAME = "flower_kinds"
PARTS_TEXT = ", ".join(PARTS)
VARIANTS = [
    *((), ("compare",), ("recommend",), ("inspect",), ("benchmarks",), ("docker", "github")),
    *(("sweep",), ("compare", "inspect"), ("compare", "sweep"), tuple(PARTS)),
]
IMPORT_ALL_AND_HELP = """
import importlib, pathlib, sys
for file in sorted(pathlib.Path(sys.argv[1]).rglob("*.py")):
    if file.stem != "__main__":
        importlib.import_module(".".join(file.with_suffix("").parts).removesuffix(".__init__"))
importlib.import_module(f"{sys.argv[1]}.cli").main(["--help"])
"""
ORDINARY = re.compile(  # lines that may hold the word "project"
    r"\b(?i:the|this|a|an|your|own|each|other|same|whole) project\b|\bProject\b|^project's "
    r"|^\[project[].]|/project/|\bproject['\"]?[=:] ?['\"]?[a-z]|[.-]project\b"
)


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@localhost", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def copy(folder: Path) -> Path:
    """Copy the tracked files as they are now, and commit them."""
    for name in git(ROOT, "ls-files", "-z").split("\0")[:-1]:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=the template")
    return folder


def mine(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "tools/mine.py", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def python(folder: Path, *arguments: str) -> str:
    """Run Python as a fresh clone would, and return what it prints."""
    finished = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert finished.returncode == 0, finished.stdout[-5000:]
    return finished.stdout


@pytest.fixture(scope="module", params=VARIANTS, ids=lambda parts: "+".join(parts) or "all_kept")
def variant(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, tuple[str, ...]]:
    """A copy that was made one's own, and the parts that it was made without."""
    folder = copy(tmp_path_factory.mktemp("clone"))
    finished = mine(folder, NAME, *request.param)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("\n") == 1, finished.stdout
    return folder, request.param


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy that stays as it is."""
    return copy(tmp_path_factory.mktemp("template"))


@cache
def names_of(file: Path) -> set[str]:
    """Return what can be imported from a module."""
    names = {path.stem for path in file.parent.iterdir()} if file.stem == "__init__" else set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


@cache
def imports(folder: Path) -> list[tuple[Path, str, set[str]]]:
    """Return what the files in a folder import: file, module, names."""
    found = []
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                found.append((file, node.module, {alias.name for alias in node.names}))
            elif isinstance(node, ast.Import):
                found += [(file, alias.name, set()) for alias in node.names]
    return found


@pytest.mark.sampled(6)
def test_the_name_is_everywhere(variant: tuple[Path, tuple[str, ...]]) -> None:
    folder, _ = variant
    found = git(folder, "grep", "--word-regexp", "-h", "project").splitlines()
    assert not [line for line in found if not ORDINARY.search(line.lstrip("#* "))]
    assert not (folder / "project").exists()
    assert "PROJECT_" not in "".join(path.read_text() for path in folder.rglob("*.py"))
    assert "FLOWER_KINDS_TRACEBACK" in (folder / NAME / "cli.py").read_text()
    assert "project: " not in (folder / "pyproject.toml").read_text()
    assert '{"project": "image-classification",' in "".join(
        path.read_text() for path in (folder / NAME).rglob("*.py")
    )


@pytest.mark.sampled(6)
def test_no_trace_of_itself_or_of_marks_is_left(variant: tuple[Path, tuple[str, ...]]) -> None:
    folder, _ = variant
    pattern = r"(#|<!--) part: |<!-- end -->|^ *# end$|make mine|tools/mine|test_mine"
    found = subprocess.run(["git", "grep", "--line-number", "-E", pattern], cwd=folder)
    assert found.returncode == 1  # nothing
    assert not (folder / "tools").exists()
    assert not git(folder, "ls-files", "--others", "--exclude-standard")
    assert not git(folder, "diff", "--stat")  # all of it is staged, and git reset --hard undoes it


@pytest.mark.sampled(6)
def test_imports_resolve(variant: tuple[Path, tuple[str, ...]]) -> None:
    folder, _ = variant
    broken = []
    for file, module, names in imports(folder):
        if not (folder / module.partition(".")[0]).is_dir():
            continue
        path = folder / module.replace(".", "/")
        target = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if not target.is_file() or not names <= names_of(target):
            broken.append((str(file), module, names))
    assert not broken


@pytest.mark.sampled(6)
def test_dependencies_are_those_of_what_is_left(variant: tuple[Path, tuple[str, ...]]) -> None:
    folder, parts = variant
    needed = {name for part in PARTS.keys() - parts for name in PARTS[part].dependencies}
    gone = {name for part in parts for name in PARTS[part].dependencies} - needed
    text = (folder / "pyproject.toml").read_text()
    assert not [name for name in gone if f'"{name}' in text]
    assert not [found for found in imports(folder) if found[1].partition(".")[0] in gone]


@pytest.mark.sampled(6)
def test_markdown_links_to_what_is_there(variant: tuple[Path, tuple[str, ...]]) -> None:
    folder, _ = variant
    for file in folder.rglob("*.md"):
        for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", file.read_text()):
            assert (file.parent / link).exists(), f"{file.name}: {link}"


@pytest.mark.sampled(6)
def test_text_does_not_run_what_is_gone(variant: tuple[Path, tuple[str, ...]]) -> None:
    folder, parts = variant
    needed = {start for part in PARTS.keys() - parts for start in PARTS[part].lines}
    starts = {start for part in parts for start in PARTS[part].lines} - needed
    commands = [start for start in starts if " " in start.strip()]
    for command in commands:
        command = renamed(command, NAME)
        found = subprocess.run(["git", "grep", "-nF", command], cwd=folder, capture_output=True)
        assert not found.stdout, found.stdout.decode()
    for file in folder.rglob("*.md"):
        assert not [part for part in parts if f"`{part}`" in file.read_text()], file


@pytest.mark.sampled(6)
def test_lint(variant: tuple[Path, tuple[str, ...]]) -> None:
    folder, _ = variant
    python(folder, "-m", "ruff", "check", ".")
    python(folder, "-m", "ruff", "format", "--check", ".")


@pytest.mark.sampled(6)
def test_the_table_of_commands_has_what_is_there(variant: tuple[Path, tuple[str, ...]]) -> None:
    folder, parts = variant
    table = (folder / NAME / "cli.py").read_text()
    for command in ("compare", "recommend", "inspect", "sweep"):
        assert (f'"{command}":' in table) == (command not in parts)
        assert (folder / NAME / "commands" / command).exists() == (command not in parts)


@pytest.mark.slow
def test_every_module_and_the_help_work_without_the_parts(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    mine(folder, NAME, *PARTS)
    out = python(folder, "-c", IMPORT_ALL_AND_HELP, NAME)
    assert f"python -m {NAME}" in out
    assert "predict" in out
    assert not [part for part in PARTS if part in out]


@pytest.mark.sampled(6)
def test_no_module_is_left_that_nothing_imports(variant: tuple[Path, tuple[str, ...]]) -> None:
    folder, _ = variant
    used = set()
    for file, module, names in imports(folder):
        if NAME in file.relative_to(folder).parts:
            used |= {module, *(f"{module}.{name}" for name in names)}
    modules = (path.relative_to(folder).with_suffix("") for path in (folder / NAME).rglob("*.py"))
    ours = {".".join(path.parts) for path in modules if not path.stem.startswith("__")}
    assert not ours - used


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "parts",
    [(), ("compare", "recommend", "inspect", "sweep", "benchmarks")],
    ids=["all_kept", "without"],
)
def test_what_is_left_passes_its_own_checks(tmp_path: Path, parts: tuple[str, ...]) -> None:
    folder = copy(tmp_path)
    mine(folder, NAME, *parts)
    python(folder, "-m", "mypy")
    python(folder, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider")


def test_every_file_of_a_part_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for part in [*PARTS.values(), ITSELF]:
        assert not [pattern for pattern in part.paths if not list(Path().glob(pattern))]
        assert files(part)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "NAME: '' must be a lower-case Python name"),
        (("My-Package",), "NAME: 'My-Package' must be a lower-case Python name"),
        (("class",), "NAME: 'class' must be"),
        (("_x",), "NAME: '_x' must be"),
        (("json",), "NAME: 'json' is a module of Python's own"),
        (("test",), "NAME: 'test' is a module of Python's own"),
        (("torch",), "NAME: 'torch' is another package"),
        (("lightning",), "NAME: 'lightning' is another package"),
        (("yaml",), "NAME: 'yaml' is another package"),
        (("tests",), "NAME: 'tests' is in this folder already"),
        (("benchmarks",), "NAME: 'benchmarks' is in this folder already"),
        (("project",), "NAME: 'project' is in this folder already"),
        (("data",), "NAME: 'data' is a folder that .gitignore keeps out"),
        ((NAME, "compare", "sweets"), f"WITHOUT: there is no part sweets; parts are {PARTS_TEXT}"),
    ],
)
def test_what_it_refuses(template: Path, arguments: tuple[str, ...], message: str) -> None:
    finished = mine(template, *arguments)
    assert finished.returncode == 1
    assert finished.stderr.startswith(f"error: {message}")
    assert finished.stderr.count("\n") == 1
    assert not git(template, "status", "--porcelain")


def test_uncommitted_changes_are_not_lost(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    (folder / "mine.txt").write_text("mine")
    finished = mine(folder, NAME)
    assert finished.returncode == 1
    assert finished.stderr.startswith("error: commit or stash your changes first")
    assert (folder / "project").is_dir()


def test_git_undoes_it(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    before = sorted(path for path in folder.rglob("*") if ".git" not in path.parts)
    cache = folder / "project" / "__pycache__" / "cli.cpython-311.pyc"
    cache.parent.mkdir()
    cache.write_bytes(b"")
    assert mine(folder, NAME, *PARTS).returncode == 0
    git(folder, "reset", "--hard")
    ruff = folder / ".ruff_cache"
    shutil.rmtree(ruff, ignore_errors=True)
    assert sorted(path for path in folder.rglob("*") if ".git" not in path.parts) == before


def test_marks_name_parts() -> None:
    known = {*PARTS, "mine"}
    for name in git(ROOT, "grep", "-lE", "(#|<!--) part: ").split():
        if name not in ("tools/mine.py", "tests/test_mine.py"):
            for parts in re.findall(r"(?:#|<!--) part: ([\w ]+)", (ROOT / name).read_text()):
                assert set(parts.split()) <= known, name


def test_marks() -> None:
    text = (
        "a\n<!-- part: compare -->\nb\n  # part: recommend\nc\n# end\n<!-- end -->\n"
        "| d | <!-- part: recommend --> |\ne  # part: compare\n# end\n"
    )
    assert without_marks(text, set()) == "a\nb\nc\n| d | |\ne\n# end\n"
    assert without_marks(text, {"recommend"}) == "a\nb\ne\n# end\n"
    assert without_marks(text, {"compare"}) == "a\n| d | |\n# end\n"
    both = "<!-- part: compare recommend -->\nboth\n<!-- end -->\n"
    assert without_marks(both, {"recommend"}) == ""
    with pytest.raises(ValueError, match="no end"):
        without_marks("# part: compare\nb\n", set())


@pytest.mark.parametrize(
    "stays",
    [
        "what this project is",
        "# Project layout",
        "of the\n# project, and of the project.",
        "[project]\n[project.scripts]",
        "https://pypi.org/project/lightning/",
        'WandbLogger(project="digits")',
        "init_args: {project: digits}",
        '{"project": "digits"}',
        'init_args["project"]',
        'init_args.get("project")',
        "--trainer.logger.project digits --project digits",
        "pyproject.toml and projects",
    ],
)
def test_words_and_options_stay(stays: str) -> None:
    assert renamed(stays, "new") == stays


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("from project import x; import project", "from new import x; import new"),
        ("the project.data.Digits of the project/data", "the new.data.Digits of the new/data"),
        ("- python\n- -m\n- project\n- fit", "- python\n- -m\n- new\n- fit"),
        ('"-m", "project", "fit"', '"-m", "new", "fit"'),
        ('packages = ["project"]', 'packages = ["new"]'),
        ('{"project": "0.1.0"}', '{"new": "0.1.0"}'),
        ('{"project": __version__}', '{"new": __version__}'),
        ("[`a`](../project/a.py), the `project` package", "[`a`](../new/a.py), the `new` package"),
        ('project = "project.cli:main"', 'new = "new.cli:main"'),
        ("docker build -t project .", "docker build -t new ."),
        ("PROJECT_TRACEBACK=1 python -m project", "NEW_TRACEBACK=1 python -m new"),
    ],
)
def test_oursare_replaced(old: str, new: str) -> None:
    assert renamed(old, "new") == new


def test_a_command_leaves_the_command_line() -> None:
    source = (
        "from project.commands.compare import (\n    compare,\n)\n"
        "from project.commands.plan import plan\n\n"
        'COMMANDS = {"plan": plan, "compare": compare}\n'
    )
    assert without_command(source, "compare") == (
        'from project.commands.plan import plan\n\nCOMMANDS = {"plan": plan, }\n'
    )

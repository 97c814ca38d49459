"""Make a clone one's own: rename the package, leave out parts, and remove this script.

``make mine NAME=flowers WITHOUT="compare benchmarks"`` runs it; ``git reset --hard`` undoes it.

A part goes whole: ``PARTS`` says which files and dependencies are its own. What several parts list
goes when all of them are left out. Text about a part, in a file that stays, is marked:

* ``<!-- part: compare recommend -->`` or ``# part: compare recommend`` alone on a line begins a
  block, ``<!-- end -->`` or ``# end`` ends it; blocks may be nested.
* The same in a line with other text marks that line, such as a row of a table.

Marked text goes when any of its parts is left out, and a file that has nothing else goes with it.
Marks of parts that are kept are removed.
"""

import ast
import importlib.util
import keyword
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Collection
from dataclasses import dataclass
from os import chdir
from pathlib import Path

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Part:
    """What belongs to a part.

    Attributes:
        paths: Files and folders, as patterns of ``Path.glob``.
        dependencies: Packages in ``pyproject.toml`` that nothing else needs.
        lines: What a line begins with that goes from any file, after blanks and ``# ``.
    """

    paths: tuple[str, ...]
    dependencies: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()


SHARED = ("project/commands/preparation.py",)
CHILDREN = ("project/commands/child_runs.py",)
CURVES = ("project/commands/learning_curve.py",)
FEATURES = tuple(f"project/commands/{name}.py" for name in ("duplicates", "probing", "suspects"))
PARTS = {
    "compare": Part(
        (
            *("project/commands/compare", "configs/compare.yaml", "configs/compare_*.yaml"),
            *("configs/compare/*.yaml", "tests/commands/test_compare*.py"),
            *("tests/commands/made_up.py", "docs/report.png", *SHARED, *CURVES, *CHILDREN),
        ),
        lines=("python -m project compare", '"project.commands.compare"'),
    ),
    "recommend": Part(
        (
            *("project/commands/recommend", "tests/commands/test_recommend*.py"),
            *(*SHARED, *CURVES, *FEATURES),
        ),
        lines=("python -m project recommend", "/configs/recommended"),
    ),
    "inspect": Part(
        (
            *("project/commands/inspect", "tests/commands/test_inspect*.py"),
            *(*SHARED, *FEATURES),
        ),
        lines=("python -m project inspect", '"project.commands.inspect"'),
    ),
    "sweep": Part(
        (
            *("project/commands/sweep", "configs/sweeps", "tests/commands/test_sweep*.py"),
            *("docs/sweeps.md", "project/upstream/optuna.py", *CHILDREN),
        ),
        dependencies=("optuna",),
        lines=("python -m project sweep", "sweep = ["),
    ),
    "benchmarks": Part(
        ("benchmarks", "tests/test_benchmarks.py"),
        lines=("make bench", "python -m benchmarks", "benchmarks/ ", ".venv-bench"),
    ),
    "docker": Part(
        ("Dockerfile", ".dockerignore", "examples/serve/Dockerfile"),
        lines=("docker build", "docker run"),
    ),
    "github": Part((".github",)),
}
ITSELF = Part(("tools", "tests/test_mine.py"), lines=("make mine",))

MARK = re.compile(r" *(?:<!--|#) (?:part: (?P<parts>[\w ]+?)|end)(?: *-->|$)", re.MULTILINE)

KEPT = r"""  # where "project" is not the name of the package
    \b(?i:an?|the|this|that|each|your|our|own|whole|same|other)[\s#]+project\b(?!/|\.\w)  # a word
  | https?://\S+
  | ^\[project\b                                  # tables of pyproject.toml
  | (?:(?<![./])\.|--)project\b                   # an option of W&B: init_args.project, --project
  | \bproject(?:=|:\s)                            # the same as argument, or in YAML
  | ["']project["']:(?!\s*(?:["']\d|\w*version))  # the same in a dict, unless that holds versions
  | (?:\w\[|\b(?:get|pop|setdefault)\()["']project["']
"""
PACKAGE = re.compile(rf"(?P<kept>{KEPT})|\bproject\b", re.VERBOSE | re.MULTILINE)


def check(name: str, left_out: Collection[str]) -> None:
    """Raise ValueError, with what is wrong, unless both can be done here."""
    table = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    needed = sum(table["optional-dependencies"].values(), table["dependencies"])
    packages = {re.split(r"[^\w-]", one)[0].lower().replace("-", "_") for one in needed}
    if not re.fullmatch("[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        wrong = "must be a lower-case Python name, such as NAME=my_package"
    elif name in sys.stdlib_module_names or name == "test":
        wrong = "is a module of Python's own; choose another name"
    elif Path(name).exists():
        wrong = "is in this folder already; choose another name"
    elif name in packages or importlib.util.find_spec(name):
        wrong = "is another package, which could then not be imported; choose another name"
    elif git("check-ignore", f"{name}/", check=False):
        wrong = "is a folder that .gitignore keeps out of git; choose another name"
    else:
        wrong = ""
    if wrong:
        raise ValueError(f"NAME: {name!r} {wrong}")
    if unknown := set(left_out) - set(PARTS):
        raise ValueError(
            f"WITHOUT: there is no part {', '.join(sorted(unknown))}; parts are {', '.join(PARTS)}"
        )
    if git("status", "--porcelain"):
        raise ValueError("commit or stash your changes first (git status): this edits every file")


def git(*arguments: str, check: bool = True) -> str:
    """Return what git prints."""
    finished = subprocess.run(["git", *arguments], capture_output=True, text=True)
    if check and finished.returncode:
        raise ValueError(f"git {arguments[0]}: {finished.stderr.strip()} (it needs a git clone)")
    return finished.stdout


def files(*parts: Part) -> set[Path]:
    """Return the files of parts."""
    found = [path for part in parts for pattern in part.paths for path in Path().glob(pattern)]
    inside = [file for path in found if path.is_dir() for file in path.rglob("*")]
    return {path for path in [*found, *inside] if path.is_file()}


def without_marks(text: str, left_out: set[str]) -> str:
    """Return the text without marks, and without what they mark of parts that are left out."""
    kept, blocks = [], []  # blocks: for each that is open, whether it goes
    for line in text.splitlines(keepends=True):
        mark = MARK.search(line)
        goes = bool(mark and mark["parts"] and left_out.intersection(mark["parts"].split()))
        if mark and mark[0].strip() == line.strip():
            if mark["parts"]:
                blocks.append(goes)
            elif blocks:
                blocks.pop()
            else:
                kept.append(line)  # some other "# end"
        elif not goes and not any(blocks):
            kept.append(MARK.sub("", line) if mark and mark["parts"] else line)
    if blocks:
        raise ValueError("a marked block has no end")
    return "".join(kept)


def without_command(source: str, command: str) -> str:
    """Return the source of ``cli.py`` without the import of a command, and without its entry."""
    lines = source.splitlines(keepends=True)
    for statement in reversed(ast.parse(source).body):
        if getattr(statement, "module", None) == f"project.commands.{command}":
            del lines[statement.lineno - 1 : statement.end_lineno]
    return re.sub(rf'"{command}": \w+,?\s*', "", "".join(lines))


def without_parts(
    path: Path, text: str, left_out: dict[str, Part], kept: Collection[Part] = ()
) -> str:
    """Return a file's text without what is about parts that are left out, and none that is kept."""
    needed = {name for part in kept for name in (*part.dependencies, *part.lines)}
    before, text = text, without_marks(text, set(left_out))
    for name, part in left_out.items():
        for start in set(part.lines) - needed:
            text = re.sub(rf"(?m)^(?:# | +|\t)?{re.escape(start)}.*\n?", "", text)
        if path == Path("project/cli.py"):
            text = without_command(text, name)
        if path == Path("pyproject.toml"):
            for package in set(part.dependencies) - needed:
                text = re.sub(rf'(?m)^ *"{package}\W[^"]*",\n|"{package}\W[^"]*", ', "", text)
    return text if text == before else re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


def renamed(text: str, name: str) -> str:
    """Return the text with the name of the package replaced, and that of its variable."""
    text = PACKAGE.sub(lambda match: match["kept"] or name, text)
    return text.replace("PROJECT_", f"{name.upper()}_")


def remove(path: Path) -> None:
    """Remove a file, and the folders that then hold no file but caches of Python."""
    path.unlink()
    for folder in path.parents:
        if any(x.is_file() and x.suffix != ".pyc" for x in folder.rglob("*")):
            break
        shutil.rmtree(folder)


def tidy() -> None:
    """Sort the imports and break the lines as the new name asks for."""
    if importlib.util.find_spec("ruff") is None:
        print("ruff isn't installed here: run `ruff check --fix . && ruff format .`")
        return
    for arguments in (
        ("format",),
        ("check", "--fix", "--exit-zero"),
        ("format",),
        ("check", "--select=E501", "--add-noqa"),  # text that only a person can break
    ):
        ruff = [sys.executable, "-m", "ruff", *arguments, "--silent", "."]
        subprocess.run(ruff, check=True)


def forget_installation() -> None:
    """Let make install the package again, under its new name."""
    Path(".venv/installed").unlink(missing_ok=True)
    shutil.rmtree("project.egg-info", ignore_errors=True)
    if Path(".venv/bin/python").exists():
        pip = [".venv/bin/python", "-m", "pip", "uninstall", "--quiet", "--yes", "project"]
        subprocess.run(pip)


def main(name: str = "", *without: str) -> None:
    """Do all of it in the clone that holds this script.

    Args:
        name: New name of the package.
        without: Parts to leave out.

    Raises:
        ValueError: If the arguments or the state of the clone don't allow it; nothing was changed.
    """
    chdir(ROOT)
    check(name, without)
    left_out = {part: PARTS[part] for part in without}
    kept = [part for key, part in PARTS.items() if key not in left_out]
    left_out["mine"] = ITSELF
    gone = files(*left_out.values()) - files(*kept)
    contents = {}
    for path in map(Path, git("ls-files", "-z").split("\0")[:-1]):
        try:
            text = path.read_text(encoding="utf-8")
            shorter = without_parts(path, text, left_out, kept)
        except UnicodeDecodeError:
            continue
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        if text.strip() and not shorter.strip():
            gone.add(path)
        contents[path] = renamed(shorter, name)
    for path in contents.keys() - gone:
        path.write_text(contents[path], encoding="utf-8")
    for path in gone:
        remove(path)
    for cache in list(Path("project").rglob("__pycache__")):
        shutil.rmtree(cache)  # git reset would leave it, and with it the folder
    Path("project").rename(name)
    tidy()
    forget_installation()
    git("add", "--all")
    print(f"the package is {name} now: keep it with `git commit`, undo it with `git reset --hard`")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except ValueError as error:
        sys.exit(f"error: {error}")

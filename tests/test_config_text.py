"""Whatever a config or a command line gives is read again as it was."""

import math
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from jsonargparse import Namespace

from project import config_text
from project.environment import PACKAGE
from project.lightning_cli import ProjectCLI
from tests.conftest import CONFIGS, Run

pytestmark = pytest.mark.filterwarnings("ignore")
ODD = (
    *("1e3", "77950e8", "#1", "&a", "~", "yes", "no", "off", "1_000", "0x1f", "1:30", "=", "<<"),
    *("- a", "a: b", "a:", "a #b", "[a]", "{a: b}", "{a}", "true", "3", "-", "", " ", "*a", "!x"),
    *("@x", "`x", "%x", "|", ">", "?", "'", '"', ".inf", "nan", "...", "---", "2020-01-01", "None"),
    *("1e-5", "010", "0o7", "٣", "²", "a\nb", "a\tb", "\r", "a\x85b", "\ufeffx", "\x07", "é", "😀"),
    *("12:00:00", "C:", "a/b c:d", "!!python/name:os.system", "\u2028", "\x00x", "x" * 300),
)
texts = st.sampled_from(ODD) | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
numbers = st.floats() | st.integers(-(10**25), 10**25) | st.sampled_from([1e-5, 1e20, -0.0])
classes = {"data": "Digits", "logger": "lightning.pytorch.loggers.WandbLogger"}
fast = settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],  # a shorter example would take minutes
)


class Parse(ProjectCLI):
    """Builds the parser, and nothing else."""

    def parse_arguments(self, parser: Any, args: Any) -> None:
        self.config = Namespace()

    before_instantiate_classes = instantiate_classes = lambda self: None


@cache
def parser() -> Any:
    return Parse([], run=False).parser


def parse(*args: str) -> Namespace:
    return parser().parse(args)


def saved(config: Namespace, path: Path) -> Namespace:
    """Write a config as a run does, and read it."""
    path.write_text(parser().dump(config, skip_none=False), encoding="utf-8")
    return parser().parse(["--config", str(path)])


def same(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return (math.isnan(a) and math.isnan(b)) or (
            a == b and math.copysign(1, a) == math.copysign(1, b)
        )
    return type(a) is type(b) and a == b


OPTIONAL = ("experiment", "run_dir", *(f"trainer.logger.{x}" for x in ("name", "group", "notes")))
TEXT_OPTIONS = (
    *OPTIONAL,
    "data.root",
    "data.cache_dir",
    "checkpoint.monitor",
    "trainer.logger.prefix",
)


def found(config: Namespace, option: str) -> Any:
    owner, _, name = option.rpartition(".")
    value = config[owner] if owner else config
    return (value.init_args if "init_args" in value else value)[name]


@pytest.mark.slow
@settings(fast, max_examples=40)
@given(text=texts, option=st.sampled_from(TEXT_OPTIONS))
@example(text="null", option="experiment")
@example(text=" null ", option="trainer.logger.name")
@example(text="null", option="data.root")
@example(text="77950e8", option="experiment")
@example(text="#1", option="trainer.logger.group")
def test_text_of_the_command_line(option: str, text: str, tmp_path_factory: Any) -> None:
    config = parse(f"--{option}={text}")
    value = found(config, option)
    missing = text.strip() == "null" and option in OPTIONAL
    assert same(value, None if missing else text)
    again = saved(config, tmp_path_factory.mktemp("saved") / "config.yaml")
    assert same(found(again, option), value)


@fast
@given(text=texts, option=st.sampled_from(TEXT_OPTIONS))
@example(text="null", option="experiment")
@example(text="null", option="trainer.logger.name")
@example(text="true", option="trainer.logger.name")
def test_text_of_a_file(text: str, option: str, tmp_path_factory: Any) -> None:
    value: Any = text
    *owners, name = option.split(".")
    tree: dict[str, Any] = {name: value}
    for owner in reversed(owners):
        if owner in classes:
            tree = {"class_path": classes[owner], "init_args": tree}
        tree = {owner: tree}
    path = tmp_path_factory.mktemp("given") / "given.yaml"
    path.write_text(yaml.safe_dump(tree, default_style='"', allow_unicode=True), encoding="utf-8")
    config = parse("--config", str(path))
    assert same(found(config, option), text)
    assert same(found(saved(config, path), option), text)


@pytest.mark.slow
@fast
@given(
    names=st.lists(texts, min_size=1, max_size=3),
    notes=st.dictionaries(texts, texts | numbers, max_size=3),
)
@example(names=["null"], notes={"12:00": "true", "1e3": "1e3", "none": "null"})
def test_texts_in_lists_and_mappings(
    names: list[str], notes: dict[str, Any], tmp_path_factory: Any
) -> None:
    path = tmp_path_factory.mktemp("given") / "given.yaml"
    logger = {"class_path": classes["logger"], "init_args": {"tags": names, "config": notes}}
    given = {
        "data": {"class_path": "ImageFolder", "init_args": {"classes": names}},
        "trainer": {"logger": logger},
    }
    path.write_text(config_text.dump(given), encoding="utf-8")
    config = parse("--config", str(path))
    for _ in range(2):
        assert config.data.init_args.classes == tuple(names)
        assert config.trainer.logger.init_args.tags == names
        assert repr(config.trainer.logger.init_args.config) == repr(notes)
        config = saved(config, path)


@fast
@given(number=numbers)
def test_numbers(number: float, tmp_path_factory: Any) -> None:
    path = tmp_path_factory.mktemp("given") / "given.yaml"
    whole = isinstance(number, int)
    option = "data.split_seed" if whole else "model.label_smoothing"
    written = config_text.dump([number])[2:].strip()
    config = parse(f"--{option}={written}")
    for _ in range(2):
        assert same(found(config, option), number)
        config = saved(config, path)


@fast
@given(
    st.recursive(
        st.none() | st.booleans() | numbers | texts | st.just("null"),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    )
)
def test_dump_and_load_are_inverse(value: Any) -> None:
    again = config_text.plain(config_text.load(config_text.dump({"key": value})))
    assert repr(again) == repr({"key": value})


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "name", ["77950e8", "null", "#1", "a: b", "ümlaut", "x\ty"], ids=["number", *"nabut"]
)
def test_a_run_with_an_odd_name_is_tested(name: str, run: Callable[..., Run]) -> None:
    """`fit` worked, and `test` of the run read another value: the number 7795000000000.0."""
    Path("given.yaml").write_text(config_text.dump({"experiment": name}), encoding="utf-8")
    quick = ("--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--trainer.logger=false")
    fitted = run("fit", "--config", "given.yaml", *quick)
    tested = run("test", "--ckpt_path", fitted.path)
    written = config_text.load((tested.path / "config.yaml").read_text(encoding="utf-8"))
    assert written["experiment"] == name


@pytest.mark.slow
def test_locale_decides_nothing(tmp_path: Path) -> None:
    """The configs were read and written in the encoding of the locale."""
    config = "experiment: ünï\ntrainer: {max_epochs: 1, limit_train_batches: 1, logger: false}\n"
    (tmp_path / "given.yaml").write_text(config, encoding="utf-8")
    environment = {**os.environ, "PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run(
        [sys.executable, "-m", PACKAGE, "fit", "--config=given.yaml", "--run_dir=made"],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(CONFIGS.parent)},
        check=True,
        capture_output=True,
    )
    assert 'experiment: "ünï"' in (tmp_path / "made/config.yaml").read_text(encoding="utf-8")


def test_numbers_of_yaml_1_1_are_texts() -> None:
    """1:30 was 90, and = had no meaning at all."""
    assert config_text.load("[1:30, 190:20:30, =, 2020-01-01]") == [
        "1:30",
        "190:20:30",
        "=",
        "2020-01-01",
    ]
    assert config_text.load("[1e3, 0x1f, 1_000, .inf, -0.0]") == [1000.0, 31, 1000, math.inf, -0.0]

"""Whatever is written into a config or on a command line: it works, or one line says what is wrong.

Each case is made from its number alone. A quick sample runs with ``-m slow``; all of them with
``python -m tests.test_fuzz 0 300``, which prints those that fail.
"""

import contextlib
import io
import os
import random
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from project.cli import main
from tests.conftest import CONFIGS

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

STAMPS = Path(tempfile.gettempdir(), "fuzzed_images")
SHORT = (
    *("--trainer.logger=false", "--trainer.limit_train_batches=2", "--trainer.limit_val_batches=1"),
    *("--trainer.limit_test_batches=1", "--data.limit_per_class=8"),
)
EXTREMES = (
    *("0", "-1", "1", "2", "1e308", "-1e308", ".nan", ".inf", "-.inf", "nan", "''", "x" * 300),
    *("[]", "{}", "null", "1000000000000", "1e20", "0.5", "true", "ünï", "[1, 2]", "{a: 1}", "a/b"),
    *("[x/y]", "#1", "-", "1e-300", "\x00", "../x", "'1'"),
)
OPTIONS = (
    *("data.batch_size", "data.eval_batch_size", "data.val_fraction", "data.limit_per_class"),
    *("data.train_fraction", "data.steps_per_epoch", "data.augment.flip", "data.augment.shift"),
    *("data.augment.min_scale", "data.augment.brightness", "data.augment.contrast"),
    *(
        "data.augment",
        "data.augment.cutout",
        "data.mean",
        "data.std",
        "data.split_seed",
        "data.cache_dir",
    ),
    *("data.cache_gb", "data.root", "data.num_workers", "data.image_size", "data"),
    *("model.optimizer.lr", "model.optimizer.weight_decay", "model.optimizer.betas"),
    *("model.optimizer", "model.lr_scheduler.interval", "model.lr_scheduler.frequency"),
    *("model.lr_scheduler.monitor", "model.lr_scheduler.scheduler.gamma"),
    *("model.label_smoothing", "model.one_logit", "model.channels_last", "model.flip_tta"),
    *("model.class_weights", "model.focal_gamma", "data.sampling"),
    *("model.loss", "model.metrics", "model.network", "model.network.hidden", "model"),
    *("model.network.dropout", "checkpoint.monitor", "checkpoint.mode"),
    *("checkpoint.every_n_steps", "trainer.max_epochs", "trainer.min_epochs"),
    *("trainer.max_steps", "trainer.min_steps", "trainer.max_time", "trainer.precision"),
    *("trainer.limit_train_batches", "trainer.limit_val_batches", "trainer.limit_test_batches"),
    *("trainer.overfit_batches", "trainer.val_check_interval", "trainer.num_sanity_val_steps"),
    *("trainer.check_val_every_n_epoch", "trainer.log_every_n_steps", "trainer.accelerator"),
    *("trainer.accumulate_grad_batches", "trainer.gradient_clip_val", "trainer.strategy"),
    *("trainer.gradient_clip_algorithm", "trainer.deterministic", "trainer.benchmark"),
    *("trainer.profiler", "trainer.plugins", "trainer.callbacks", "trainer.logger"),
    *("trainer.fast_dev_run", "trainer.reload_dataloaders_every_n_epochs", "run_dir"),
    *("trainer.default_root_dir", "trainer.model_registry", "experiment", "seed_everything"),
    *("trainer.enable_progress_bar", "ckpt_path", "test_after_fit", "trainer.barebones"),
)
TUNED = (  # with FineTuning
    *("model.backbone", "model.weights", "model.hidden", "model.dropout", "model.lr_decay"),
    *("model.group_lr.head", "model.group_lr", "model.network"),
)
IN_FOLDER = (  # with ImageFolder
    *(
        "data.test_fraction",
        "data.classes",
        "data.resize",
        "data.decode_size",
        "data.grayscale",
        "data.cache",
    ),
    *("data.memory_gb", "data.predict_dir", "data.url", "data.root", "data.cache_dir"),
)
OF_PHASE = (
    *("name", "train", "epochs", "steps", "plateau", "lr_scale", "warmup_steps", "shape"),
    *("norm", "restore_best", "cache_features", "views"),
)
COSTLY = {  # what would be done, and take the machine
    "data.num_workers": ("1", "2", "1e308", "1000000000000", "1e20"),
    "data.image_size": ("1000000000000",),
    "trainer.max_epochs": ("-1", "1000000000000"),
    "trainer.min_epochs": ("1000000000000",),
    "trainer.max_steps": ("1000000000000",),
    "trainer.min_steps": ("1000000000000",),
    "trainer.max_time": (),
    "data.steps_per_epoch": ("1000000000000",),
}
BASES: dict[str, tuple[str, ...]] = {
    "model.optimizer.": ("--model.optimizer=AdamW",),
    "model.lr_scheduler.": (
        "--model.lr_scheduler.scheduler=StepLR",
        "--model.lr_scheduler.scheduler.step_size=1",
    ),
}
SHIPPED = ("quickstart.yaml", "full_digits.yaml", "debug/overfit.yaml", "debug/fast.yaml")


def extreme(number: int) -> list[str]:
    """Return a command line with one extreme value."""
    draw = random.Random(number)
    if number % 3 == 2:
        return extreme_tuning(draw)
    option = OPTIONS[number % len(OPTIONS)]
    value = draw.choice([x for x in EXTREMES if x not in COSTLY.get(option, ())])
    before = [arg for prefix, args in BASES.items() if option.startswith(prefix) for arg in args]
    epochs = (
        [] if option in ("trainer.max_epochs", "trainer.max_steps") else ["--trainer.max_epochs=1"]
    )
    return ["fit", *SHORT, *epochs, *before, f"--{option}={value}"]


def extreme_tuning(draw: random.Random) -> list[str]:
    """Return a command line of a fine-tuning with one extreme value."""
    value = draw.choice([x for x in EXTREMES if x != "1000000000000"])
    tuning = ("--model=FineTuning", "--model.backbone=resnet18", "--data.image_size=32")
    kind, once = draw.choice(("model", "folder", "phase")), "--trainer.max_epochs=1"
    if kind == "model":
        return ["fit", *SHORT, *tuning, once, f"--{draw.choice(TUNED)}={value}"]
    if kind == "folder":
        folder = ("--data=ImageFolder", f"--data.root={STAMPS}", "--data.image_size=16")
        return [
            "fit",
            *folder,
            *SHORT,
            "--trainer.max_epochs=1",
            f"--{draw.choice(IN_FOLDER)}={value}",
        ]
    phase = {"name": "one", "train": ["head"], "epochs": 1, draw.choice(OF_PHASE): "VALUE"}
    phases = yaml.safe_dump([phase], default_flow_style=True, width=1000).replace("VALUE", value)
    schedule = (
        "--trainer.callbacks=FineTuningSchedule",
        f"--trainer.callbacks.phases={phases.strip()}",
    )
    return ["fit", *SHORT, *tuning, *schedule]


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the paths of all values below a value."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield (*above, key)
        if isinstance(inner, dict | list):
            yield from places(inner, (*above, key))


def mutated(number: int, folder: Path) -> list[str]:
    """Return a command line with a shipped config in which one or two places are wrong."""
    draw = random.Random(number)
    files = sorted(CONFIGS.glob("*.yaml")) + sorted((CONFIGS / "debug").glob("*.yaml"))
    config: Any = yaml.safe_load(draw.choice(files).read_text(encoding="utf-8"))
    for _ in range(draw.choice((1, 1, 2))):
        *above, key = draw.choice(list(places(config)))
        owner = config
        for one in above:
            owner = owner[one]
        kinds = ["value", "null", "list", "dict", "delete", "deeper"]
        kind = draw.choice([*kinds, "key", "twice"] if isinstance(owner, dict) else kinds)
        old = owner[key]
        if kind == "key":
            name, place = str(key), draw.randrange(len(str(key)) + 1)
            owner[name[:place] + draw.choice("xé_. ") + name[place:]] = owner.pop(key)
        elif kind == "delete":
            del owner[key]
        elif kind == "twice":
            owner[f"{key}.{key}"] = deepcopy(old)
        else:
            owner[key] = {
                "value": draw.choice(
                    [-1, 0, 10**12, 1e308, float("nan"), "", "ü", "x" * 300, True, [[]], "\x07"]
                ),
                "null": None,
                "list": [old],
                "dict": {"a": old},
                "deeper": {str(key): old},
            }[kind]
        if not config:
            break
    file = folder / "mutated.yaml"
    file.write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    if draw.random() < 0.1:
        text = file.read_text(encoding="utf-8")
        cut = draw.randrange(len(text))
        file.write_text(text[:cut] + draw.choice(["\t", "[", ": ", "'", "&", "\n  x"]) + text[cut:])
    work = ("--trainer.max_epochs=1", "--data.num_workers=0", "--trainer.devices=1")
    return ["fit", "--config", str(file), *SHORT, *work]


def make_images() -> None:
    """Make a small folder of images."""
    for split in ("train", "test"):
        for shade, name in enumerate(("cat", "dog")):
            (STAMPS / split / name).mkdir(parents=True, exist_ok=True)
            for number in range(6):
                image = Image.new("RGB", (20, 20), (shade * 200, number, 0))
                image.save(STAMPS / split / name / f"{number}.png")


def outcome(args: list[str]) -> str:
    """Run a command line; return what is wrong with its end, or nothing."""
    out, err = io.StringIO(), io.StringIO()
    code: Any = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(args)
        except SystemExit as end:
            code = end.code
        except BaseException as error:
            return f"{type(error).__name__}: {str(error)[:200]} {getattr(error, '__notes__', '')}"
    errors = [line for line in err.getvalue().splitlines() if line.startswith("error: ")]
    if code not in (0, None) and (code != 2 or len(errors) != 1):
        return f"exit code {code}, {len(errors)} lines"
    named = r"no option|[\w./]+: |--\w|\b(data|model|trainer)\.\w"
    if code == 2 and not re.search(named, errors[0][7:]):
        return f"no key: {errors[0]}"
    return ""


@pytest.mark.parametrize("number", range(20))
def test_extreme_value(number: int) -> None:
    make_images()
    args = extreme(number * 17)
    assert outcome(args) == "", args


@pytest.mark.parametrize("number", range(20))
def test_mutated_config(number: int, tmp_path: Path) -> None:
    args = mutated(number, tmp_path)
    assert outcome(args) == "", (tmp_path / "mutated.yaml").read_text()


def everything(first: int, end: int) -> None:
    """Run all cases, and print those that fail."""
    make_images()
    ends: Counter[str] = Counter()
    for kind in ("extreme", "mutated"):
        for number in range(first, end):
            with tempfile.TemporaryDirectory() as folder:
                os.chdir(folder)
                args = extreme(number) if kind == "extreme" else mutated(number, Path(folder))
                print(f"{kind} {number}: {args[-1]}"[:150], file=sys.stderr, flush=True)
                found = outcome(args)
                ends[f"{kind} {'fails' if found else 'holds'}"] += 1
                if found:
                    what = args[-1] if kind == "extreme" else Path("mutated.yaml").read_text()[:0]
                    print(f"{kind} {number} {what[:80]} → {found}", flush=True)
                os.chdir("/")
    print(ends)


if __name__ == "__main__":
    everything(*map(int, sys.argv[1:]))

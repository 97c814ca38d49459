# part: compare recommend
"""Measure on small data sets what ``recommend`` says, and what ``compare`` then finds.

``python -m benchmarks.sets_measure --clipart FOLDER --stamps FOLDER --fashion ROOT --weights FILE``
makes the sets in ``runs/sets/``, trains each approach once on each, and lets ``recommend`` measure
what it decides by, in about an hour and a half of one core. What is there isn't measured again.
The results go to ``benchmarks/sets.json``; ``python -m benchmarks.sets_table`` says what they tell.
"""

import argparse
import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.sets import SETS, SIZE, make, source_of
from project import config_text
from project.cli import main
from project.commands.preparation import find_images
from project.commands.recommend.candidates import CANDIDATES, Task, config_of
from project.commands.recommend.checking import read_comparison
from project.commands.recommend.machine import find_machine
from project.commands.recommend.measuring import measure
from project.commands.recommend.request import Request
from project.commands.recommend.scan import scan
from project.data import ImageDataModule, ImageFolder

FOLDER = Path("runs/sets")
RESULTS = Path(__file__).parent / "sets.json"
EPOCHS = 10
TRAINED = ("scratch", "probe", "full")
LP_FT = "lp_ft"  # is full with another preset

Config = dict[str, Any]


def task_of(data: ImageDataModule, weights: Path) -> Task:
    """Return what ``recommend`` makes configs for.

    Args:
        data: An image folder that is set up.
        weights: File with the weights of EfficientNet-Lite0.
    """
    assert data.train_images is not None and isinstance(data, ImageFolder)
    return Task(
        data={"class_path": "ImageFolder", "init_args": {"root": data.root}},
        image_size=min(data.source_shape[1:]),
        images=len(data.train_images),
        epochs=EPOCHS,
        backbone="timm/tf_efficientnet_lite0",
        weights=str(weights),
        bfloat16=False,
    )


def configs_of(task: Task) -> dict[str, Config]:
    """Return the config of each candidate; the pretrained ones get images of 64 pixels."""
    found = {one.name: config_of(one, task) for one in CANDIDATES}
    for one in CANDIDATES:
        if one.pretrained:
            found[one.name]["data"]["init_args"]["image_size"] = SIZE
    return found


def compare(folder: Path, configs: dict[str, Config], seeds: int) -> None:
    """Train what ``compare`` lacks of a set, and let it judge."""
    contenders: dict[str, Config] = {}
    for name in TRAINED:
        file = folder / f"{name}.yaml"
        file.write_text(config_text.dump(configs[name]))
        contenders[name] = {"config": str(file)}
    preset = {"trainer.callbacks.init_args.preset": LP_FT}
    contenders[LP_FT] = {**contenders["full"], "options": preset}
    config = {
        "data": {"class_path": "ImageFolder", "init_args": {"root": str(folder)}},
        "epochs": EPOCHS,
        "seeds": list(range(seeds)),
        "metric": "accuracy",
        "options": {"trainer.logger": False},
        "contenders": contenders,
        "output": str(folder / "compare"),
    }
    file = folder / "compare.yaml"
    file.write_text(config_text.dump(config))
    main(["compare", "--config", str(file)])


def recommend(data: ImageDataModule, task: Task) -> Config:
    """Return what ``recommend`` decides by, as JSON can hold it."""
    start = time.perf_counter()
    request = Request(weights=task.weights, epochs=EPOCHS)
    found, machine = scan(data), find_machine()
    small = config_of(CANDIDATES[0], replace(task, images=request.sample))
    measured = measure(request, "", found, machine, configs_of(task), small, start)
    content = asdict(measured)
    for name in ("probe", "scratch"):
        if content[name]:
            content[name]["correct"] = content[name]["correct"].astype(int).tolist()
    return {**content, "suspects": len(measured.suspects), "took": time.perf_counter() - start}


def result_of(folder: Path, weights: Path, seeds: int) -> Config:
    """Measure what is missing of a set, and return all of it."""
    data = find_images(ImageFolder(root=str(folder)))
    task = task_of(data, weights)
    compare(folder, configs_of(task), seeds)
    file = folder / "measured.json"
    if not file.exists():
        file.write_text(json.dumps(recommend(data, task)))
    trained = read_comparison(folder / "compare").trained
    return {
        "measured": json.loads(file.read_text()),
        "trained": {name: one._asdict() for name, one in trained.items()},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("clipart", "stamps", "fashion", "weights"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=[one.name for one in SETS])
    given = vars(parser.parse_args())
    for one in SETS:
        if one.name in given["only"]:
            make(one, source_of(one, given), FOLDER / one.name)
            found = result_of(FOLDER / one.name, given["weights"], given["seeds"])
            results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
            RESULTS.write_text(json.dumps(results | {one.name: found}) + "\n")
# end

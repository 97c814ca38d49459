"""Measure on sixteen small data sets what ``recommend`` says, and what ``compare`` then finds.

``python -m benchmarks.sets_measure --clipart FOLDER --stamps FOLDER --fashion ROOT --weights FILE``
makes the sets in ``runs/sets/``, trains each approach once on each, and lets ``recommend`` measure
what it decides by, in about an hour of two cores. What is there isn't measured again. The results
of all sets are written to ``benchmarks/sets.json``; ``python -m benchmarks.sets_table`` reads it.
"""

import argparse
from pathlib import Path
from typing import Any

from benchmarks.sets import SETS, SIZE, make, source_of
from project import config_text
from project.cli import main
from project.commands.preparation import find_images
from project.commands.recommend.candidates import CANDIDATES, Task, config_of
from project.data import ImageFolder

FOLDER = Path("runs/sets")
EPOCHS = 10
FULL = "full"  # is lp_ft with another preset


def configs_of(folder: Path, weights: Path) -> dict[str, dict[str, Any]]:
    """Return the config of ``fit`` of each contender; the pretrained ones see images of 64 pixels.

    Args:
        folder: Folder of the set.
        weights: File with the weights of EfficientNet-Lite0.
    """
    data = find_images(ImageFolder(root=str(folder)))
    assert data.train_images is not None
    task = Task(
        data={"class_path": "ImageFolder", "init_args": {"root": str(folder)}},
        image_size=min(data.source_shape[1:]),
        images=len(data.train_images),
        epochs=EPOCHS,
        backbone="timm/tf_efficientnet_lite0",
        weights=str(weights),
        bfloat16=False,
    )
    found = {one.name: config_of(one, task) for one in CANDIDATES}
    for one in CANDIDATES:
        if one.pretrained:
            found[one.name]["data"]["init_args"]["image_size"] = SIZE
    return found


def compare(folder: Path, weights: Path, seeds: int) -> None:
    """Train what ``compare`` lacks of a set, and let it judge."""
    found = configs_of(folder, weights)
    files = {}
    for name in ("scratch", "probe", "lp_ft"):
        files[name] = folder / f"{name}.yaml"
        files[name].write_text(config_text.dump(found[name]))
    contenders = {name: {"config": str(file)} for name, file in files.items()}
    preset = {"trainer.callbacks.init_args.preset": FULL}
    contenders[FULL] = {"config": str(files["lp_ft"]), "options": preset}
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


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("clipart", "stamps", "fashion", "weights"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=[one.name for one in SETS])
    given = vars(parser.parse_args())
    for one in SETS:
        if one.name not in given["only"]:
            continue
        place = FOLDER / one.name
        make(one, source_of(one, given), place)
        compare(place, given["weights"], given["seeds"])

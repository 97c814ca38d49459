"""``python -m project compare``: contenders side by side on the same data, under one budget."""

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from torch import Tensor

from project import signals
from project.commands.child_runs import check
from project.commands.compare.data_files import write_results
from project.commands.compare.findings import find
from project.commands.compare.forecast import show_forecast
from project.commands.compare.metrics import metric_of
from project.commands.compare.read import results_of
from project.commands.compare.report import write_report
from project.commands.compare.results import Comparison, Data, Result, rows_of
from project.commands.compare.runs import Runs
from project.commands.compare.settings import Cell, Settings, cells_of
from project.commands.compare.until_sure import until_sure
from project.commands.compare.verdict import verdict
from project.commands.preparation import find_images
from project.console import show
from project.data import ImageDataModule
from project.environment import COMMAND, device_name, git_commit, versions
from project.errors import UserError
from project.parsing import ProjectParser, options_of

FOLDER = Path("runs", "compare")


def compare(arguments: Sequence[str]) -> None:
    """Run a comparison, or the runs that it still lacks, and write its report.

    Args:
        arguments: What follows ``compare`` on the command line.

    Raises:
        UserError: If the config or the data is wrong; then nothing is run.
    """
    parser = _parser()
    config = parser.parse(list(arguments))
    given = parser.parse(list(arguments), defaults=False)  # the contenders decide the rest
    given.pop("config", None)
    objects = parser.instantiate(config)
    settings = options_of(Settings, objects)
    name = Path(str(config.config[0])).stem if config.config else "comparison"
    folder = Path(settings.output or FOLDER / name)
    cells = cells_of(settings, given.data)
    data = find_images(objects.data)
    metric = metric_of(settings.metric, data.class_sizes().tolist())
    runs = Runs(folder, name, settings.jobs, metric)
    images = contents(data)
    runs.check_images(images)
    _check_contenders(runs.missing(cells))
    if settings.dry_run:
        show_forecast(runs, cells, settings)
        return
    with runs.alone():
        runs.write_images(images)
        show(f"{len(cells)} runs in {folder}")
        signals.now.advice = "the same command continues with the missing runs"
        runs.run_all(cells)

        def read(cells: Sequence[Cell]) -> list[Result]:
            return results_of(runs, cells, data, metric)

        if settings.until_sure:
            cells, findings = until_sure(runs, cells, settings, given.data, metric, read)
        else:
            findings = find(rows_of(read(cells)), metric, settings.margin)
        comparison = Comparison(
            name=name,
            data=_described(data, given.data),
            results=read(cells),
            budget=_budget(settings),
            device=device_name(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
            versions=versions(),
            git=git_commit(),
            config=parser.dump(given, skip_validation=True),
            command=shlex.join([*COMMAND, "compare", *arguments]),
            created=time.strftime("%Y-%m-%d %H:%M"),
            jobs=settings.jobs,
            epochs=settings.epochs,
            picture=_pictures(data),
        )
        found = verdict(findings, comparison.data, comparison.device, settings.jobs)
        write_results(comparison, findings, found, folder)
        write_report(comparison, findings, found, folder)
    show(f"{found.headline}\n{found.grounds}".strip())
    show(f"report: {folder / 'report.html'}, {folder / 'report.md'}")


def _parser() -> ProjectParser:
    parser = ProjectParser(
        prog=shlex.join([*COMMAND, "compare"]),
        description="Compare approaches on the same data, under the same budget.",
    )
    parser.add_argument("-c", "--config", action="config", help="Config file of the comparison.")
    parser.add_subclass_arguments(ImageDataModule, "data", required=True)
    parser.add_class_arguments(Settings)
    return parser


def _check_contenders(cells: Sequence[Cell]) -> None:
    """Read the config of each contender, before hours are spent on the others.

    Raises:
        UserError: If one is wrong; the message names the contender.
    """
    first = {cell.contender: cell for cell in reversed(cells)}
    first |= {cell.after.name: cell.after for cell in cells if cell.after}
    for name, cell in first.items():
        try:
            check(cell.arguments)
        except UserError as error:
            raise UserError(f"contenders: {name}: {error}") from None


def contents(data: ImageDataModule) -> dict[str, str]:
    """Return the SHA-256 of the images of each split."""
    splits = {"train": data.train_images, "val": data.val_images, "test": data.test_images}
    return {name: images.content() for name, images in splits.items() if images}


def _budget(settings: Settings) -> str:
    if settings.epochs is None:
        return f"at most {settings.max_time} each"
    epochs = f"{settings.epochs} epoch{'s' if settings.epochs > 1 else ''} each"
    return f"{epochs}, in at most {settings.max_time}" if settings.max_time else epochs


def _described(data: ImageDataModule, given: Namespace) -> Data:
    assert data.train_images is not None and data.test_images is not None
    return Data(
        what=" ".join([type(data).__name__, *_words(given.get("init_args") or {})]),
        class_names=data.class_names,
        class_sizes=data.class_sizes().tolist(),
        val_images=len(data.val_images or ()),
        test_images=len(data.test_images),
    )


def _words(options: Mapping[str, Any]) -> list[str]:
    return [f"{name}={value}" for name, value in sorted(options.items())]


def _pictures(data: ImageDataModule) -> Callable[[int], Tensor]:
    def picture(index: int) -> Tensor:
        assert data.test_images is not None
        return data.test_images[torch.tensor([index])].images[0]

    return picture

"""``python -m project predict MODEL PICTURE …``: pictures of any place, by whatever was trained."""

import argparse
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from project.commands.predict.labels import of_folders, of_table
from project.commands.predict.results import Result, mistakes, write_results, write_sheet
from project.console import accept_all_characters, lines, readable
from project.decoding.decode import BrokenImageError, Decoder
from project.decoding.listing import images_at
from project.errors import UserError
from project.exported.running import FILES, find_exported, open_exported
from project.saving import check_place

DESCRIPTION = """\
Classify pictures. MODEL is a run directory or a checkpoint in it, or a file or folder that `export`
wrote; a file in ONNX needs neither torch nor Lightning. The table goes to standard output, or to
--output; what is said beside it, to standard error.
"""
STDIN = "-"
FOLDERS = "folders"
MOST_TOLD = 20


@dataclass(frozen=True)
class Model:
    """Whatever classifies pictures.

    Attributes:
        class_names: Name of each class.
        decoder: Reads a picture.
        probabilities: Takes pictures that it has read, uint8 ``[B, C, H, W]``, and returns float32
            ``[B, K]``.
    """

    class_names: Sequence[str]
    decoder: Decoder
    probabilities: Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def predict_alone(arguments: Sequence[str]) -> int:
    """Run the command by itself, and return its exit code."""
    accept_all_characters()
    try:
        predict(arguments)
    except UserError as error:
        if os.environ.get("PROJECT_TRACEBACK"):
            traceback.print_exception(error)
        print(f"error: {lines(str(error))}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # who reads the table wants no more of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return 130
    return 0


def predict(arguments: Sequence[str]) -> None:
    """Classify pictures, and write what was found.

    Args:
        arguments: What follows ``predict`` on the command line: the model, and the pictures.

    Raises:
        UserError: If the model can't be opened, or there are no pictures that can be read.
    """
    start = time.perf_counter()
    options = _parser().parse_args(list(arguments))
    for file in filter(None, (options.output, options.html)):
        check_place(file)
    paths = list(_paths(options.pictures, options.list))
    model = open_model(options.model, options.trust or [])
    labels: dict[str, str] = {}
    if options.labels is not None:
        read = of_folders if options.labels == FOLDERS else of_table
        labels = read(options.labels, paths, model.class_names)
    ready = time.perf_counter()
    results = list(classify(model, paths, options.batch_size, labels))
    seconds = time.perf_counter() - ready
    broken = [result for result in results if result.error]
    for result in broken[:MOST_TOLD]:
        _say(result.error)
    if len(broken) == len(results):
        raise UserError(f"nothing of {_pictures(len(results))} can be read")
    as_json = options.format == "jsonl" or str(options.output).endswith((".jsonl", ".json"))
    write_results(results, model.class_names, options.output, as_json)
    if options.html is not None:
        write_sheet(results, model.class_names, options.html, readable(options.model))
    _say(
        f"{_pictures(len(results) - len(broken))} in {seconds:.2f} s, "
        f"{len(results) / max(seconds, 1e-9):,.0f} a second; ready after {ready - start:.2f} s"
    )
    if broken:
        _say(f"{_pictures(len(broken))} can't be read: empty rows")
    if labels:
        for line in mistakes(results, MOST_TOLD):
            _say(line)


def _parser() -> argparse.ArgumentParser:
    command = f"python -m {__name__.partition('.')[0]} predict"
    parser = argparse.ArgumentParser(prog=command, description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument("model", help="Run, checkpoint, or exported file or folder.")
    parser.add_argument(
        "pictures",
        nargs="*",
        help="Pictures, folders, or patterns such as 'photos/**'; - reads paths from standard "
        "input, one a line.",
    )
    parser.add_argument("--list", help="Text file with a path on each line.")
    parser.add_argument("--output", type=Path, help="File for the table; else standard output.")
    parser.add_argument("--format", choices=("csv", "jsonl"), default="csv")
    parser.add_argument("--html", type=Path, help="File for a contact sheet, in HTML.")
    parser.add_argument(
        "--labels",
        help=f"The true classes: `{FOLDERS}`, where each picture lies in a folder named after its "
        "class, or a CSV file with a column image, file or path, and one label or class.",
    )
    parser.add_argument("--batch_size", type=int, default=32, help="Pictures computed at once.")
    parser.add_argument(
        "--trust",
        action="append",
        metavar="PACKAGE",
        help="Package of one's own that the config of a run may name.",
    )
    parser.error = _refuse  # type: ignore[method-assign,assignment]  # its own exits
    return parser


def _refuse(message: str) -> None:
    raise UserError(message)


def _say(text: str) -> None:
    print(lines(text), file=sys.stderr)


def _pictures(count: int) -> str:
    return f"{count:,} picture{'s' if count != 1 else ''}"


def _paths(places: Sequence[str], list_file: str | None) -> Iterator[str]:
    """Yield the pictures that are asked for, each once."""
    seen: set[str] = set()
    for path in _all_paths(places, list_file):
        if path not in seen:
            seen.add(path)
            yield path
    if not seen:
        raise UserError("no pictures: name a file, a folder or a pattern, or - for standard input")


def _all_paths(places: Sequence[str], list_file: str | None) -> Iterator[str]:
    if list_file is not None:
        try:
            with Path(list_file).open(errors="surrogateescape") as file:
                yield from filter(None, (line.rstrip("\r\n") for line in file))
        except OSError as error:
            raise UserError(f"{readable(list_file)}: {error.strerror}", "--list") from error
    for place in places:
        if place == STDIN:
            yield from filter(None, (line.rstrip("\r\n") for line in sys.stdin))
        else:
            found, notes = images_at(place, "predict")
            yield from found
            for note in notes:
                _say(note)


def open_model(place: str, trusted: Sequence[str]) -> Model:
    """Open a run, a checkpoint or an exported file.

    Args:
        place: Its path.
        trusted: Packages of one's own that the config of a run may name.

    Raises:
        UserError: If there is none.
    """
    file = find_exported(Path(place))
    if file is None or file.name.endswith(Path(FILES["safetensors"]).suffix):
        return _of_run(place, trusted)
    exported = open_exported(file)
    about = exported.description

    def probabilities(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return exported(np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)))[0]

    return Model(about.class_names, about.decoder(), probabilities)


def _of_run(place: str, trusted: Sequence[str]) -> Model:
    import torch  # takes seconds

    from project.classifier import Classifier

    classifier = Classifier.load(place, trust_packages=trusted)

    def probabilities(pixels: NDArray[np.uint8]) -> Any:
        return classifier.of_pixels(torch.from_numpy(pixels)).numpy()

    return Model(classifier.class_names, classifier.data.decoder(), probabilities)


def classify(
    model: Model, paths: Sequence[str], batch_size: int, labels: dict[str, str]
) -> Iterator[Result]:
    """Yield what a model says of each picture.

    Args:
        model: The model.
        paths: The pictures.
        batch_size: How many are computed at once.
        labels: True class of each, by its path; may be empty.
    """
    if batch_size < 1:
        raise UserError(f"{batch_size} must be at least 1", "--batch_size")

    def read(path: str) -> NDArray[np.uint8] | str:
        try:
            return model.decoder(Path(path))
        except BrokenImageError as error:
            return str(error)

    with ThreadPoolExecutor() as pool:
        try:
            for start in range(0, len(paths), batch_size):
                batch = paths[start : start + batch_size]
                read_ones = list(pool.map(read, batch))
                pixels = [one for one in read_ones if not isinstance(one, str)]
                found = iter(model.probabilities(np.stack(pixels))) if pixels else iter(())
                for path, one in zip(batch, read_ones):
                    label = labels.get(path, "")
                    if isinstance(one, str):
                        yield Result(path, label, error=one)
                    else:
                        row = next(found)
                        name = model.class_names[int(row.argmax())]
                        yield Result(path, label, name, row)
        finally:
            pool.shutdown(cancel_futures=True)

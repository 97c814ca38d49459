"""Writes what a comparison found: pages for people, files for programs."""

import base64
import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from project.commands.compare.gallery import draw
from project.commands.compare.results import FIGURES, Data, Result, Row, largest, rows_of
from project.commands.compare.tables import COST, QUALITY, escape_markdown, markdown, table
from project.commands.compare.verdict import Verdict, crossings, verdict

PER_IMAGE = ("labels", "predictions")
WORDS = {  # above the tables and plots
    "quality": "Means over the seeds, ± standard deviation. Precision, recall and F1 are those of "
    "the classes, averaged.",
    "cost": "Means over the seeds. The whole run is that of the process: training, starting up, "
    "reading the data, testing.",
    "differences": "By a t-test, paired by seed and test image; see the p beside each.",
    "curves": "Means over the seeds, on the largest training set, all on the same vertical axes. "
    "What training has over validation is over-fitting; training images may be augmented, though, "
    "and their accuracy is that of the weights along the way.",
    "confusion": "Percent of each label, all seeds together.",
    "mistakes": "Of the test images those that are wrong with most seeds: label → prediction.",
}


@dataclass(frozen=True)
class Comparison:
    """All that a report is made of.

    Attributes:
        name: Title of the report.
        data: What all contenders were given.
        results: One for each run, also for those that failed, in the order of the config.
        budget: What each run was allowed, in words: ``10 epochs each``.
        device: What it was computed on, in words.
        versions: Version of each package that a result depends on.
        git: Commit of the code; null outside of git.
        config: The config of the comparison, YAML.
        command: What to type to run the comparison again.
        created: Date and time, in words.
        picture: Returns a test image, uint8 ``[C, H, W]``, by its index in ``Result.labels``;
            null shows no images.
    """

    name: str
    data: Data
    results: Sequence[Result]
    budget: str
    device: str
    versions: Mapping[str, str]
    git: str | None
    config: str
    command: str
    created: str
    picture: Callable[[int], Tensor] | None = None


def write_report(comparison: Comparison, folder: Path) -> None:
    """Write ``report.md``, ``report.html``, ``results.csv``, ``results.json`` and ``plots/``.

    Args:
        comparison: What to report.
        folder: Where to; it is made if it isn't there. A report that is there is replaced.
    """
    rows = rows_of(comparison.results)
    found = verdict(rows, comparison.data, comparison.device)
    gallery = draw(rows, comparison.data.class_names, comparison.picture)
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    for plot in gallery:
        (folder / "plots" / f"{plot.name}.png").write_bytes(plot.light)
    page = {
        "comparison": comparison,
        "gallery": gallery,
        "verdict": found,
        "subtitle": subtitle(comparison, rows),
        "words": WORDS,
        "facts": facts(comparison),
        "runs": len(comparison.results),
        "failed": [result for result in comparison.results if result.error],
        "commands": commands(comparison.results, folder),
        **tables(rows, found.winner),
    }
    for name in ("report.md", "report.html"):
        (folder / name).write_text(render(name, page), encoding="utf-8")
    write_csv(comparison.results, folder)
    write_json(comparison, rows, found, folder)


def subtitle(comparison: Comparison, rows: Sequence[Row]) -> str:
    """Return what was compared, in a line."""
    data = comparison.data
    images = max((row.images for row in rows), default=0)
    parts = (
        data.what,
        f"{images or sum(data.class_sizes):,} training, {data.val_images:,} validation and "
        f"{data.test_images:,} test images in {len(data.class_names)} classes",
        comparison.budget,
        comparison.device,
    )
    return " · ".join(parts)


def tables(rows: Sequence[Row], winner: str) -> dict[str, Any]:
    """Return the tables of the largest size, the most accurate first, and that of all sizes."""
    top = largest(rows)
    sizes = {row.size for row in top}
    shown = [row for row in rows if row in top or (not row.results and row.size in sizes)]
    shown.sort(key=lambda row: -row.mean("accuracy") if row.results else math.inf)
    return {
        "images": top[0].images if top else 0,
        "quality": table(shown, QUALITY, winner),
        "cost": table(shown, COST, winner),
        "all_sizes": table(rows, list(FIGURES), sizes=True)
        if top and len(rows) > len(shown)
        else None,
    }


def commands(results: Sequence[Result], folder: Path) -> dict[str, str]:
    """Return for each contender the commands of its runs, as lines of a shell."""
    found: dict[str, list[str]] = {}
    for result in results:
        images = f"{result.images:,} images" if result.images else f"size {result.size}"
        about = f"# {images}, seed {result.seed}: {place(result.run_dir, folder)}"
        if result.config_sha256:
            about += f", config {result.config_sha256[:12]}"
        first = [f"# its source, before all others\n{result.source}"] if result.source else []
        found.setdefault(result.contender, first).append(f"{about}\n{result.command}")
    return {contender: "\n".join(lines) for contender, lines in found.items()}


def facts(comparison: Comparison) -> dict[str, str]:
    """Return what a result depends on, in words."""
    return {
        "device": comparison.device,
        "versions": ", ".join(f"{name} {found}" for name, found in comparison.versions.items()),
        "commit": comparison.git or "not in git",
        "made": comparison.created,
    }


def place(path: Path, folder: Path) -> str:
    """Return a path as seen from the report, if it is below the report's folder."""
    path, folder = path.resolve(), folder.resolve()
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


def render(name: str, page: Mapping[str, Any]) -> str:
    """Return a page.

    Args:
        name: ``report.md`` or ``report.html``.
        page: What the template names.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("project.commands.compare"),
        autoescape=name.endswith(".html"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"md": escape_markdown, "markdown": markdown, "url": data_url}
    return environment.get_template(f"{name}.jinja").render(page)


def data_url(png: bytes, photos: bool) -> str:
    """Return a picture as a URL that holds it, as WebP: half as large as PNG.

    Args:
        png: PNG file.
        photos: Whether it may be compressed with a loss.
    """
    file = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").save(file, "webp", lossless=not photos)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def write_csv(results: Sequence[Result], folder: Path) -> None:
    """Write ``results.csv``, a line for each run."""
    before = ("contender", "size", "seed", "images", "error")
    after = ("command", "run_dir", "config_sha256")
    with (folder / "results.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*before, *FIGURES, *after])
        writer.writeheader()
        for result in results:
            figures = {
                name: value for name, value in result.figures.items() if math.isfinite(value)
            }
            named = {name: getattr(result, name) for name in (*before, *after)}
            named["run_dir"] = place(result.run_dir, folder)
            writer.writerow({**figures, **named})


def write_json(comparison: Comparison, rows: Sequence[Row], found: Verdict, folder: Path) -> None:
    """Write ``results.json``: everything but the predictions, which the run directories have."""
    runs = [
        {
            **{f.name: getattr(result, f.name) for f in fields(result) if f.name not in PER_IMAGE},
            "run_dir": place(result.run_dir, folder),
        }
        for result in comparison.results
    ]
    content = {
        **{f.name: getattr(comparison, f.name) for f in fields(comparison)},
        "data": asdict(comparison.data),
        "verdict": asdict(found),
        "crossings": [asdict(crossing) for crossing in crossings(rows)],
        "rows": [
            {
                "contender": row.contender,
                "size": row.size,
                "images": row.images,
                "seeds": [result.seed for result in row.results],
                "failed_seeds": [result.seed for result in row.failed],
                "mean": {figure: row.mean(figure) for figure in FIGURES},
                "std": {figure: row.std(figure) for figure in FIGURES},
            }
            for row in rows
        ],
        "runs": runs,
    }
    del content["results"], content["picture"]
    text = json.dumps(_plain(content), indent=2, ensure_ascii=False, allow_nan=False)
    (folder / "results.json").write_text(f"{text}\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    """Return what JSON can hold; what isn't finite is null."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value

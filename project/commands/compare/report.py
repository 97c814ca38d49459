"""Writes the report of a comparison: a page in HTML, one in Markdown, and their plots."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from project.commands.compare.findings import Findings
from project.commands.compare.gallery import draw
from project.commands.compare.options import options_of
from project.commands.compare.results import Comparison, Result
from project.commands.compare.tables import (
    COST,
    QUALITY,
    escape_markdown,
    markdown,
    of_classes,
    table,
)
from project.commands.compare.verdict import Verdict
from project.commands.pages import data_url, templates

WORDS = {  # above the tables and plots
    "quality": "Means over the seeds, ± standard deviation between seeds. Precision, recall and F1 "
    "are those of the classes, averaged. The calibration error is the mean gap between the "
    "confidence of predictions and the share of right ones; 0 is best.",
    "classes": "F1 of each class, all seeds together, the weakest classes first, by the contender "
    "to use.",
    "options": "Options in which their runs differ; – where there is none of that name",
    "cost": "Means over the seeds. The whole run is the process from start to end: start-up, "
    "reading the data, training, testing. Images/s are those of training steps, where features are "
    "cached those of the head.",
    "differences": "± is the standard error of a difference, from seeds and test images. p is how "
    "often chance alone would make one at least as large.",
    "curves": "Means over the seeds, on the largest training set, all on the same vertical axes. "
    "The lead of training over validation is over-fitting. But training images may be augmented, "
    "and their accuracy is averaged over the epoch, while the weights still change.",
    "confusion": "Percentage of each label that was given each prediction, all seeds together.",
    "mistakes": "Test images that are wrong with the most seeds, from one class after the other, "
    "each as label → prediction.",
}


def write_report(
    comparison: Comparison, findings: Findings, verdict: Verdict, folder: Path
) -> None:
    """Write ``report.md``, ``report.html`` and ``plots/``.

    Args:
        comparison: What was measured.
        findings: What the results show.
        verdict: The same in words.
        folder: Output folder; it is created if needed. An earlier report in it is replaced.
    """
    gallery = draw(findings, comparison.data.class_names, comparison.picture)
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    for plot in gallery:
        (folder / "plots" / f"{plot.name}.png").write_bytes(plot.light)
    page = {
        "comparison": comparison,
        "gallery": gallery,
        "verdict": verdict,
        "subtitle": subtitle(comparison, findings),
        "words": {
            **WORDS,
            "quality": f"{WORDS['quality']} {baseline(findings, comparison.data.class_names)}",
            "differences": noise(findings),
            "metric": findings.metric.why,
        },
        "facts": facts(comparison),
        "runs": len(comparison.results),
        "failed": [result for result in comparison.results if result.error],
        "commands": commands(comparison.results, folder),
        "options": options_of(findings.top),
        "classes": of_classes(findings, comparison.data.class_names),
        **tables(findings),
    }
    for name in ("report.md", "report.html"):
        (folder / name).write_text(render(name, page), "utf-8", "backslashreplace")


def subtitle(comparison: Comparison, findings: Findings) -> str:
    """Return a line that says what was compared."""
    data = comparison.data
    parts = (
        data.what,
        f"{findings.images or sum(data.class_sizes):,} training, {data.val_images:,} validation "
        f"and {data.test_images:,} test images in {len(data.class_names)} classes",
        comparison.budget,
        comparison.device,
    )
    return " · ".join(parts)


def baseline(findings: Findings, class_names: Sequence[str]) -> str:
    """Return what the largest class reaches as the only answer, in words; empty if all failed."""
    if not findings.top:
        return ""
    counts = np.bincount(findings.top[0].results[0].labels)
    name, share = class_names[int(counts.argmax())], counts.max() / counts.sum()
    return f"{name} as the only answer has a test accuracy of {share:.3f}."


def noise(findings: Findings) -> str:
    """Return how the noise of differences was worked out, in words; empty if it is unknown."""
    if not any(found.seeds > 1 for found in findings.differences.values()):
        return ""
    words = f"{findings.metric.noise} {WORDS['differences']}"
    if findings.ended:
        words += " It doesn't allow for a look after each seed, as the verdict does."
    return words


def tables(findings: Findings) -> dict[str, Any]:
    """Return the tables of the largest size, the most accurate first, and that of all sizes."""
    choice, figure = findings.choice, findings.metric.figure
    tag = "use this" if choice and choice.settled else "may be right"
    tags = dict.fromkeys(choice.running, tag) if choice else {}
    quality = list(dict.fromkeys([figure, *QUALITY]))
    shown = [*findings.top, *findings.failed]
    several = findings.top and len(findings.rows) > len(shown)
    return {
        "images": findings.images,
        "quality": table(shown, quality, tags),
        "cost": table(shown, COST, tags),
        "all_sizes": table(findings.rows, findings.figures, sizes=True) if several else None,
    }


def commands(results: Sequence[Result], folder: Path) -> dict[str, str]:
    """Return the commands of each contender's runs, as lines of a shell script."""
    found: dict[str, list[str]] = {}
    for result in results:
        images = f"{result.images:,} images" if result.images else f"size {result.size}"
        about = f"# {images}, seed {result.seed}: {result.place(folder)}"
        if result.config_sha256:
            about += f", config {result.config_sha256[:12]}"
        first = [f"# its source, to be run first\n{result.source}"] if result.source else []
        found.setdefault(result.contender, first).append(f"{about}\n{result.command}")
    return {contender: "\n".join(lines) for contender, lines in found.items()}


def facts(comparison: Comparison) -> dict[str, str]:
    """Return what the results depend on, in words."""
    return {
        "device": comparison.device,
        "versions": ", ".join(f"{name} {found}" for name, found in comparison.versions.items()),
        "commit": comparison.git or "not in git",
        "created": comparison.created,
    }


def render(name: str, page: Mapping[str, Any]) -> str:
    """Return a page.

    Args:
        name: ``report.md`` or ``report.html``.
        page: Values of the template's variables.
    """
    environment = templates(__package__, html=name.endswith(".html"))
    environment.filters |= {"md": escape_markdown, "markdown": markdown, "url": _url}
    return environment.get_template(f"{name}.jinja").render(page)


def _url(png: bytes, photos: bool) -> str:
    """Return a PNG file as a data URL; of photos, with less detail."""
    return data_url(Image.open(io.BytesIO(png)), lossless=not photos)

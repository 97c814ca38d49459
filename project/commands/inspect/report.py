"""Writes what an inspection finds: tables for programs, a page with pictures, and a few lines."""

import shlex
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from project.commands.inspect.findings import Group, Labels
from project.commands.inspect.images import SPLITS, Found
from project.commands.pages import data_url, templates
from project.console import print_table, readable, show, some
from project.csv_text import Cell, table
from project.environment import COMMAND
from project.saving import write

MOST_SUSPECTS, MOST_GROUPS, MOST_COPIES, MOST_BROKEN = 200, 100, 8, 100  # on the page
SHOWN = 5  # suspects, and kinds of mistake, in the terminal


@dataclass(frozen=True)
class Inspection:
    """An inspection.

    Attributes:
        found: All images.
        labels: What is found out about their labels.
        groups: Those that show the same picture.
        folder: Where report and tables are.
        backbone: Backbone of the features.
        command: The command.
    """

    found: Found
    labels: Labels
    groups: Sequence[Group]
    folder: Path
    backbone: str
    command: str

    @property
    def copies(self) -> int:
        """Number of images that show the picture of another one that is kept."""
        return sum(len(group.images) - 1 for group in self.groups)


def write_files(inspection: Inspection) -> None:
    """Write page and tables; what an earlier inspection has left there is replaced.

    ``fit`` can exclude what any table lists but ``duplicates.csv``, which has all of each group.

    Raises:
        UserError: If one can't be written.
    """
    page = render(inspection)  # before there is any file, as it takes the longest
    found = inspection.found

    def about(image: int) -> list[Cell]:
        return [found.name(image), found.split_name(image), found.class_name(image)]

    head = ["image", "split", "label"]
    with table(inspection.folder / "suspects.csv") as to:
        to.row(
            [*head, "suggested", "probability_of_label", "probability_of_suggested", "score"],
        )
        for one in inspection.labels.suspects:
            numbers = (one.of_label, one.of_suggested, one.margin)
            to.row([*about(one.image), one.suggested, *(round(number, 6) for number in numbers)])
    with table(inspection.folder / "duplicates.csv") as to:
        to.row(["group", *head, "keep"])
        for number, group in enumerate(inspection.groups, 1):
            for image in group.images:
                to.row([number, *about(image), "yes" if image == group.images[0] else "no"])
    with table(inspection.folder / "redundant.csv") as to:
        to.row([*head, "copy_of"])
        for group in inspection.groups:
            for image in group.images[1:]:
                to.row([*about(image), found.name(group.images[0])])
    with table(inspection.folder / "broken.csv") as to:
        to.row(["image", "split", "reason"])
        for split, name, reason in found.broken:
            to.row([name, split, reason])
    write(inspection.folder / "report.html", page, "backslashreplace")


def facts(inspection: Inspection) -> dict[str, str]:
    """Return what was found, in words."""
    found, labels, groups = inspection.found, inspection.labels, inspection.groups
    counts = Counter(found.split.tolist())
    parts = [f"{counts[place]:,} {name}" for place, name in enumerate(SPLITS) if counts[place]]
    looked = f"{len(found):,}" + (f" of {found.total:,}" if found.total > len(found) else "")
    words = {"images": f"{looked} ({', '.join(parts)}) in {len(found.class_names)} classes"}
    words["labels"] = (
        f"{len(labels.suspects):,} of {labels.judged:,} training and validation labels are "
        f"suspect; about {labels.wrong:,.0f} are wrong by estimate"
    )
    if labels.skipped:
        words["not judged"] = f"classes with too few images: {some(labels.skipped)}"
    across = sum(group.splits > 1 for group in groups)
    different = sum(group.labels > 1 for group in groups)
    words["near-duplicates"] = (
        f"{inspection.copies:,} copies of {len(groups):,} images"
        + (f"; {across:,} of these have one in another split" if across else "")
        + (f"; {different:,} have one with another label" if different else "")
    )
    if found.broken:
        words["can't be read"] = f"{len(found.broken):,} images"
    return words


def exclusions(inspection: Inspection) -> dict[str, str]:
    """Return the commands that leave out what was found, once it has been looked at."""
    files = {
        "suspects.csv": inspection.labels.suspects,
        "redundant.csv": inspection.groups,
        "broken.csv": inspection.found.broken,
    }
    if not inspection.found.has_files:
        return {}
    return {
        name: shlex.join(
            [*COMMAND, "fit", "--config", "CONFIG", "--data.exclude", str(inspection.folder / name)]
        )
        for name, found in files.items()
        if found
    }


def render(inspection: Inspection) -> str:
    """Return the page: one file in HTML, with the pictures."""
    found, labels = inspection.found, inspection.labels

    def card(image: int) -> dict[str, Any]:
        return {
            "picture": data_url(found.picture(image)),
            "name": readable(found.name(image)),
            "split": found.split_name(image),
            "label": readable(found.class_name(image)),
        }

    groups = [
        {
            "cards": [card(image) for image in group.images[:MOST_COPIES]],
            "more": len(group.images[MOST_COPIES:]),
            "labels": group.labels,
            "splits": group.splits,
        }
        for group in inspection.groups[:MOST_GROUPS]
    ]
    page = {
        "facts": facts(inspection),
        "suspects": [
            {**card(one.image), "suggested": readable(one.suggested), "suspect": one}
            for one in labels.suspects[:MOST_SUSPECTS]
        ],
        "more_suspects": len(labels.suspects[MOST_SUSPECTS:]),
        "errors": [
            (readable(one), readable(other), count)
            for one, other, count in labels.errors[:20]
            if count >= 0.5
        ],
        "groups": groups,
        "more_groups": len(inspection.groups[MOST_GROUPS:]),
        "broken": found.broken[:MOST_BROKEN],
        "more_broken": len(found.broken[MOST_BROKEN:]),
        "backbone": inspection.backbone,
        "command": inspection.command,
        "exclusions": exclusions(inspection),
        "created": time.strftime("%Y-%m-%d %H:%M"),
    }
    environment = templates(__package__, html=True)
    return environment.get_template("report.html.jinja").render(page)


def show_findings(inspection: Inspection) -> None:
    """Print what was found, and what to do about it."""
    found, labels = inspection.found, inspection.labels
    summary = Table("found", "", show_lines=False)
    for name, text in facts(inspection).items():
        summary.add_row(name, text)
    print_table(summary)
    if labels.suspects:
        suspects = Table("suspect image", "label", "rather", "probability")
        for one in labels.suspects[:SHOWN]:
            name, label = found.name(one.image), found.class_name(one.image)
            odds = f"{one.of_label:.2f} → {one.of_suggested:.2f}"
            suspects.add_row(name, label, one.suggested, odds)
        print_table(suspects)
    show(f"look at {inspection.folder / 'report.html'}; nothing was removed")
    commands = exclusions(inspection)
    if commands:
        show("to leave out what is listed there:")
    for command in commands.values():
        show(f"  {command}")

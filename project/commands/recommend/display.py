"""Prints what was measured and decided."""

import shlex
from collections.abc import Sequence

from rich.table import Table

from project.commands.preparation import UNEQUAL
from project.commands.recommend.candidates import CANDIDATES, Candidate
from project.commands.recommend.decision import Decision, record
from project.commands.recommend.machine import Machine, weights_at_hand
from project.commands.recommend.rules import Measured, Rule
from project.commands.recommend.scan import Scan
from project.console import print_table, readable, show
from project.durations import duration
from project.environment import COMMAND

MOST_SUSPECTS = 0.25  # of the labels that were looked at


def show_facts(found: Scan, machine: Machine, weights: str | None) -> None:
    """Print the facts about data and machine, and which weights the backbone has."""
    named = [] if weights in (None, "DEFAULT") else [readable(str(weights))]
    facts = {
        "images": f"{found.images:,} training, {found.val_images:,} validation, "
        f"{found.test_images:,} test, in {len(found.class_names)} classes",
        "balance": f"{found.smallest:,} to {found.largest:,} training images per class",
        "sizes": f"{found.sizes[0]} to {found.sizes[1]} pixels per side; {found.opened:,} opened, "
        "none broken",
        "duplicates": f"{found.duplicates} of {found.compared[0]:,} test images look like one of "
        f"{found.compared[1]:,} in training",
        "machine": str(machine),
        "weights": ", ".join(named or weights_at_hand()) or "none downloaded yet",
    }
    table = Table("data and machine", "", show_lines=False)
    for name, text in facts.items():
        table.add_row(name, text)
    print_table(table)


def show_decision(
    decision: Decision, rules: Sequence[Rule], measured: Measured, explain: bool
) -> None:
    """Print the candidates, the rules and the decision."""
    candidates = Table("candidate", "points", "predicted time", "images/s", "memory", "what it is")
    for one in CANDIDATES:
        points = str(decision.points[one.name]) if one.name in decision.points else "out"
        candidates.add_row(one.name, points, *_predicted(one, measured), one.what)
    print_table(candidates)
    table = Table("factor", "if", "measured", "holds", "then")
    for rule in rules:
        if explain or rule.fired:
            holds = "?" if rule.fired is None else "yes" if rule.fired else "no"
            table.add_row(rule.factor, rule.condition, rule.measured, holds, rule.effect)
    print_table(table)
    if decision.choice:
        show("\n".join([*words(decision), *on_unequal_classes(measured.scan)]))


def _predicted(one: Candidate, measured: Measured) -> tuple[str, str, str]:
    found = measured.predictions.get(one.name, "not measured")
    if isinstance(found, str):
        return found, "", ""
    return duration(found.seconds), f"{found.images_per_second:,.0f}", f"{found.memory_mb:,.0f} MB"


def words(decision: Decision) -> list[str]:
    """Return the decision as lines of text."""
    named = {one.name: one.what for one in CANDIDATES}
    lines = [f"Use {decision.choice}: {named[decision.choice]}."]
    lines.append(f"Confidence: {decision.confidence} ({record(decision.confidence)}).")
    lines += [f"  {reason}" for reason in decision.reasons]
    if decision.runner_up:
        lines.append(f"Runner-up: {decision.runner_up}.")
    if decision.changes:
        lines.append("It would be")
        lines += [f"  {change}" for change in decision.changes]
    return lines


def on_suspects(measured: Measured, arguments: Sequence[str]) -> str:
    """Return how many labels are suspect, and the surest of them; empty if there are none.

    Where they are more than :data:`MOST_SUSPECTS`, classes look alike, and mistakes can't be told.

    Args:
        measured: What was measured.
        arguments: The command line of ``recommend``.
    """
    if not measured.suspects:
        return ""
    if len(measured.suspects) > MOST_SUSPECTS * measured.images:
        return (
            f"nothing is said about wrong labels: a probe takes {len(measured.suspects)} of "
            f"{measured.images:,} for others, as classes look alike to it"
        )
    line = (
        f"{len(measured.suspects)} of {measured.images:,} labels that were looked at may be wrong, "
        f"first of all {measured.suspects[0]}"
    )
    # part: inspect
    inspect = shlex.join([*COMMAND, "inspect", *_of_data(arguments)])
    line += f"; {inspect} lists them and the others"
    # end
    return line


# part: inspect
def _of_data(arguments: Sequence[str]) -> list[str]:
    """Return the words of a command line that say which data and backbone to use."""
    found, taken = [], False
    for word in arguments:
        if word.startswith("--"):
            taken = word.startswith(("--data", "--backbone", "--weights"))
        if taken:
            found.append(word)
    return found


# end
def on_unequal_classes(found: Scan) -> list[str]:
    """Return what to think of where some classes are much larger than others, as lines of text."""
    if found.largest < UNEQUAL * found.smallest:
        return []
    names = dict(zip(found.class_sizes, found.class_names))
    large, small = readable(names[found.largest]), readable(names[found.smallest])
    return [
        f"The classes are unequal, {found.largest:,} images of {large} and {found.smallest:,} of "
        f"{small}: {large} as the only answer would have an accuracy of "
        f"{found.largest / found.images:.2f}.",
        "val/f1 and val/balanced_accuracy count all classes alike; checkpoint.monitor can be one.",
        "Worth a comparison: data.sampling: balanced or sqrt, model.class_weights: balanced.",
    ]

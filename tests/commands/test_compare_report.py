"""The report of a comparison: complete, readable everywhere, and true to the results."""

import csv
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from project.commands.compare import plots
from project.commands.compare.data_files import write_results
from project.commands.compare.findings import find
from project.commands.compare.mistakes import confusion_matrix, hardest, most_confused
from project.commands.compare.plots import (
    accuracy_over_images,
    accuracy_over_time,
    curves,
    looks_of,
    mean_curves,
)
from project.commands.compare.report import write_report
from project.commands.compare.results import FIGURES, Comparison, Result, rows_of
from project.commands.compare.statistics import crossings
from project.commands.compare.tables import number
from project.commands.compare.verdict import verdict
from tests.commands.made_up import NAN, broken, data, first, made_up, row

ODD = "a<b>|c & $d$ *e*"


def comparison(results: Sequence[Result], **changes: Any) -> Comparison:
    found = Comparison(
        name="Three ways <to> it",
        data=data(),
        results=results,
        budget="2 epochs each",
        device="two cores",
        versions={"project": "0.1.0", "torch": "2.15.0"},
        git="0123abc",
        config="contenders: [probe]",
        command="python -m project compare --config compare.yaml",
        created="2026-11-24 05:00",
        picture=lambda index: torch.full((1, 9, 7), index, dtype=torch.uint8),
    )
    return replace(found, **changes)


def write_all(found: Comparison, folder: Path) -> None:
    findings = find(rows_of(found.results))
    words = verdict(findings, found.data, found.device)
    write_report(found, findings, words, folder)
    write_results(found, findings, words, folder)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write_it(*results: Result, **changes: Any) -> Path:
        folder = tmp_path / "report"
        write_all(comparison(results, **changes), folder)
        return folder

    return write_it


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on three contenders, two sizes and two seeds; two of the runs failed."""
    folder = tmp_path_factory.mktemp("comparison") / "new" / "report"
    counts = {"probe": (14, 17), ODD: (10, 19), "scratch": (8, 12)}
    results = [
        made_up(
            name,
            first(counts[name][images == 400] + seed, 20),
            seed,
            images,
            run_dir=folder / "runs" / f"{images}-{seed}",
            gap=NAN if name == "scratch" else -0.014,
        )
        for name in counts
        for images in (100, 400)
        for seed in (0, 1)
    ]
    failures = [broken("huge", size=size, error="no <memory>\nat all") for size in ("100", "400")]
    write_all(comparison([*results, *failures]), folder)
    return folder


class Page(HTMLParser):
    """Checks that what opens is closed, and collects what a browser would load or show."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "source"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data


def test_page_needs_nothing_else(folder: Path) -> None:
    """No script, no network: pictures are inside, and light and dark ones differ."""
    html = (folder / "report.html").read_text()
    page = Page(html)
    assert "script" not in {tag for tag, _ in page.tags} and "@import" not in html
    assert "url(" not in html
    sources = {name: value for _, found in page.tags for name, value in found.items()}
    assert not {name for name in sources if name.startswith("on")}
    loads = [
        found.get(n) for _, found in page.tags for n in ("src", "srcset", "href") if n in found
    ]
    links = {"#failed", "report.md", "results.csv", "results.json", "plots/"}
    assert {url for url in loads if not str(url).startswith("data:image/webp;base64,")} == links
    pictures = [url for url in loads if str(url).startswith("data:")]
    plots = len(list((folder / "plots").glob("*.png")))
    assert plots == 2 + 3 * 3
    assert len(set(pictures)) == len(pictures) == 2 * plots
    assert all(found["alt"] for tag, found in page.tags if tag == "img")
    assert len(html) < 1e6


def test_page_escapes(folder: Path) -> None:
    html = (folder / "report.html").read_text()
    assert ODD in Page(html).text
    assert "Three ways <to> it" in Page(html).text
    assert "no <memory>\nat all" in Page(html).text
    assert "<b>" not in html and "<memory>" not in html


def test_page_marks_the_winner_in_words(folder: Path) -> None:
    text = Page((folder / "report.html").read_text()).text
    assert text.count("may be right") == 2 * 2
    assert re.search(re.escape(ODD) + r"\s+may be right\s+0\.975 ± 0\.035", text)
    assert "2 of 14 runs failed" in text
    assert re.search(r"huge\s+failed\s+–", text)


def test_nothing_is_nan(folder: Path) -> None:
    text = Page((folder / "report.html").read_text()).text
    for content in (text, (folder / "report.md").read_text()):
        assert not re.search(r"\bnan\b", content, re.IGNORECASE)


def test_markdown_tables_are_whole(folder: Path) -> None:
    lines = (folder / "report.md").read_text().splitlines()
    widths: list[set[int]] = [set()]
    for line in lines:
        if line.startswith("|"):
            widths[-1].add(len(re.findall(r"(?<!\\)\|", line)))
        elif widths[-1]:
            widths.append(set())
    assert [sorted(width) for width in widths[:-1]] == [[8], [11], [3], [6], [18], [3]]


def test_markdown_shows_what_is_there(folder: Path) -> None:
    text = (folder / "report.md").read_text()
    found = re.findall(r"!\[.*\]\((.*)\)", text)
    assert {folder / path for path in found} == set((folder / "plots").iterdir())
    assert r"**a\<b\>\|c \& $d$ \*e\*** (may be right) | 0.975 ± 0.035 |" in text
    assert "| −0.014 ± 0.000 |" in text
    assert "    no <memory>\n    at all\n" in text
    assert "# 400 images, seed 1: runs/400-1, config 0123456789ab\n" in text
    assert "\n\n\n" not in text


def test_json_has_everything(folder: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    text = (folder / "results.json").read_text()
    content = json.loads(text, parse_constant=refuse)
    assert len(content["runs"]) == 14 and len(content["rows"]) == 8
    (probe,) = (r for r in content["rows"] if (r["contender"], r["images"]) == ("probe", 400))
    assert probe["seeds"] == [0, 1]
    assert probe["mean"]["accuracy"] == pytest.approx(0.875)
    assert probe["std"]["accuracy"] == pytest.approx(0.05 / 2**0.5)
    (scratch,) = (r for r in content["rows"] if (r["contender"], r["images"]) == ("scratch", 400))
    assert scratch["mean"]["gap"] is None
    assert content["runs"][0]["run_dir"] == "runs/100-0"
    assert content["runs"][0]["curves"]["val/loss"] == [1.1, 0.7]
    assert content["runs"][-1]["error"] == "no <memory>\nat all"
    assert content["verdict"]["winner"] == ODD
    assert [crossing["after"] for crossing in content["crossings"]] == [ODD]
    assert content["versions"] == {"project": "0.1.0", "torch": "2.15.0"}
    assert content["data"]["class_names"] == ["cat", "dog", "owl"]


def test_csv_has_a_line_for_each_run(folder: Path) -> None:
    with (folder / "results.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 14
    named = {"contender", "size", "seed", "images", "error", "command", "run_dir", "config_sha256"}
    assert set(lines[0]) == {*FIGURES, *named}
    assert (lines[0]["accuracy"], lines[0]["run_dir"]) == ("0.7", "runs/100-0")
    assert (lines[8]["contender"], lines[8]["gap"]) == ("scratch", "")
    assert (lines[-1]["error"], lines[-1]["accuracy"]) == ("no <memory>\nat all", "")


def test_all_failed(write: Callable[..., Path]) -> None:
    folder = write(broken("a", error="out of memory"), broken("b", error="diverged"))
    for name in ("report.md", "report.html"):
        text = (folder / name).read_text()
        assert "No run succeeded." in text and "out of memory" in text and "diverged" in text
        assert "2 of 2 runs failed" in text
        assert "Results on" not in text and "All training-set sizes" not in text
    assert not list((folder / "plots").iterdir())


def test_each_class(write: Callable[..., Path]) -> None:
    """Of 4 cats one is taken for a dog, with one of two seeds; of 8 dogs and owls none is wrong."""
    folder = write(made_up("a|b", np.arange(12) != 3), made_up("a|b", first(12, 12), 1))
    text = (folder / "report.md").read_text()
    assert (
        "| class | test images | a\\|b |\n| --- | --: | --: |\n| cat | 4 | 0.933 |\n"
        "| dog | 4 | 0.941 |\n| owl | 4 | 1.000 |"
    ) in text
    assert re.search(r"cat\s+4\s+0.933\s+dog", Page((folder / "report.html").read_text()).text)


def test_curves_of_those_seeds_that_have_any(write: Callable[..., Path]) -> None:
    """And no plot where there are none."""
    with_, without = made_up("a", first(9, 10)), made_up("a", first(8, 10), 1, curves={})
    for pair in ([with_, without], [replace(without, seed=0), replace(with_, seed=1)]):
        (found,) = rows_of(pair)
        assert mean_curves(found)["val/accuracy"].tolist() == [0.4, 0.9]
    folder = write(without, made_up("b", first(7, 10), 1))
    assert [path.name for path in folder.glob("plots/curves_*")] == ["curves_2_b.png"]


def test_a_class_name_is_no_markup(write: Callable[..., Path]) -> None:
    names = replace(data(), class_names=("c<b>*x*|y", "b", "c"))
    text = (write(made_up("a", first(9, 10)), data=names) / "report.md").read_text()
    assert r"c\<b\>\*x\*\|y as the only answer has a test accuracy of 0.400." in text


def test_one_run(write: Callable[..., Path]) -> None:
    """There is nothing to compare with, and no standard deviation."""
    folder = write(made_up("only", first(20, 20)), picture=None)
    text = (folder / "report.md").read_text()
    assert "| **only** (use this) | 1.000 | 1.000 | 1.000 | 1.000 | 0.031 | +0.025 |" in text
    assert "Differences" not in text and "No mistakes." in text
    assert {path.stem for path in (folder / "plots").iterdir()} == {
        *("accuracy_over_time", "curves_1_only", "confusion_1_only")
    }
    assert "failed" not in Page((folder / "report.html").read_text()).text.replace("run failed", "")


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("contenders", "classes"), [(8, 2), (2, 20), (2, 100)])
def test_many_without_validation(
    contenders: int, classes: int, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """More contenders than colours; more classes than a matrix can count, and can name."""
    monkeypatch.setattr(plots, "DPI", 20)
    nothing = [NAN, NAN]
    epochs = {"seconds": [100.0, 9000.0], "train/accuracy": [0.5, 0.9], "train/loss": [2.0, 0.1]}
    epochs |= {"val/accuracy": nothing, "val/loss": nothing}
    results = [
        made_up(f"{'long' * 9} {n}", first(90 + n, 200), curves=epochs, gap=NAN, classes=classes)
        for n in range(contenders)
    ]
    names = [f"class with a long name {number}" for number in range(classes)]
    page = Page((write(*results, data=data(names), picture=None) / "report.html").read_text())
    assert "training − validation" not in page.text
    assert f"in {classes} classes" in page.text


def test_every_contender_looks_the_same_in_all_plots() -> None:
    names = [f"contender {number}" for number in range(8)]
    looks = looks_of(names)
    assert len(set(looks.values())) == 8
    rows = rows_of([made_up(n, first(9, 10), images=i) for n in names[1:] for i in (100, 400)])
    of_images = accuracy_over_images(rows, [], looks).axes[0].get_lines()
    of_time = accuracy_over_time(rows[1::2], looks).axes[0].get_lines()
    expected = {look.color for name, look in looks.items() if name != names[0]}
    assert {line.get_color() for line in of_images} == expected
    assert {line.get_color() for line in of_time} == expected


def test_crossings_are_marked_and_named() -> None:
    counts = {("few", 100): 16, ("few", 400): 18, ("many", 100): 14, ("many", 400): 20}
    rows = rows_of([made_up(name, first(n, 20), images=i) for (name, i), n in counts.items()])
    assert not accuracy_over_images(rows, crossings(rows), looks_of(["few", "many"])).axes[0].texts
    rows = rows_of(
        [
            made_up(name, first(100 * n, 2000), seed, images=i)
            for (name, i), n in counts.items()
            for seed in range(2)
        ]
    )
    axes = accuracy_over_images(rows, crossings(rows), looks_of(["few", "many"])).axes[0]
    (letter,) = axes.texts
    assert (letter.get_text(), letter.xy) == ("A", pytest.approx((200, 0.85)))
    assert "A  many overtakes few at about 200" in axes.get_xlabel()
    assert axes.get_xscale() == "log"
    assert list(axes.get_xticks()) == [400, 100]


def test_time_of_the_source_comes_first() -> None:
    chain = row(made_up("chain", first(9, 10), source_seconds=100.0))
    line, end = accuracy_over_time([chain], looks_of(["chain"])).axes[0].get_lines()[:2]
    assert np.asarray(line.get_xdata()).tolist() == [105, 110]
    assert np.asarray(end.get_xdata()).tolist() == [110]


def test_curves_are_means_of_the_epochs_that_all_seeds_have() -> None:
    short = made_up("a", first(9, 10), 1)
    longer = {name: [*values, 7.0] for name, values in short.curves.items()}
    both = row(replace(short, curves=longer), made_up("a", first(5, 10), 2))
    assert mean_curves(both)["val/accuracy"].tolist() == pytest.approx([0.4, 0.7])
    look = looks_of(["a"])["a"]
    other = row(made_up("b", first(1, 10)))
    ranges = [panel.get_ylim() for panel in curves(both, look, [both, other]).axes]
    assert ranges == [panel.get_ylim() for panel in curves(other, look, [other, both]).axes]


def test_confusion_matrix_says_percent_of_the_label() -> None:
    """Of 4 cats 1 is taken for a dog; of 4 dogs and 4 owls none for anything else."""
    found = row(made_up("a", np.arange(12) != 3))
    figure: Figure = confusion_matrix(found, ("cat", "dog", "owl"))
    texts = {text.get_position(): text.get_text() for text in figure.axes[0].texts}
    assert texts == {(0, 0): "75", (1, 0): "25", (1, 1): "100", (2, 2): "100"}
    assert most_confused(found, ("cat", "dog", "owl")) == "cat taken for dog (25%)"


def test_hardest_images() -> None:
    """The one that two seeds get wrong, then one of each class in turn."""
    wrong = [{0, 3, 4}, {4, 6, 7}]
    results = [made_up("a", [i not in bad for i in range(9)], s) for s, bad in enumerate(wrong)]
    assert hardest(row(*results)) == [(4, 2, 2), (0, 1, 1), (7, 2, 1), (3, 1, 1), (6, 1, 1)]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.000219, "0.000219"),
        (8.3, "8.30"),
        (83.14, "83.1"),
        (1234.5, "1,234"),
        (NAN, "–"),
        (float("inf"), "–"),
    ],
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text

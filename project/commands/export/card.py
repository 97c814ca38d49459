"""The model card beside an export, and sending it to a hub."""

import json
import os
from dataclasses import asdict
from pathlib import Path

from project.callbacks.tested import PER_CLASS
from project.commands.export.check import Check
from project.commands.pages import templates
from project.console import readable
from project.csv_text import read_table
from project.environment import PACKAGE
from project.errors import UserError
from project.exported.description import Description
from project.run_files import read_summary
from project.saving import write

CARD = "README.md"
SHOWN = ("images", "precision", "recall", "f1")  # columns of the table of classes
NETWORK = {"parameters_total", "approach", "pretrained"}  # keys of the summary
MOST_CLASSES = 100  # in that table, and by name
SCORES = {
    "test/accuracy": "accuracy",
    "test/balanced_accuracy": "balanced accuracy",
    "test/f1": "F1, mean over the classes",
    "test/auroc": "AUROC",
    "test/calibration_error": "calibration error",
    "test/loss": "cross entropy",
}


def write_card(folder: Path, run: Path, about: Description, found: Check, format_: str) -> None:
    """Write a model card in the form of Hugging Face.

    Args:
        folder: Where the export is.
        run: The run directory, whose summary has the scores.
        about: The exported file's description.
        found: What the check has found.
        format_: Format of the file.
    """
    summary = read_summary(run)
    page = templates(__name__.rpartition(".")[0], html=False).get_template("card.md.jinja")
    text = page.render(
        about=asdict(about),
        check=asdict(found),
        format=format_,
        package=PACKAGE,
        name=readable(about.run["directory"]),
        scores={
            label: summary[key]
            for key, label in SCORES.items()
            if isinstance(summary.get(key), int | float)
        },
        network=summary if summary.keys() >= NETWORK else {},
        versions=", ".join(f"{package} {one}" for package, one in about.versions.items()),
        data=summary.get("data") if isinstance(summary.get("data"), dict) else {},
        classes=_per_class(run),
        columns=SHOWN,
        names=[_cell(_quoted(name)) for name in about.class_names[:MOST_CLASSES]],
        quote=_quoted,
        cell=_cell,
        number=_number,
    )
    write(folder / CARD, text, errors="backslashreplace")


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _cell(text: str) -> str:
    """Return a name as a cell of a table in Markdown, which ends none and is no HTML."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def _number(text: str) -> str:
    """Return a number with three decimals, unless it is a whole one or none."""
    try:
        return text if text.isdecimal() else f"{float(text):.3f}"
    except ValueError:
        return _cell(text)


def _per_class(run: Path) -> list[dict[str, str]]:
    try:
        rows = list(read_table(run / PER_CLASS))
    except (OSError, ValueError):
        return []
    whole = all({"class", *SHOWN} <= row.keys() for row in rows)
    return rows if whole and len(rows) <= MOST_CLASSES else []


def push(folder: Path, name: str) -> str:
    """Send an export to the hub that ``HF_ENDPOINT`` says, with the token of the environment.

    Args:
        folder: The export.
        name: User and name of the model there; it is made private if it is new.

    Returns:
        Its address.

    Raises:
        UserError: If that fails; the export itself stays.
    """
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise UserError(
            "needs huggingface_hub: pip install -e '.[export]'", "push_to_hub"
        ) from error
    hub = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    try:
        hub.create_repo(name, private=True, exist_ok=True)
        hub.upload_folder(repo_id=name, folder_path=folder, commit_message="Upload of an export")
    except Exception as error:  # of HTTP, of the token, of the name
        reason = readable(" ".join(str(error).split())[:200])
        raise UserError(f"{name}: {reason}; {readable(folder)} is there", "push_to_hub") from error
    return f"{hub.endpoint}/{name}"

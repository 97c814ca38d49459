"""``metrics.csv`` of a run, to which a resumed run adds its rows."""

import csv
import io
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, csv_logs

from project.saving import cant_write, write


class MetricsFile(csv_logs.ExperimentWriter):
    """What a ``CSVLogger`` writes its rows with.

    That of Lightning removes the file of the run's first part, and is not whole while it writes a
    new header: https://github.com/Lightning-AI/pytorch-lightning/pull/19446

    Args:
        log_dir: Folder of the file.
    """

    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        self._path = Path(self.metrics_file_path)
        self._goes_on = False
        self._written = 0

    def _check_log_dir_exists(self) -> None:
        """Leave the file alone: only what follows decides about it."""

    @property
    def rows(self) -> int:
        """Number of rows that are logged."""
        return self._written + len(self.metrics)

    def go_on(self, rows: int, most: int) -> int:
        """Keep the rows that a run had logged which is resumed, but for those that it logs again.

        Args:
            rows: Number of rows before the checkpoint.
            most: The same with what was to be logged next.

        Returns:
            Number of rows that are kept. There may be fewer, after a failure of the machine.
        """
        found = _rows(self._path)[:most]
        kept = [{name: value for name, value in row.items() if value} for row in found]
        self.metrics_keys = sorted(set().union(*kept))
        write(self._path, _text(self.metrics_keys, kept, header=True))
        self._goes_on, self._written = True, len(kept)
        return len(kept)

    def save(self) -> None:
        """Add the rows since the last time.

        Raises:
            UserError: If they can't be written; the rows before them are still there.
        """
        if not self.metrics:
            return
        if self._record_new_keys() or not self._goes_on:
            before = _rows(self._path) if self._goes_on else []
            write(self._path, _text(self.metrics_keys, [*before, *self.metrics], header=True))
        else:
            self._append(_text(self.metrics_keys, self.metrics))
        self._goes_on = True
        self._written += len(self.metrics)
        self.metrics = []

    def _append(self, rows: str) -> None:
        try:
            with self._path.open("ab", buffering=0) as file:
                end = file.tell()
                try:
                    if file.write(content := rows.encode()) != len(content):
                        file.write(content)  # raises what was wrong
                except OSError:
                    file.truncate(end)
                    raise
        except OSError as error:
            raise cant_write(self._path, error) from error


def _rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file that are whole."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    lines = io.StringIO(text[: text.rfind("\n") + 1], newline="")
    rows = [row for row in csv.DictReader(lines) if None not in row and None not in row.values()]
    return [row for row in rows if str(row.get("step")).isdecimal()]


def last_values(run: Path) -> dict[str, float]:
    """Return the last value of each metric that a run directory has."""
    rows = _rows(run / csv_logs.ExperimentWriter.NAME_METRICS_FILE)
    values = {name: value for row in rows for name, value in row.items() if value}
    values.pop("step", None)
    return {name: float(value) for name, value in values.items()}


def _text(names: list[str], rows: list[dict[str, Any]], header: bool = False) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names)
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def metrics_file(logger: CSVLogger) -> MetricsFile | None:
    """Return the file of a logger with all of its rows; other ranks than the first have none."""
    logger.save()
    return logger.experiment if isinstance(logger.experiment, MetricsFile) else None


csv_logs.ExperimentWriter = MetricsFile  # type: ignore[misc]  # for every CSVLogger

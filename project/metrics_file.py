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

    def _check_log_dir_exists(self) -> None:
        """Leave the file alone: only what follows decides about it."""

    def go_on(self, step: int, epoch: int, of_epoch: str) -> None:
        """Keep the rows of a run that is resumed, but for those that it writes once more.

        Args:
            step: Optimizer steps of the checkpoint.
            epoch: Epochs that are over in it.
            of_epoch: A metric that is in the row of every epoch.
        """
        rows = [
            row
            for row in _rows(self._path)
            if int(row["step"]) < step and not (row.get(of_epoch) and int(row["epoch"]) >= epoch)
        ]
        self.metrics_keys = sorted(set().union(*rows))
        write(self._path, _text(self.metrics_keys, rows, header=True))
        self._goes_on = True

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
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if None not in row.values()]
    return [row for row in rows if str(row.get("step")).isdecimal()]


def _text(names: list[str], rows: list[dict[str, Any]], header: bool = False) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names)
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def continue_metrics(logger: CSVLogger, step: int, epoch: int, of_epoch: str) -> None:
    """Let a logger go on with the file of the run that is resumed: :meth:`MetricsFile.go_on`."""
    if isinstance(logger.experiment, MetricsFile):  # not on other ranks
        logger.experiment.go_on(step, epoch, of_epoch)


csv_logs.ExperimentWriter = MetricsFile  # type: ignore[misc]  # for every CSVLogger

"""What a person sees in the terminal."""

import sys

from rich.console import Console
from rich.table import Table
from tqdm import tqdm


def show(text: str) -> None:
    """Print text above the progress bar, if there is one."""
    tqdm.write(text)


def print_table(table: Table) -> None:
    """Print a table; where the output is no terminal, it is up to 140 characters wide."""
    Console(width=None if sys.stdout.isatty() else 140).print(table)

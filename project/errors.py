"""The one exception that is meant for the person at the keyboard."""

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """A mistake in a config, on the command line or in the data.

    The message says what is wrong and what would be right. The command line prints it without a
    stack trace and exits with 2.

    Who finds the mistake may not know the key that the user wrote: a network knows its argument
    ``weights``, and only an approach knows that this is ``model.network.weights``. So a message
    starts with the key as far as it is known, and :func:`under` completes it on the way up.

    Args:
        message: What is wrong, and what would be right.
        key: The key of the config that is wrong, as far as it is known; may be empty.
    """

    def __init__(self, message: str, key: str = "") -> None:
        super().__init__(message, key)
        self.message = message
        self.key = key

    def __str__(self) -> str:
        """Return the message with its key in front."""
        return f"{self.key}: {self.message}" if self.key else self.message


@contextmanager
def under(prefix: str, **renamed: str) -> Iterator[None]:
    """Complete the keys of errors that are raised inside.

    ::

        with under("model", name="backbone"):
            raise UserError("there is no such architecture", key="name")  # model.backbone: there …

    Args:
        prefix: Key of the object whose arguments the errors name; may be empty.
        renamed: Arguments that have another name there.

    Raises:
        UserError: With the whole key, where it has one.
    """
    try:
        yield
    except UserError as error:
        if error.key:
            first, dot, rest = error.key.partition(".")
            key = f"{renamed.get(first, first)}{dot}{rest}"
            error.key = f"{prefix}.{key}" if prefix else key
        raise


@contextmanager
def as_own_option(prefix: str) -> Iterator[None]:
    """Let errors that are raised inside name the option of a command that has no such prefix.

    Args:
        prefix: Key below which a config has what the command takes as options, such as ``model``.

    Raises:
        UserError: With ``weights`` in place of ``model.weights``.
    """
    try:
        yield
    except UserError as error:
        error.key = error.key.removeprefix(f"{prefix}.")
        raise

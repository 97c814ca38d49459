"""The one exception that is meant for the person at the keyboard."""


class UserError(Exception):
    """A mistake in a config or in the data.

    The message names the file or key, what is wrong with it and what would be right. The command
    line prints it without a stack trace and exits with 2.
    """

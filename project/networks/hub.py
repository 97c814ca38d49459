"""Whether a hub of weights can be reached, found out without a long wait."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

PATIENCE = 5  # seconds for an answer
PROXIES = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")


@contextmanager
def offline_where_unreachable() -> Iterator[None]:
    """Let ``huggingface_hub`` look into its cache alone if its server can't be reached.

    It would try each file six times, which takes most of a minute. Behind a proxy only the proxy
    knows.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not answers(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def answers(url: str) -> bool:
    """Return whether a server can be reached, within :data:`PATIENCE`."""
    if any(os.environ.get(name) for name in PROXIES):
        return True
    parts = urlsplit(url)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    try:
        with socket.create_connection((parts.hostname or "", port), PATIENCE):
            return True
    except OSError:
        return False

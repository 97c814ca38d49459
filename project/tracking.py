"""Where W&B keeps a run: online if the user is logged in, else offline. It never asks or hangs."""

import os
import socket
from pathlib import Path
from typing import Literal, cast, get_args
from urllib.parse import urlparse
from urllib.request import getproxies

from project.errors import UserError

Mode = Literal["online", "offline", "disabled", "shared"]
PROBE_SECONDS = 3.0


def wandb_mode() -> tuple[Mode, str]:
    """Decide how W&B runs, before it is started.

    ``wandb.init`` itself prompts, crashes or waits for minutes without a key or a network, and
    can't be relied on to fall back: https://github.com/wandb/wandb/issues/9865

    Returns:
        The mode and the reason for it.

    Raises:
        UserError: If ``WANDB_MODE`` is not a mode.
    """
    if chosen := os.environ.get("WANDB_MODE"):
        chosen = {"dryrun": "offline", "run": "online"}.get(chosen, chosen)
        if chosen not in get_args(Mode):
            raise UserError(f"WANDB_MODE: {chosen} is none of {', '.join(get_args(Mode))}")
        return cast(Mode, chosen), f"{chosen}, by WANDB_MODE"
    from wandb.sdk.lib.urls import DEFAULT_BASE_URL
    from wandb.sdk.lib.wbauth import read_netrc_auth

    url = os.environ.get("WANDB_BASE_URL", DEFAULT_BASE_URL)
    has_key = any(os.environ.get(f"WANDB_{name}") for name in ("API_KEY", "IDENTITY_TOKEN_FILE"))
    if not has_key and not read_netrc_auth(host=url):
        return "offline", "offline, because nobody is logged in (wandb login)"
    address = urlparse(url)
    if address.scheme in getproxies():
        return "online", "online, through a proxy"
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname or "", port), timeout=PROBE_SECONDS).close()
    except OSError:
        return "offline", f"offline, because {address.hostname} can't be reached"
    return "online", "online"


def how_to_view(run_dir: Path) -> str:
    """Return the line that says how to see and to upload an offline run."""
    return f"view: wandb leet {run_dir}/wandb   upload: wandb sync {run_dir}/wandb/*run-*"

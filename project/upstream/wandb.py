"""What W&B has no public name for: its server, and whether somebody is logged in."""


def wandb_url() -> str:
    """Return the address of W&B's own server."""
    from wandb.sdk.lib.urls import DEFAULT_BASE_URL

    return str(DEFAULT_BASE_URL)


def logged_in_to_wandb(url: str) -> bool:
    """Return whether ``wandb login`` has left a key for a server.

    ``wandb.login`` itself would ask for one: https://github.com/wandb/wandb/issues/9865
    """
    from wandb.sdk.lib.wbauth import read_netrc_auth

    return bool(read_netrc_auth(host=url))

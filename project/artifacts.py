"""Models that W&B keeps: fetching one by its name."""

from functools import cache
from pathlib import Path

from project.console import readable
from project.errors import UserError

PREFIX = "wandb:"
PLACE = Path("artifacts")  # where W&B itself would put it


def is_artifact(path: str | Path) -> bool:
    """Return whether a path is the name of one, such as ``wandb:me/flowers/model-x:best``."""
    return str(path).startswith(PREFIX)


@cache
def fetched(name: str) -> Path:
    """Return the folder of an artifact, which is fetched unless it is there and whole.

    Args:
        name: ``wandb:``, and the entity, the project, the name and the alias or version.

    Raises:
        UserError: If W&B can't be reached, or has no such artifact.
    """
    import wandb  # slow to import

    try:
        artifact = wandb.Api().artifact(name.removeprefix(PREFIX))
        folder = PLACE / artifact.name.replace(":", "-")  # with the version that the alias means
        return Path(artifact.download(root=str(folder)))
    except (wandb.errors.Error, ValueError, OSError) as error:
        reason = readable((str(error) or type(error).__name__).splitlines()[0])
        raise UserError(f"{name} can't be fetched: {reason}") from error

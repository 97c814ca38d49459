"""Pages in HTML: one file each, which needs no network and no JavaScript."""

import base64
import io
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from jinja2 import Environment


def templates(package: str, html: bool) -> "Environment":
    """Return the templates of a command, and the style that all pages share.

    Args:
        package: Package that holds them, in its folder ``templates``.
        html: Whether values are escaped for HTML.
    """
    import jinja2

    return jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(one) for one in (package, __package__)]),
        autoescape=html,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def data_url(picture: Image.Image, lossless: bool = False) -> str:
    """Return a picture as a data URL, in WebP, which is half as large as PNG.

    Args:
        picture: The picture.
        lossless: Whether all pixels stay as they are, as lines and letters need it.
    """
    file = io.BytesIO()
    picture.convert("RGB").save(file, "webp", lossless=lossless)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"

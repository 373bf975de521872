"""Figures as small files: what nobody can see is left out."""

import io
import re

from PIL import Image

COORDINATE = re.compile(r"(?<![\w#.])-?[1-9]\d*\.\d{3,}")  # not below 1: scales and opacities keep their digits
NOTHING = re.compile(r'<g id="[^"]*">\s*<path(?: (?:clip-path|style)="[^"]*")*/>\s*</g>\s*')  # a path without points
POINT = re.compile(r" \n([LQCz])\b ?")  # of a path, which Matplotlib writes on a line of its own
STYLE = re.compile(r'style="[^"]*"')
COLOURS = 256


def small_png(picture: bytes) -> bytes:
    """A PNG file with at most 256 colours, chosen so that each of its own has one of them near it."""
    best = {"method": Image.Quantize.MAXCOVERAGE, "kmeans": 1, "dither": Image.Dither.NONE}
    written = io.BytesIO()
    Image.open(io.BytesIO(picture)).convert("RGB").quantize(COLOURS, **best).save(written, "PNG", optimize=True)
    return written.getvalue()


def small_svg(picture: str) -> str:
    """An SVG file with coordinates to a hundredth of a point, without blanks and without lines of no points."""
    drawn = NOTHING.sub("", picture)
    rounded = COORDINATE.sub(lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), drawn)
    dense = STYLE.sub(lambda found: re.sub(r"([:;]) ", r"\1", found[0]), POINT.sub(r"\1", rounded))
    return re.sub(r"\n\s+", "\n", dense)

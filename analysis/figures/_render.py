"""A figure as the bytes of a file, at the size it was drawn in or enlarged as a whole."""

from __future__ import annotations

import io
import re
from typing import Any

from matplotlib.backends.backend_pdf import Op, PdfFile, PdfPages
from matplotlib.figure import Figure

from analysis.figures import _style

SVG_SIZE = re.compile(r'(<svg [^>]*?)width="([0-9.]+)pt" height="([0-9.]+)pt"', re.DOTALL)


def render(figure: Figure, extension: str, factor: float, dpi: float) -> bytes:
    """The file's bytes, the same for the same figure: no dates, no versions.

    Args:
        factor: width and height of the file over those of the figure; letters, lines and marks grow alike.
        dpi: pixels for each inch of the file, in PNG and in what is an image in the others.
    """
    file = io.BytesIO()
    metadata = _style.METADATA[extension]
    with _style.applied():
        if extension == "png":
            figure.savefig(file, format="png", metadata=metadata, dpi=factor * dpi, pil_kwargs={"dpi": (dpi, dpi)})
        elif extension == "pdf" and factor != 1:
            with LargerPages(file, metadata, factor) as pages:
                figure.savefig(pages, format="pdf", dpi=factor * dpi)
        else:
            figure.savefig(file, format=extension, metadata=metadata, dpi=factor * dpi)
    return file.getvalue() if extension != "svg" or factor == 1 else larger_svg(file.getvalue().decode(), factor)


def larger_svg(text: str, factor: float) -> bytes:
    """The same drawing with another width and height; what is inside keeps its coordinates."""

    def size(found: re.Match[str]) -> str:
        width, height = (f"{factor * float(found[i]):.4f}" for i in (2, 3))
        return f'{found[1]}width="{width}pt" height="{height}pt"'

    return SVG_SIZE.sub(size, text, count=1).encode()


class LargerFile(PdfFile):
    """A PDF whose pages are larger than what is drawn on them, by a factor that enlarges the drawing too."""

    def __init__(self, file: Any, metadata: Any, factor: float) -> None:
        super().__init__(file, metadata=metadata)  # type: ignore[no-untyped-call]
        self.factor = factor

    def newPage(self, width: float, height: float) -> None:
        super().newPage(self.factor * width, self.factor * height)  # type: ignore[no-untyped-call]
        self.width, self.height = width, height
        self.output(self.factor, 0, 0, self.factor, 0, 0, Op.concat_matrix)  # type: ignore[no-untyped-call]


class LargerPages(PdfPages):
    """What `savefig` takes in place of a file."""

    def __init__(self, file: Any, metadata: Any, factor: float) -> None:
        super().__init__(file)
        self._file = LargerFile(file, metadata, factor)

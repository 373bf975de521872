"""Markdown as LaTeX that a plain TeX Live sets, and PDF where one is at hand.

nbconvert's own way to LaTeX needs pandoc, which no Python package brings.
"""

import math
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from mistune import HTMLRenderer
from nbconvert.filters.markdown_mistune import MarkdownWithMath

from .ledger import MARKED
from .surroundings import TEX

SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "[": "{[}",  # behind the end of a row a bracket would be an option
    "]": "{]}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "−": "$-$",
    "¬": r"$\neg$",
    "∞": r"$\infty$",
    "×": r"$\times$",
    "±": r"$\pm$",
    "·": r"$\cdot$",
    "≥": r"$\ge$",
    "≤": r"$\le$",
    "²": r"$^2$",
    "χ": r"$\chi$",
    "λ": r"$\lambda$",
    "γ": r"$\gamma$",
    "κ": r"$\kappa$",
    "σ": r"$\sigma$",
    "δ": r"$\delta$",
    "\u00a0": "~",
    "–": "--",
    "…": r"\ldots{}",
    "▲": r"$\blacktriangle$",
    "▼": r"$\blacktriangledown$",
    "_": r"\_\allowbreak{}",
} | {character: f"\\{character}" for character in "&%$#"}
HEADINGS = {2: "section", 3: "subsection", 4: "paragraph"}
MARKS = "\ue000\ue001\ue002"  # of the ledger
NARROW = (18, 12, 8, 0)
"""Letters up to which a column is not broken into lines; the first that leaves room for the others."""
LEAST = 0.09  # of the line, for a column that is broken
LETTER = 0.0135
"""Width of a letter with its share of the space between columns, in lines."""
CELL = "\x1f"  # behind a cell; its first letter is its alignment
RUNS = 4  # at most: until references and widths of tables stand
LIMIT_S = 120


def escaped(text: str) -> str:
    """Text that LaTeX shows as it is; a character beyond Latin that is not in SPECIAL as its number."""
    return "".join(
        SPECIAL.get(character, character if ord(character) < 0x180 or character in MARKS else f"U+{ord(character):04X}")
        for character in text
    )


class _Renderer(HTMLRenderer):
    """What Markdown's elements are in LaTeX."""

    NAME = "latex"

    def text(self, text: str) -> str:
        return escaped(text)

    def inline_html(self, html: str) -> str:
        return escaped(html)

    def emphasis(self, text: str) -> str:
        return f"\\emph{{{text}}}"

    def strong(self, text: str) -> str:
        return f"\\textbf{{{text}}}"

    def codespan(self, text: str) -> str:
        return "\\texttt{" + re.sub(r"(?<=[/.-])", r"\\allowbreak{}", escaped(text)) + "}"

    def link(self, text: str, url: str, title: str | None = None) -> str:
        address = re.sub(r"([%#&])", r"\\\1", url)
        return f"\\href{{{address}}}{{{text}}}" if re.match("https?:", url) else text

    def image(self, text: str, url: str, title: str | None = None) -> str:
        return f"\\begin{{center}}\\includegraphics[width=\\linewidth]{{{url}}}\\end{{center}}"

    def linebreak(self) -> str:
        return "\\\\\n"

    def inline_math(self, body: str) -> str:
        return f"${body}$"

    def block_math(self, body: str) -> str:
        return f"\\[{body}\\]"

    def paragraph(self, text: str) -> str:
        return f"{text}\n\n"

    def heading(self, text: str, level: int, **attrs: object) -> str:
        return f"\\{HEADINGS[level]}{{{text}}}\n\n"

    def block_code(self, code: str, info: str | None = None) -> str:
        return f"\\begin{{verbatim}}\n{code}\\end{{verbatim}}\n\n"

    def list(self, text: str, ordered: bool, **attrs: object) -> str:
        kind = "enumerate" if ordered else "itemize"
        return f"\\begin{{{kind}}}\n{text}\\end{{{kind}}}\n\n"

    def list_item(self, text: str) -> str:
        return f"\\item {text.strip()}\n"

    def table(self, text: str) -> str:
        head, _, body = text.partition("\n")
        rows = [line.split(CELL)[:-1] for line in (head, *body.splitlines())]
        widths = [
            max(len(re.sub(r"\\[a-z]+", "", MARKED.sub(r"\2", row[i][1:]))) for row in rows)
            for i in range(len(rows[0]))
        ]
        columns = "".join(_columns([cell[0] for cell in rows[0]], widths))
        first, *rest = (" & ".join(cell[1:] for cell in row) + " \\\\" for row in rows)
        return (
            f"\\begin{{footnotesize}}\\begin{{longtable}}{{@{{}}{columns}@{{}}}}\n\\toprule\n{first}\n\\midrule\n\\endhead\n"
            + "\n".join(rest)
            + "\n\\bottomrule\n\\end{longtable}\\end{footnotesize}\n\n"
        )

    def table_head(self, text: str) -> str:
        return f"{text}\n"

    def table_body(self, text: str) -> str:
        return text

    def table_row(self, text: str) -> str:
        return f"{text}\n"

    def table_cell(self, text: str, align: str | None = None, head: bool = False) -> str:
        return f"{'r' if align == 'right' else 'l'}{text}{CELL}"


def _columns(sides: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    """A column of LaTeX for each of the table's: `l` or `r`, or one that breaks lines; the wide ones share what the
    others leave of the line, in proportion to the roots of their widths in letters."""
    for narrow in NARROW:
        free = 0.94 - sum(LETTER * width for width in widths if width <= narrow)
        wide = [math.sqrt(width) for width in widths if width > narrow]
        if free >= LEAST * len(wide):
            break
    for side, width in zip(sides, widths, strict=True):
        if width <= narrow:
            yield side
        else:
            ragged = "raggedleft" if side == "r" else "raggedright"
            share = free * math.sqrt(width) / sum(wide)
            yield f">{{\\{ragged}\\arraybackslash}}p{{{share:.3f}\\linewidth}}"


def latex(markdown: str) -> str:
    """Markdown with mathematics as the body of a LaTeX document."""
    return MarkdownWithMath(renderer=_Renderer()).render(markdown)


def pdf(source: Path) -> str:
    """Make the PDF of a LaTeX file beside it, the same bytes for the same file; "" or, in one line, why there is none.
    An older one is taken away."""
    target = source.with_suffix(".pdf")
    target.unlink(missing_ok=True)
    if shutil.which(TEX) is None:
        return f"no {TEX} is at hand here"
    with tempfile.TemporaryDirectory() as made:
        words = [TEX, "-interaction=nonstopmode", "-halt-on-error", f"-output-directory={made}", source.name]
        constant = os.environ | {"SOURCE_DATE_EPOCH": "0", "FORCE_SOURCE_DATE": "1"}
        for _ in range(RUNS):
            try:
                run = subprocess.run(words, cwd=source.parent, env=constant, capture_output=True, timeout=LIMIT_S)
            except (OSError, subprocess.TimeoutExpired) as error:
                return f"{TEX}: {type(error).__name__}"
            said = run.stdout.decode("utf-8", "replace")
            if run.returncode:
                return f"{TEX}: {next(iter(re.findall(r'^! .*', said, re.M)), f'exit status {run.returncode}')}"
            if "Rerun" not in said:
                break
        shutil.copyfile(Path(made) / target.name, target)
    return ""

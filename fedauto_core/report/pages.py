"""The page of an executed notebook: prose, code, mathematics as MathML, figures and tables as linked files."""

import html
import os
import re
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from pygments import highlight
from pygments.filter import simplefilter
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer
from pygments.token import Name, Punctuation, Text, Whitespace

from fedauto_core.errors import InputError, require, require_known

from .mathematics import mathml
from .plain import ANSI, plain

CODE = HtmlFormatter(cssclass="highlight")
ROWS = 10  # of a table that are shown before it is unfolded
LONG = 16  # letters of a formula within a line that may be wider than a telephone
ROW = re.compile(r"<tr\b.*?</tr>\s*", re.DOTALL)
NUMBERS = re.compile(r"\b(Notebooks? )(\d\d(?:(?:,| and| to|) \d\d)*)\b", re.IGNORECASE)
DISPLAY = re.compile(r"\$\$.*?\$\$|\\begin\{(\w+\*?)\}.*?\\end\{\1\}", re.DOTALL)
LABEL = re.compile(r"\\label\{([^{}]*)\}")
TAG = re.compile(r"\\tag\*?\{([^{}]*)\}")
REFERENCE = re.compile(r"\\(?:eq)?ref\{([^{}]*)\}")
PLAIN = (Name, Punctuation, Whitespace)  # tokens in the colour of text; marked, they were a quarter of all pages
EVIDENCE = re.compile(r"(?<=evidence: )\*(\w+)\*(?=\.$)")


@simplefilter
def _unmarked(self, lexer, stream, options):
    """Tokens of code, those without a colour of their own as text."""
    return ((Text if kind in PLAIN else kind, text) for kind, text in stream)


@dataclass
class Place:
    """Where a piece of prose will stand.

    notebooks_dir: where its links are right. folder: of its page. notebooks: number, as "03" -> address from the page
    and title, for links. words: what stands in backticks or is emphasised, in small letters -> address from the page.
    cited: text, escaped for HTML -> the same with its citations as links. equations: label -> number, of the whole
    page. pictures: what was pasted into the cell, as name -> {media type: base64}. headings: level, identifier and text
    of those rendered so far.
    """

    notebooks_dir: Path
    folder: Path
    notebooks: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)
    cited: Callable[[str], str] = str
    equations: Mapping[str, str] = field(default_factory=dict)
    pictures: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    headings: list[tuple[int, str, str]] = field(default_factory=list)

    def identifier(self, text: str) -> str:
        """What a link calls the heading, as Jupyter does; the second of the same name gets a number."""
        name, taken = re.sub(r"\s", "-", plain(text)), {identifier for _, identifier, _ in self.headings}
        same = sum(other == name or re.fullmatch(rf"{re.escape(name)}-\d+", other) is not None for other in taken)
        return f"{name}-{same + 1}" if same else name


def equation_numbers(sources: Iterable[str]) -> dict[str, str]:
    r"""Label -> number of every `\label` in prose: the `\tag` in front of it, or else counted. InputError for a label
    that stands twice."""
    numbers: dict[str, str] = {}
    prose = "\n\n".join(re.sub(r"```.*?```|`[^`]*`", "", source, flags=re.DOTALL) for source in sources)
    for block in (found[0] for found in DISPLAY.finditer(prose)):
        for label in LABEL.findall(block):
            require(
                label not in numbers,
                f"equation label {label!r} stands twice",
                allowed="one equation for each label",
                remedy="rename one of them",
            )
            tag = TAG.search(block)
            numbers[label] = tag[1] if tag else str(len(numbers) + 1)
    return numbers


class _Renderer(IPythonRenderer):
    """Markdown to HTML with MathML; links between notebooks, and the numbers of notebooks, become links between pages;
    citations, names of methods and the terms of the glossary become links.

    escape: show HTML as text, where the prose was computed and not written.
    """

    def __init__(self, place: Place, escape: bool) -> None:
        super().__init__(escape=escape, exclude_anchor_links=True, attachments=place.pictures)
        self.place = place

    def inline_math(self, body: str) -> str:
        if reference := REFERENCE.fullmatch(body.strip()):
            return self._reference(reference[1])
        formula = mathml(body)
        letters = re.sub(r"<[^>]+>|&\w+;", "", formula)
        return f'<span class="long">{formula}</span>' if len(letters) > LONG else formula

    def block_math(self, body: str) -> str:
        return self._equation(body)

    def latex_environment(self, name: str, body: str) -> str:
        return self._equation(f"\\begin{{{name}}}{body}\\end{{{name}}}")

    def text(self, text: str) -> str:
        cited = self.place.cited(super().text(text))
        linked = NUMBERS.sub(lambda found: found[1] + re.sub(r"\d\d", self._notebook, found[2]), cited)
        return REFERENCE.sub(lambda found: self._reference(found[1]), linked)

    def codespan(self, text: str) -> str:
        return self._explained(text, super().codespan(text))

    def emphasis(self, text: str) -> str:
        return self._explained(text, super().emphasis(text))

    def strong(self, text: str) -> str:
        return self._explained(text, super().strong(text))

    def heading(self, text: str, level: int, **attrs: object) -> str:
        text = _without_links(text)
        words = html.unescape(re.sub(r"<[^>]+>", "", text))
        identifier = self.place.identifier(words)
        self.place.headings.append((level, identifier, words))
        return f'<h{level} id="{html.escape(identifier)}">{text}</h{level}>\n'

    def link(self, text: str, url: str, title: str | None = None) -> str:
        return super().link(_without_links(text), self._relocated(url), title)

    def image(self, text: str, url: str, title: str | None = None) -> str:
        self._require_picture(url)
        return super().image(text, self._relocated(url), title)

    def inline_html(self, html: str) -> str:
        return super().inline_html(self._with_pictures(html))

    def block_html(self, html: str) -> str:
        return super().block_html(self._with_pictures(html))

    def table(self, text: str) -> str:
        head, end, body = text.partition("</thead>")
        if not re.sub(r"<[^>]+>|\s", "", head):  # a table must have a head in Markdown, which a card leaves empty
            head, end = "", ""
        return scroll_box(_with_corners(f"<table>\n{head}{end}{body}</table>"), "table")

    def _equation(self, latex: str) -> str:
        """Display mathematics in a box of its own: a formula wider than the page scrolls, the page does not."""
        label, tag = LABEL.search(latex), TAG.search(latex)
        body = mathml(TAG.sub("", LABEL.sub("", latex)), "block")
        number = tag[1] if tag else self.place.equations.get(label[1]) if label else None
        anchor = f' id="{html.escape(label[1])}"' if label else ""
        return equation_box(body, anchor, f'<span class="number">({html.escape(number)})</span>' if number else "")

    def _explained(self, word: str, shown: str) -> str:
        address = self.place.words.get(html.unescape(word).rstrip(".").casefold())
        return f'<a class="word" href="{address}">{shown}</a>' if address else shown

    def _reference(self, label: str) -> str:
        require_known("equation label", label, self.place.equations)
        return f'<a href="#{html.escape(label)}">({html.escape(self.place.equations[label])})</a>'

    def _notebook(self, number: re.Match[str]) -> str:
        if (found := self.place.notebooks.get(number[0])) is None:
            return number[0]
        address, title = found
        return f'<a href="{address}" title="{html.escape(title)}">{number[0]}</a>'

    def _require_picture(self, url: str) -> None:
        if url.startswith("attachment:"):
            require_known("pasted picture", url.removeprefix("attachment:"), self.place.pictures)

    def _with_pictures(self, source: str) -> str:
        """An <img> of a picture that was pasted into the cell shows it."""

        def embedded(found: re.Match[str]) -> str:
            self._require_picture(found[1])
            return f'src="{self._embed_image_or_attachment(found[1])}"'

        return re.sub(r"""src=["']?(attachment:[^"'\s>]+)["']?""", embedded, source)

    def _relocated(self, url: str) -> str:
        """A link that is right in the notebooks folder, or to a file of the page, as seen from the page's folder."""
        path, mark, anchor = url.partition("#")
        if not path or re.match(r"[a-z]+:", url):
            return url
        notebook = re.fullmatch(r"(?:\./)?(\d\d)\w*\.ipynb", path)
        if notebook and notebook[1] in self.place.notebooks:
            return f"{self.place.notebooks[notebook[1]][0]}{mark}{anchor}"
        if report := re.fullmatch(r"\.\./reports/\w+/([\w/-]+\.html)", path):
            return f"../{report[1]}{mark}{anchor}"  # of this report, whatever its profile
        if (self.place.folder / path).is_file():
            return url
        return os.path.relpath(self.place.notebooks_dir / path, self.place.folder) + mark + anchor


def _with_corners(table: str) -> str:
    """An empty cell in a table's head, as above row names, heads nothing."""
    return re.sub(r"<th\b[^>]*></th>", "<td></td>", table)


def _without_links(text: str) -> str:
    return re.sub(r"</?a\b[^>]*>", "", text)


def equation_box(body: str, anchor: str = "", number: str = "") -> str:
    """Display mathematics that scrolls by itself where it is too wide."""
    return f'<div class="equation"{anchor}><div class="scroll">{body}</div>{number}</div>'


def scroll_box(body: str, name: str) -> str:
    """A box that scrolls by itself; `name` tells a screen reader what is in it."""
    return f'<div class="scroll" data-label="{html.escape(name)}">{body}</div>'


def markdown(source: str, place: Place, escape: bool = False) -> str:
    """Markdown with mathematics as HTML. escape: show HTML in it as text. InputError for mathematics or pictures that
    cannot be shown."""
    return MarkdownWithMath(renderer=_Renderer(place, escape)).render(source)


def require_prose(source: str, name: str) -> None:
    """InputError if the prose of a source notebook (its file's text) holds what a page could not show: told before it
    is run."""
    place = Place(Path(), Path())
    cells = nbformat.reads(source, as_version=4).cells
    place.equations = equation_numbers(cell.source for cell in cells if cell.cell_type == "markdown")
    for number, cell in enumerate(cells, 1):
        if cell.cell_type == "markdown":
            place.pictures = cell.get("attachments", {})
            try:
                markdown(cell.source, place)
            except InputError as error:
                raise error.within(f"{name}, cell {number}") from None


def folded(table: str, name: str, csv: str = "") -> str:
    """A table that shows its first ROWS rows until it is unfolded, with its CSV file beside it if there is one."""
    table = _with_corners(table)
    head, body, rest = table.partition("<tbody>")
    inside, end, tail = rest.partition("</tbody>")
    rows = ROW.findall(inside)
    files = [f'<a href="{csv}" download>CSV</a>'] if csv else []
    if len(rows) > ROWS:
        first, more = "".join(rows[:ROWS]), "".join(rows[ROWS:])
        table = f'{head}{body}{first}{end}\n<tbody class="more">{more}</tbody>{tail}'
        files.insert(0, f'<button type="button" class="unfold">all {len(rows)} rows</button>')
    under = f'<p class="files">{name}: {", ".join(files)}</p>' if files else ""
    return scroll_box(table, f"table {name}".strip()) + under


def picture_size(path: Path) -> tuple[int, int] | None:
    """Width and height of a PNG or SVG file in CSS pixels; None if it is missing or damaged."""
    content = path.read_bytes() if path.is_file() else b""
    if content.startswith(b"\x89PNG") and len(content) > 24:
        return struct.unpack(">II", content[16:24])
    box = re.search(rb'<svg[^>]* viewBox="0 0 ([\d.]+) ([\d.]+)"', content)
    return (round(float(box[1]) * 4 / 3), round(float(box[2]) * 4 / 3)) if box else None  # from points


def picture(folder: Path, slug: str, caption: str, where: str = "") -> str:
    """A recorded figure: SVG where that is the smaller file, else PNG; loaded when it comes into view.

    where: the way to `folder` from the page.
    """
    sizes = {path: picture_size(path) for path in (folder / f"{slug}.svg", folder / f"{slug}.png")}
    readable = [path for path, size in sizes.items() if size]
    if not readable:
        return f"<span>figure {slug} is missing or damaged</span>"
    chosen = min(readable, key=lambda path: path.stat().st_size)
    width, height = sizes[chosen]
    alt = html.escape(f"Figure {slug}: {plain(caption)}")
    return f'<img src="{where}{chosen.name}" width="{width}" height="{height}" loading="lazy" alt="{alt}">'


def _output(output: nbformat.NotebookNode, place: Place, where: Path) -> str:
    """The richest form of one output. A recorded product is linked to its files, which lie in `where`."""
    if output.output_type == "stream":
        return f'<pre class="{output.name}">{html.escape(ANSI.sub("", output.text))}</pre>'
    if output.output_type == "error":
        return f'<pre class="stderr">{html.escape(ANSI.sub("", chr(10).join(output.traceback)))}</pre>'
    product, data = output.metadata.get("fedauto", {}), output.data
    slug = product.get("slug", "")
    if product.get("kind") == "figure":
        links = ", ".join(f'<a href="{slug}.{suffix}">{suffix.upper()}</a>' for suffix in ("svg", "png", "csv"))
        shown = picture(where, slug, product["caption"])
        return f'<a class="figure" href="{slug}.svg">{shown}</a><p class="files">{slug}: {links}</p>'
    if "text/html" in data:
        return folded(data["text/html"], slug, f"{slug}.csv" if slug else "")
    for kind in ("image/png", "image/jpeg"):
        if kind in data:
            return f'<img src="data:{kind};base64,{data[kind].strip()}" alt="picture that the code above shows">'
    if "text/markdown" in data:
        return markdown(EVIDENCE.sub(r"[\1](#\1)", data["text/markdown"]), place, escape=True)
    if "text/latex" in data:
        return equation_box(mathml(data["text/latex"].strip().strip("$").removeprefix("\\displaystyle"), "block"))
    return f"<pre>{html.escape(data.get('text/plain', ''))}</pre>"


def _shown(output: nbformat.NotebookNode, place: Place, where: Path) -> str:
    """As `_output`. What was computed cannot be refused any more: if it cannot be shown, the page says so there."""
    try:
        return _output(output, place, where)
    except InputError as error:
        data = output.data.get("text/markdown", output.data.get("text/latex", ""))
        return f'<pre class="stderr">{html.escape(f"{data}{chr(10) * 2}cannot be shown: {error}")}</pre>'


def notebook_body(notebook: nbformat.NotebookNode, place: Place, where: Path) -> str:
    """The cells of an executed notebook as HTML; its recorded files lie in `where`. Headings are left in `place`."""
    parts = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            place.pictures = cell.get("attachments", {})
            parts.append(markdown(cell.source, place))
        elif cell.cell_type == "code" and cell.source.strip():
            code = highlight(cell.source, PythonLexer(filters=[_unmarked()]), CODE)
            parts.append(f'<div class="source scroll" id="cell-{html.escape(cell.id)}" data-label="code">{code}</div>')
            for output in cell.outputs:
                slug = output.get("metadata", {}).get("fedauto", {}).get("slug")
                anchor = f' id="{slug}"' if slug else ""
                parts.append(f'<div class="output"{anchor}>{_shown(output, place, where)}</div>')
    return "\n".join(parts)

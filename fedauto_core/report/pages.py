"""HTML pages that work without a network: one style, highlighted code, mathematics as MathML, relative links only."""

import html
import os
import re
from pathlib import Path
from xml.etree.ElementTree import tostring

import nbformat
from latex2mathml import commands
from latex2mathml.converter import Converter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from fedauto_core.errors import InputError

CODE = HtmlFormatter(cssclass="highlight", style="default")
FONTS = {*commands.LOCAL_FONTS, *commands.MATH_NON_FONT_COMMANDS}
ANSI = re.compile(r"\x1b\[[0-9;]*m")
STYLE = """
:root { color-scheme: light; }
body { font: 17px/1.6 Georgia, "DejaVu Serif", serif; color: #1c1c1c; background: #fff; margin: 0 auto;
  max-width: 52rem; padding: 1.5rem 1.25rem 4rem; }
h1, h2, h3, h4, nav, table, figcaption, .mark { font-family: "Helvetica Neue", Arial, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 1rem 0; }
h2 { font-size: 1.35rem; margin: 2.2rem 0 .6rem; border-bottom: 1px solid #ddd; }
h3 { font-size: 1.1rem; margin: 1.6rem 0 .4rem; }
a { color: #00599c; }
nav { font-size: .85rem; }
code, pre { font: 14px/1.45 "DejaVu Sans Mono", Menlo, Consolas, monospace; }
p code, li code, td code { background: #f3f3f3; padding: 0 .2em; border-radius: 3px; }
pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }
.source { background: #f7f7f7; border-left: 3px solid #00599c; padding: .5rem .8rem; margin: .8rem 0 .3rem; }
.output { margin: .3rem 0 1rem; overflow-x: auto; }
.output p { margin: .2rem 0; }
.output pre { padding: .2rem .8rem; color: #333; }
.stderr { background: #fff4e5; }
table { border-collapse: collapse; font-size: .85rem; line-height: 1.35; margin: .8rem 0; }
th, td { padding: .3rem .6rem; text-align: left; border-bottom: 1px solid #e2e2e2; vertical-align: top; }
thead th { border-bottom: 2px solid #999; }
td { font-variant-numeric: tabular-nums; }
img { max-width: 100%; height: auto; }
blockquote { margin: 1rem 0; padding: .1rem 1rem; border-left: 3px solid #d9a400; background: #fffaf0; }
mi[mathvariant^="bold"] { font-weight: bold; }
.equation { margin: .9rem 0; padding: .2rem 0; overflow: auto hidden; }
.banner { padding: .4rem .8rem; background: #fff4e5; border: 1px solid #d9a400; font-weight: bold; }
.mark { font-weight: bold; white-space: nowrap; }
.Re { color: #00664d; } .even, .own { color: #00599c; } .notRe { color: #a83a00; } .open { color: #666; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(22rem, 1fr)); gap: 1.5rem; }
figure { margin: 0; } figcaption { font-size: .8rem; line-height: 1.4; }
.wide { max-width: 76rem; }
"""


def document(title: str, body: str, width: str = "") -> str:
    """A whole page with the style inside; width: "" for prose or "wide" for overviews."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{html.escape(title)}</title>\n'
        f"<style>{STYLE}{CODE.get_style_defs('.highlight')}</style>\n</head>\n"
        f'<body class="{width}">\n{body}\n</body>\n</html>\n'
    )


def mathml(latex: str, display: str = "inline") -> str:
    r"""LaTeX as MathML (display: "inline" or "block"). InputError for what the converter does not know.

    The converter itself would show an unknown command as its name, drop an unknown `\math...` font and ignore a
    missing brace.
    """
    latex = re.sub(r"\\arg(?![A-Za-z])", r"\\operatorname{arg}", latex)  # common, and unknown to the converter
    bare = re.sub(r"\\[{}\\]", "", latex)
    unknown = [name for name in re.findall(r"\\math[a-z]+", latex) if name not in FONTS]
    try:
        if bare.count("{") != bare.count("}"):
            raise ValueError("unbalanced braces")
        root = Converter(display=display).convert_to_element(latex)
        for element in root.iter():
            element.text = html.unescape(element.text or "")
            unknown += re.findall(r"\\[A-Za-z]*", element.text)
        if unknown:
            raise ValueError(f"unknown command {', '.join(unknown)}")
    except Exception as error:  # the converter raises many types, none of which names the formula
        raise InputError(
            f"mathematics {latex.strip()!r}: {str(error) or type(error).__name__}",
            allowed="the LaTeX commands that can be shown without a network",
            remedy=r"write it with other commands, for example \operatorname*{arg\,min} or \mathbf{1}",
        ) from error
    return tostring(root, encoding="unicode")


def _equation(latex: str) -> str:
    """Display mathematics in a box of its own: a formula wider than the page scrolls, the page does not."""
    return f'<div class="equation">{mathml(latex, "block")}</div>'


class _Renderer(IPythonRenderer):
    """Markdown to HTML with MathML; links between notebooks become links between pages."""

    def __init__(self, notebooks_dir: Path, folder: Path) -> None:
        super().__init__(escape=False, exclude_anchor_links=True)
        self.notebooks_dir, self.folder = notebooks_dir, folder

    def inline_math(self, body: str) -> str:
        return mathml(body)

    def block_math(self, body: str) -> str:
        return _equation(body)

    def latex_environment(self, name: str, body: str) -> str:
        return _equation(f"\\begin{{{name}}}{body}\\end{{{name}}}")

    def link(self, text: str, url: str, title: str | None = None) -> str:
        return super().link(text, self._relocated(url), title)

    def image(self, text: str, url: str, title: str | None = None) -> str:
        return super().image(text, self._relocated(url), title)

    def _relocated(self, url: str) -> str:
        """A link that is right in the notebooks folder, as seen from the page's folder."""
        path, mark, anchor = url.partition("#")
        if not path or re.match(r"[a-z]+:", url):
            return url
        if notebook := re.fullmatch(r"(?:\./)?(\w+)\.ipynb", path):
            return f"../{notebook[1]}/{notebook[1]}.html{mark}{anchor}"
        return os.path.relpath(self.notebooks_dir / path, self.folder) + mark + anchor


def markdown(source: str, notebooks_dir: Path, folder: Path) -> str:
    """Markdown with mathematics as HTML, for a page in `folder`; relative links are those of a notebook."""
    return MarkdownWithMath(renderer=_Renderer(notebooks_dir, folder)).render(source)


def _output(output: nbformat.NotebookNode, notebooks_dir: Path, folder: Path) -> str:
    """The richest form of one output. A recorded figure is linked to its files instead of being embedded again."""
    if output.output_type == "stream":
        return f'<pre class="{output.name}">{html.escape(ANSI.sub("", output.text))}</pre>'
    if output.output_type == "error":
        return f'<pre class="stderr">{html.escape(ANSI.sub("", chr(10).join(output.traceback)))}</pre>'
    product = output.metadata.get("fedauto", {})
    if product.get("kind") == "figure":
        slug, alt = product["slug"], html.escape(product["caption"])
        links = ", ".join(f'<a href="{slug}.{suffix}">{suffix.upper()}</a>' for suffix in ("svg", "csv"))
        return f'<img src="{slug}.png" alt="{alt}"><nav>{slug}: {links}</nav>'
    data = output.data
    if "text/html" in data:
        return data["text/html"]
    if "image/png" in data:
        return f'<img src="data:image/png;base64,{data["image/png"].strip()}" alt="figure">'
    if "text/markdown" in data:
        return markdown(data["text/markdown"], notebooks_dir, folder)
    if "text/latex" in data:
        return _equation(data["text/latex"].strip().strip("$").removeprefix("\\displaystyle"))
    return f"<pre>{html.escape(data.get('text/plain', ''))}</pre>"


def banner_box(text: str) -> str:
    """What a reader must know before anything else, in a box; nothing for an empty text."""
    return f'<p class="banner">{html.escape(text)}</p>' if text else ""


def notebook_page(
    notebook: nbformat.NotebookNode, name: str, notebooks_dir: Path, folder: Path, banner: str = ""
) -> str:
    """The HTML page of an executed notebook that will lie in `folder`, with `banner` on top; links are relocated from
    `notebooks_dir`."""
    parts = [f'<nav><a href="../index.html">report</a> · {name} · <a href="{name}.ipynb">notebook</a></nav>']
    parts.append(banner_box(banner))
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(markdown(cell.source, notebooks_dir, folder))
        elif cell.cell_type == "code" and cell.source.strip():
            parts.append(f'<div class="source">{highlight(cell.source, PythonLexer(), CODE)}</div>')
            for output in cell.outputs:
                slug = output.get("metadata", {}).get("fedauto", {}).get("slug")
                anchor = f' id="{slug}"' if slug else ""
                parts.append(f'<div class="output"{anchor}>{_output(output, notebooks_dir, folder)}</div>')
    return document(name, "\n".join(parts))

"""Pages work without a network: mathematics is MathML, nothing is loaded from elsewhere, links are relative."""

import base64
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from fedauto_core.errors import InputError
from fedauto_core.report import pages, plan
from fedauto_core.report.sources import NOTEBOOKS

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="


class Resources(HTMLParser):
    """Everything a browser would fetch by itself, that is, all references but those of <a>."""

    def __init__(self, page):
        super().__init__()
        self.found = re.findall(r"url\(([^)]*)\)|@import\s+(\S+)", page)
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found += [
            v for k, v in attributes if tag != "a" and k in ("src", "href", "srcset", "data", "poster") and v
        ]


def from_elsewhere(page):
    return [reference for reference in Resources(page).found if not re.match(r"data:|(?!//)[\w./-]+$", str(reference))]


def page_of(*cells):
    return pages.notebook_page(
        new_notebook(cells=list(cells)), "nb", Path("/repo/notebooks"), Path("/repo/reports/x/nb")
    )


def code(*outputs, source="x"):
    return new_code_cell(source, outputs=list(outputs))


def shown(data, **metadata):
    return new_output("display_data", data, metadata=metadata)


@pytest.fixture
def rich_page():
    product = {"slug": "line", "kind": "figure", "caption": 'A "line"'}
    return page_of(
        new_markdown_cell(
            "# Title\n\nInline $x_1 < y$ and `$code$`.\n\n$$\\sum_j \\beta_j = 1$$\n\n```\n$$kept$$\n```"
        ),
        code(shown({"image/png": PIXEL}, fedauto=product), source="import numpy  # <comment>"),
        code(shown({"image/png": PIXEL}), new_output("stream", name="stderr", text="\x1b[31mred\x1b[0m <b>")),
        code(shown({"text/html": "<table><tr><td>1</td></tr></table>", "text/plain": "1"})),
        code(shown({"text/markdown": "**Figure.** $a$"}), shown({"text/plain": "plain <tag>"})),
        code(shown({"text/latex": "$\\displaystyle \\frac{1}{2}$"})),
    )


def test_mathematics_becomes_mathml_but_code_does_not():
    html = pages.markdown("$x^2$ `$y$`\n\n$$z$$\n\n    $indented$\n", Path("/n"), Path("/n"))
    assert html.count("<math") == 2 and html.count('display="block"') == 1
    assert "<code>$y$</code>" in html and "$indented$" in html
    assert "<msup><mi>x</mi><mn>2</mn></msup>" in html


def test_special_characters_stay_valid_markup():
    assert "<mo>&lt;</mo>" in pages.mathml("a < b")
    assert "&lt;script&gt;" in pages.mathml(r"\text{<script>}")


@pytest.mark.parametrize(
    ("latex", "reason"),
    [
        (r"\nosuch{x}", r"unknown command \\nosuch"),
        (r"\mathds{1}", r"unknown command \\mathds"),
        (r"{a}_{b", "unbalanced braces"),
        (r"\left( a", "ExtraLeftOrMissingRight"),
        (r"\label{eq:1} x", r"unknown command \\label"),
    ],
)
def test_unknown_latex_is_an_error_that_names_the_formula(latex, reason):
    with pytest.raises(InputError, match=rf"mathematics {re.escape(repr(latex))}: .*{reason}.*Remedy"):
        pages.mathml(latex)


def test_the_argmin_of_the_paper_is_known():
    assert pages.mathml(r"\arg\min_\beta").count("<mo>") == 2
    pages.mathml(r"\operatorname*{arg\,min}_{\beta \in \Delta} \left\lVert A\beta - b \right\rVert_2^2")


def test_every_output_has_its_form(rich_page):
    assert '<div class="output" id="line"><img src="line.png" alt="A &quot;line&quot;">' in rich_page
    assert '<a href="line.svg">SVG</a>, <a href="line.csv">CSV</a>' in rich_page
    assert f"data:image/png;base64,{PIXEL}" in rich_page
    assert '<pre class="stderr">red &lt;b&gt;</pre>' in rich_page
    assert "<td>1</td>" in rich_page and "<pre>plain &lt;tag&gt;</pre>" in rich_page
    assert "<strong>Figure.</strong> <math" in rich_page and "<mfrac>" in rich_page
    assert "<code>$code$</code>" in rich_page and "$$kept$$" in rich_page
    assert '<span class="c1"># &lt;comment&gt;</span>' in rich_page


def test_nothing_is_loaded_from_elsewhere(rich_page):
    assert from_elsewhere(rich_page) == []
    assert len(Resources(rich_page).found) == 2  # the check sees the linked and the embedded picture


@pytest.mark.parametrize(
    "tag",
    [
        '<script src="https://x.org/a.js">',
        '<link rel="stylesheet" href="//x.org/a.css">',
        '<img src="http://x.org/a.png">',
        "<style>@import 'https://x.org/a.css'</style>",
        "<style>a { background: url(https://x.org/a.png) }</style>",
    ],
)
def test_the_check_for_outside_resources_finds_them(tag):
    assert from_elsewhere(tag)


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("02_problem.ipynb", "../02_problem/02_problem.html"),
        ("02_problem.ipynb#Figure", "../02_problem/02_problem.html#Figure"),
        ("../fedauto_core/plan.py", "../../../fedauto_core/plan.py"),
        ("#here", "#here"),
        ("https://arxiv.org/abs/2512.22035", "https://arxiv.org/abs/2512.22035"),
    ],
)
def test_links_are_moved_to_where_the_page_lies(link, expected):
    html = pages.markdown(f"[x]({link})", Path("/repo/notebooks"), Path("/repo/reports/smoke/nb"))
    assert f'href="{expected}"' in html


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_the_prose_of_every_notebook_can_be_shown(path):
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown"]
    html = "".join(pages.markdown(source, path.parent, path.parent) for source in cells)
    assert html and from_elsewhere(html) == []


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_a_real_browser_shows_mathematics_and_pictures(rich_page, tmp_path):
    """The browser itself measures the mathematics and the pictures, with no network, opened as a file."""
    (tmp_path / "line.png").write_bytes(base64.b64decode(PIXEL))
    measure = (
        "<script>addEventListener('load', () => { document.title = 'broken ' "
        "+ [...document.images].filter(i => i.naturalWidth === 0).length + ', flat ' "
        "+ [...document.querySelectorAll('math')].filter(m => m.getBoundingClientRect().height < 5).length; })"
        "</script>"
    )
    (tmp_path / "nb.html").write_text(rich_page.replace("</body>", measure + "</body>"))
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", (tmp_path / "nb.html").as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "<title>broken 0, flat 0</title>" in dom and dom.count("<math") == 4


def test_a_check_says_on_top_that_it_is_no_evidence():
    cells = new_notebook(cells=[new_markdown_cell("# Title")])
    page = pages.notebook_page(cells, "nb", Path("/n"), Path("/r/nb"), plan.banner("smoke"))
    assert '<p class="banner">Check, not evidence' in page and page.index('banner"') < page.index("<h1")
    assert plan.banner("standard") == "" and '<p class="banner">' not in page_of(new_markdown_cell("# Title"))

"""Pages work without a network: mathematics is MathML, nothing is loaded from elsewhere, links are relative."""

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from fedauto_core.errors import InputError
from fedauto_core.report import pages
from fedauto_core.report.mathematics import mathml
from fedauto_core.report.sources import NOTEBOOKS

SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="30pt" height="15pt" viewBox="0 0 30 15"></svg>\n'
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


def page_of(*cells, where=Path("/none"), **place):
    """The cells of an executed notebook, as they stand on its page."""
    notebook = new_notebook(cells=list(cells))
    there = pages.Place(Path("/repo/notebooks"), Path("/repo/reports/x/nb"), **place)
    there.equations = pages.equation_numbers(cell.source for cell in cells if cell.cell_type == "markdown")
    return pages.notebook_body(notebook, there, where)


def prose(source, **place):
    return pages.markdown(source, pages.Place(Path("/repo/notebooks"), Path("/repo/reports/smoke/nb"), **place))


def code(*outputs, source="x"):
    return new_code_cell(source, outputs=list(outputs))


def shown(data, **metadata):
    return new_output("display_data", data, metadata=metadata)


@pytest.fixture
def rich_page(tmp_path):
    (tmp_path / "line.svg").write_text(SVG)
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
        where=tmp_path,
    )


def test_mathematics_becomes_mathml_but_code_does_not():
    html = prose("$x^2$ `$y$`\n\n$$z$$\n\n    $indented$\n")
    assert html.count("<math") == 2 and html.count('display="block"') == 1
    assert "<code>$y$</code>" in html and "$indented$" in html
    assert "<msup><mi>x</mi><mn>2</mn></msup>" in html


def test_special_characters_stay_valid_markup():
    assert "<mo>&lt;</mo>" in mathml("a < b")
    assert "&lt;script&gt;" in mathml(r"\text{<script>}")


@pytest.mark.parametrize(
    ("latex", "letters"),
    [
        (r"\mathbb E", "𝔼"),
        (r"\mathbb{R} \mathbb{1}", "ℝ𝟙"),
        (r"\mathbf{w} \mathbf 3", "𝐰𝟑"),
        (r"\boldsymbol{\beta} \bm x", "𝜷𝒙"),
        (r"\mathcal L \mathcal{F} \mathscr e", "ℒℱℯ"),
        (r"\mathfrak R \mathfrak g", "ℜ𝔤"),
        (r"\mathsf A \mathtt x \mathit h", "𝖠𝚡ℎ"),
        (r"\textbf{ab, ü}", "𝐚𝐛, ü"),
        (r"\mathrm{KL}", "KL"),
    ],
)
def test_variants_are_letters_of_their_own(latex, letters):
    """Browsers ignore `mathvariant` but for "normal": an expectation would look like the number of local steps."""
    shown = mathml(latex)
    assert re.sub(r"<[^>]+>", "", shown).replace("\xa0", " ") == letters
    assert set(re.findall(r'mathvariant="([^"]*)"', shown)) <= {"normal"}


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
        mathml(latex)


def test_the_argmin_of_the_paper_is_known():
    assert mathml(r"\arg\min_\beta").count("<mo>") == 2
    assert "*" not in mathml(r"\operatorname*{arg\,min}_x")
    mathml(r"\operatorname*{arg\,min}_{\beta \in \Delta} \left\lVert A\beta - b \right\rVert_2^2")


def test_every_output_has_its_form(rich_page):
    picture = '<img src="line.svg" width="40" height="20" loading="lazy" alt="Figure line: A &quot;line&quot;">'
    assert f'<div class="output" id="line"><a class="figure" href="line.svg">{picture}</a>' in rich_page
    assert '<a href="line.svg">SVG</a>, <a href="line.png">PNG</a>, <a href="line.csv">CSV</a>' in rich_page
    assert f"data:image/png;base64,{PIXEL}" in rich_page
    assert '<pre class="stderr">red &lt;b&gt;</pre>' in rich_page
    assert "<td>1</td>" in rich_page and "<pre>plain &lt;tag&gt;</pre>" in rich_page
    assert "<strong>Figure.</strong> <math" in rich_page and "<mfrac>" in rich_page
    assert "<code>$code$</code>" in rich_page and "$$kept$$" in rich_page
    assert '<span class="c1"># &lt;comment&gt;</span>' in rich_page


def test_the_smaller_file_of_a_figure_is_shown_and_damage_is_told(tmp_path):
    assert "is missing or damaged" in pages.picture(tmp_path, "line", "A")
    (tmp_path / "line.png").write_bytes(base64.b64decode(PIXEL))
    assert 'src="line.png" width="1" height="1"' in pages.picture(tmp_path, "line", "A")
    (tmp_path / "line.svg").write_text(SVG + " " * 100)
    assert "line.png" in pages.picture(tmp_path, "line", "A")
    (tmp_path / "line.png").write_bytes(b"damaged")
    assert 'src="up/line.svg"' in pages.picture(tmp_path, "line", "A", "up/")


def table(rows):
    body = "".join(f"<tr><td>{n}</td></tr>" for n in range(rows))
    return f"<table><thead><tr><th></th></tr></thead><tbody>{body}</tbody></table>"


def test_a_long_table_is_folded_with_its_csv_beside_it():
    product = {"slug": "numbers", "kind": "table", "caption": "N"}
    page = page_of(code(shown({"text/html": table(11)}, fedauto=product)))
    first, more = page.split('<tbody class="more">')
    assert len(re.findall(r"<td>\d", first)) == pages.ROWS and more.count("<tr><td>") == 1
    assert '<button type="button" class="unfold">all 11 rows</button>, <a href="numbers.csv" download>CSV</a>' in page
    assert "<th></th>" not in page  # a corner heads nothing
    assert "more" not in pages.folded(table(10), "")


def test_a_card_has_no_empty_head():
    html = prose("| | |\n|---|---|\n| **Claim** | C1 |\n")
    assert "<thead>" not in html and "<strong>Claim</strong>" in html
    assert "<thead>" in prose("| a | |\n|---|---|\n| 1 | 2 |\n")


NOTEBOOKS_BY_NUMBER = {"10": ("../10_x/10_x.html", "Ten"), "11": ("../11_y/11_y.html", "Eleven")}


def test_numbers_of_notebooks_become_links():
    text = "Notebooks 10 and 11, notebook 12; `notebook 10`, [notebook 10](a.md), 10"
    html = prose(text, notebooks=NOTEBOOKS_BY_NUMBER)
    ten, eleven = (f'<a href="{at}" title="{title}">{n}</a>' for n, (at, title) in NOTEBOOKS_BY_NUMBER.items())
    assert f"Notebooks {ten} and {eleven}, notebook 12; <code>notebook 10</code>" in html
    assert html.count('href="../10_x') == 1 and ">notebook 10</a>, 10" in html


def test_methods_terms_and_citations_become_links():
    words, cited = (
        {"mifa": "m.html", "iid": "g.html#iid"},
        lambda text: text.replace("Gu 2021", '<a href="b">Gu 2021</a>'),
    )
    html = prose("`mifa`, `mifa()`, *iid*, **iid.**, iid, [`mifa`](x.py), Gu 2021, `Gu 2021`", words=words, cited=cited)
    assert '<a class="word" href="m.html"><code>mifa</code></a>, <code>mifa()</code>' in html
    assert '<a class="word" href="g.html#iid"><em>iid</em></a>, <a class="word" href="g.html#iid"><strong>' in html
    assert ", iid, <a href" in html and "><code>mifa</code></a>, <a href" in html and html.count("m.html") == 1
    assert html.count('<a href="b">') == 1 and "<code>Gu 2021</code>" in html
    assert prose("*IID*", words=words).count("<a") == 1
    assert prose("## `mifa`, *iid*", words=words).count("<a") == 0  # a heading is what contents lead to


def test_code_is_marked_only_where_it_has_a_colour():
    page = page_of(code(source="def f(x):\n    return x + 1  # why"))
    assert '<span class="k">def</span>' in page and '<span class="c1"># why</span>' in page
    assert not re.search(r'<span class="(?:n|p|w)">', page)


def test_links_lead_to_files_of_the_page_or_beside_the_notebooks(tmp_path):
    page = tmp_path / "report" / "01_x"
    page.mkdir(parents=True)
    (page / "runs.csv").write_text("a\n")
    html = pages.markdown("[one](runs.csv), [two](other.csv)", pages.Place(tmp_path / "notebooks", page))
    assert '<a href="runs.csv">one</a>' in html and '<a href="../../notebooks/other.csv">two</a>' in html


def test_headings_can_be_linked_and_are_told_apart():
    place = pages.Place(Path("/n"), Path("/n"))
    html = pages.markdown("## A *b*\n\n## A b\n\n### A b", place)
    assert [identifier for _, identifier, _ in place.headings] == ["A-b", "A-b-2", "A-b-3"]
    assert '<h2 id="A-b-2">A b</h2>' in html


def test_equations_are_numbered_and_referred_to():
    page = page_of(
        new_markdown_cell(r"See $\eqref{b}$ and \eqref{a}." "\n\n" r"$$x \label{a}$$"),
        new_markdown_cell("```\n$$\n```\n\n" r"$$y \tag{P}\label{b}$$"),
        new_markdown_cell("\\begin{align}\nz \\label{c}\n\\end{align}"),
    )
    assert '<div class="equation" id="c">' in page and '<span class="number">(3)</span>' in page
    assert 'See <a href="#b">(P)</a> and <a href="#a">(1)</a>.' in page
    assert '<div class="equation" id="a">' in page and '<span class="number">(1)</span>' in page
    assert '<div class="equation" id="b">' in page and '<span class="number">(P)</span>' in page
    with pytest.raises(InputError, match="equation label 'a' stands twice"):
        pages.equation_numbers([r"$$x \label{a}$$", r"$$y \label{a}$$"])
    with pytest.raises(InputError, match=r"unknown equation label 'c'\. Allowed: a"):
        prose(r"$\ref{c}$", equations={"a": "1"})


def test_pasted_pictures_are_shown():
    pictures = {"x.png": {"image/png": PIXEL}}
    for source in ("![x](attachment:x.png)", 'a <img src="attachment:x.png"> b', "<img src='attachment:x.png'>"):
        assert f'src="data:image/png;base64,{PIXEL}"' in prose(source, pictures=pictures)
        with pytest.raises(InputError, match=r"unknown pasted picture 'x\.png'"):
            prose(source)


def test_what_was_computed_is_text_and_no_markup():
    """A string parameter may hold anything, and reaches the provenance, captions and statements."""
    evil = "<script>alert(1)</script>"
    page = page_of(code(shown({"text/markdown": f"| a | {evil} |\n|---|---|\n| b | {evil} |\n\n{evil}\n\nx {evil}"})))
    assert "<script" not in page and page.count("&lt;script&gt;") == 4
    assert "<b>kept</b>" in page_of(new_markdown_cell("<b>kept</b>"))  # of an author


def test_computed_mathematics_that_cannot_be_shown_says_so_in_its_place():
    page = page_of(code(shown({"text/markdown": r"$\nosuch$"}), shown({"text/plain": "after"})))
    assert "cannot be shown: mathematics" in page and "<pre>after</pre>" in page


def test_a_verdict_links_to_its_evidence():
    page = page_of(code(shown({"text/markdown": "**[Re] C1.** So. Effect 1; evidence: *line*."})))
    assert 'evidence: <a href="#line">line</a>.' in page


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
        ("10_x.ipynb", "../10_x/10_x.html"),
        ("10_x.ipynb#Figure", "../10_x/10_x.html#Figure"),
        ("02_problem.ipynb", "../../../notebooks/02_problem.ipynb"),  # without a page in this report
        ("../fedauto_core/plan.py", "../../../fedauto_core/plan.py"),
        ("../reports/standard/explore.html", "../explore.html"),
        ("#here", "#here"),
        ("https://arxiv.org/abs/2512.22035", "https://arxiv.org/abs/2512.22035"),
    ],
)
def test_links_are_moved_to_where_the_page_lies(link, expected):
    assert f'href="{expected}"' in prose(f"[x]({link})", notebooks=NOTEBOOKS_BY_NUMBER)


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_the_prose_of_every_notebook_can_be_shown(path):
    pages.require_prose(path.read_text(encoding="utf-8"), path.stem)
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown"]
    place = pages.Place(path.parent, path.parent, equations=pages.equation_numbers(cells))
    html = "".join(pages.markdown(source, place) for source in cells)
    assert html and from_elsewhere(html) == []

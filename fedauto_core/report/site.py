"""What all pages of a report share: the frame with its navigation, and the style."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from pygments.formatters import HtmlFormatter

from .plan import banner

TITLE = "FedAuto, replicated"
PARTS = (
    ("article/article.html", "Article"),
    ("figures.html", "Figures"),
    ("explore.html", "Explore"),
    ("reference.html", "Methods"),
    ("glossary.html", "Glossary"),
    ("bibliography.html", "Papers"),
    ("status.html", "Status"),
)
"""The pages beside the front page, with their names in the navigation."""
LIGHT, DARK = "xcode", "monokai"  # styles of Pygments that are readable enough: contrast of at least 4.5
TEMPLATES = Environment(
    loader=PackageLoader(__package__),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    undefined=StrictUndefined,
)


@dataclass(frozen=True)
class Entry:
    """The page of a notebook. name: of its folder and files. title: what a reader is shown."""

    name: str
    title: str

    @property
    def page(self) -> str:
        """As seen from the top of the report."""
        return f"{self.name}/{self.name}.html"


@dataclass(frozen=True)
class Site:
    """A report's pages; entries: of the notebooks that have one, in the order in which they are read. out: its folder.
    notebooks_dir: where the links of the prose are right."""

    profile: str
    entries: tuple[Entry, ...]
    out: Path
    notebooks_dir: Path

    @property
    def titles(self) -> Mapping[str, Entry]:
        """Number of a notebook -> its page; of several runs of a notebook, that of the plain name."""
        return {entry.name[:2]: entry for entry in reversed(self.entries)}

    def page(self, template: str, title: str, path: str, **content: object) -> str:
        """The HTML of the page at `path`, seen from the top of the report; content: what the template asks for."""
        return TEMPLATES.get_template(template).render(
            title=title,
            site_title=TITLE,
            here=path,
            root="../" * path.count("/"),
            parts=PARTS,
            banner=banner(self.profile),
            **content,
        )


def style() -> str:
    """The style sheet of all pages, with the colours of code on light and on dark ground."""
    light, dark = (HtmlFormatter(style=name).get_token_style_defs(".highlight") for name in (LIGHT, DARK))
    colours = "\n".join((*light, "@media screen and (prefers-color-scheme: dark) {", *dark, "}"))
    return f"{template_text('style.css')}{colours}\n"


def template_text(name: str) -> str:
    """A file of the templates as it is."""
    return TEMPLATES.loader.get_source(TEMPLATES, name)[0]

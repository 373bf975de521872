"""The page of a rule."""

import html
from typing import Any

from markupsafe import Markup

from fedauto_core.network.suite import SUITE

from .mathematics import mathml
from .pages import equation_box
from .papers import papers
from .reference import as_html, inline, place, table, to_code
from .rules import BESIDE, HARD, Rule, card, curves, drawing, resting, rules
from .site import Site

LINES = ("solid", "dashed", "dotted")  # as in style.css


class RulePages:
    """Those of a report; what they read from its folder is read once."""

    def __init__(self, site: Site) -> None:
        folders = [site.out / entry.name for entry in site.entries]
        head, *rows = card(site.notebooks_dir) or [[]]
        self.site = site
        self.cards = {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows}
        self.curves = list(zip(site.entries, map(curves, folders), strict=True))
        self.resting = resting(folders)

    def page(self, path: str) -> str:
        """The HTML of the page at `path`, the address of a rule."""
        rule = next(rule for rule in rules() if rule.address == path)
        folder = self.site.out / "methods"
        there = place(self.site, folder, "../")
        there.words = {word: address for word, address in there.words.items() if word != rule.method}
        known = self.cards.get(rule.method, {}).items()
        return self.site.page(
            "rule.html",
            rule.method,
            path,
            method=rule.method,
            update=Markup(equation_box(mathml(rule.update, "block"))),
            words=Markup(inline(rule.words, there)),
            known=[(name, Markup(there.cited(html.escape(text)) or "–")) for name, text in known],
            papers=[as_html(paper) for paper in papers() if paper.key in rule.papers],
            code=Markup(to_code(folder)(rule.home)),
            curve=self._curve(rule),
            rest=self._rest(rule),
            by_hand=self.site.titles.get("05"),
        )

    def _curve(self, rule: Rule) -> dict[str, Any] | None:
        """Its accuracy in the hard scenario beside that of others, from the first page that has it, in words too."""
        for entry, found in self.curves:
            if rule.method in found:
                shown = {name: found[name] for name in dict.fromkeys((rule.method, *BESIDE)) if name in found}
                ends = [
                    f"{name} ({line}) {100 * curve.points[-1][1]:.1f} %"
                    for (name, curve), line in zip(shown.items(), LINES, strict=False)
                ]
                last, _ = shown[rule.method].points[-1]
                said = f"After {last} rounds, mean over {shown[rule.method].seeds} seeds: {', '.join(ends)}."
                picture = Markup(drawing(shown, f"Test accuracy against rounds. {said}"))
                return {"entry": entry, "scenario": f"{HARD}: {SUITE[HARD]}", "picture": picture, "said": said}
        return None

    def _rest(self, rule: Rule) -> Markup | None:
        """Where it comes to rest, as a table: failure processes by what the server has."""
        rows = self.resting.get(rule.method, [])
        if not rows:
            return None
        columns, lines = (list(dict.fromkeys(row[key] for row in rows)) for key in ("server", "process"))
        off = {
            (row["server"], row["process"]): " ± ".join(f"{float(row[key]):z.3f}" for key in ("off", "error"))
            for row in rows
        }
        body = [[line, *(off.get((column, line), "–") for column in columns)] for line in lines]
        return table("where it rests", ["failures", *columns], body)

"""Every method has a page: update, papers, home; its curve and its place of rest where they were recorded."""

import re

import pytest

from fedauto_core.methods import METHODS
from fedauto_core.report import rules
from fedauto_core.report.folder import file_hashes, write_json
from fedauto_core.report.mathematics import mathml
from fedauto_core.report.papers import CITATION, meant, papers
from fedauto_core.report.rule_page import RulePages
from fedauto_core.report.site import Entry, Site

KEYS = {paper.key: paper for paper in papers()}
CURVES = (
    "scenario,label,seed,1,20\nF10,mifa,0,0.2,0.5\nF10,mifa,1,0.4,0.7\nF10,fedavg,0,0.3,0.65\n"
    "F10,fedau,0,0.3,\nF10,fedau,1,0.3,0.4\nF0,f3ast,0,1,1\n"
)
REST = (
    "method,family,server,process,rest,off,error\n"
    "mifa,stored updates,clients only,independent losses,1.5,0.0004,0.0001\n"
    "mifa,stored updates,clients only,long outages,1.5,-0.0126,0.002\n"
    "mifa,stored updates,public data,long outages,1.5,0.25,0\n"
)


def recorded(folder, **files):
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / f"{name}.csv").write_text(text)
    write_json(
        folder / "manifest.json", {"parameters": {}, "seconds": 1.0, "peak_mib": None, "files": file_hashes(folder)}
    )


def page_of(out, method):
    names = sorted(path.name for path in out.iterdir())
    site = Site("tiny", tuple(Entry(name, f"Title of {name}") for name in names), out, out)
    return RulePages(site).page(f"methods/{method}.html")


def test_every_method_has_its_rule_in_the_order_of_the_card():
    assert [rule.method for rule in rules.rules()] == list(METHODS)


@pytest.mark.parametrize("rule", rules.rules(), ids=lambda rule: rule.method)
def test_a_rule_is_that_of_its_class(rule):
    cls = METHODS[rule.method]
    assert f"fedauto_core.{rule.home}" == f"{cls.__module__}.{cls.__qualname__}"
    assert "w_r" in rule.update and mathml(rule.update, "block") and rule.words.endswith(".")
    cited = [meant(citation, papers()) for citation in CITATION.finditer(f"{rule.method} {cls.source}")]
    assert {*rule.papers} <= {*KEYS}
    assert all(any(paper.key in rule.papers for paper in found) for found in cited)
    assert bool(rule.papers) or not cited


@pytest.mark.parametrize(
    ("name", "symbol"),
    [
        ("server_lr", r"\\eta_g"),
        ("mu", r"\\mu"),
        ("rate", "b"),
        ("beta1", r"\\beta_1"),
        ("lam", r"\\lambda"),
        ("momentum", r"\\mu"),
        ("rho", r"\\rho"),
        ("tau", r"\\tau"),
        ("period", "P"),
        ("fraction", r"\\varphi"),
        ("amplification", r"\\eta"),
    ],
)
def test_hyper_parameters_have_their_symbol_in_the_update(name, symbol):
    having = [rule for rule in rules.rules() if name in METHODS[rule.method].__dataclass_fields__]
    assert having
    for rule in having:
        assert re.search(symbol, rule.update), rule.method


def test_a_page_shows_what_was_recorded(tmp_path):
    recorded(tmp_path / "10_x", curves=CURVES)
    recorded(tmp_path / "05_y", rest=REST)
    page = page_of(tmp_path, "mifa")
    assert "After 20 rounds, mean over 2 seeds: mifa (solid) 60.0 %, fedavg (dashed) 65.0 %." in page
    assert 'From <a href="../10_x/10_x.html#curves">Title of 10_x</a>' in page and page.count("<polyline") == 2
    assert "<tr><td>independent losses</td><td>0.000 ± 0.000</td><td>–</td></tr>" in page
    assert "<tr><td>long outages</td><td>-0.013 ± 0.002</td><td>0.250 ± 0.000</td></tr>" in page
    assert 'href="../05_y/05_y.html"' in page and "Gu, Huang, Zhang and Huang (2021)" in page
    for name in ("f3ast", "fedau"):  # in another scenario, or diverged
        assert "<polyline" not in page_of(tmp_path, name)


def test_what_is_not_as_it_was_written_is_not_shown(tmp_path):
    recorded(tmp_path / "10_x", curves=CURVES, rest=REST)
    (tmp_path / "10_x" / "curves.csv").write_text(CURVES.replace("0.5", "0.9"))
    (tmp_path / "10_x" / "rest.csv").write_text(REST.replace("0.25", "0.0"))
    page = page_of(tmp_path, "mifa")
    assert "<polyline" not in page and "long outages" not in page and 'id="update"' in page


def test_curves_stay_inside_their_picture():
    curve = rules.Curve(1, ((5, 0.25), (10, 0.75)))
    shown = rules.drawing({"a": curve, "b": rules.Curve(1, ((10, 0.5),))}, "t")
    points = [
        tuple(map(float, point.split(","))) for line in re.findall(r'points="([^"]*)"', shown) for point in line.split()
    ]
    left, top, right, bottom = rules.LEFT, rules.TOP, rules.LEFT + rules.WIDTH, rules.TOP + rules.HEIGHT
    assert points == [((left + right) / 2, bottom), (right, top), (right, (top + bottom) / 2)]

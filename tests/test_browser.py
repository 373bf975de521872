"""A report as a real browser shows it, opened as files with the network off: both themes, a telephone, the keyboard."""

import hashlib
import itertools
import os
import shutil
import subprocess
import tarfile

import numpy as np
import pandas as pd
import pytest
from browser import browser, needs_browser
from test_report import made  # noqa: F401, a fixture

from fedauto_core.methods.base import chi2_divergence
from fedauto_core.methods.fedauto import compensation
from fedauto_core.methods.weights import fedauto_weights
from fedauto_core.report import sweep
from fedauto_core.report.overview import ON_TOP
from fedauto_core.report.site import Site
from fedauto_core.report.verdicts import MARKS
from fedauto_core.theory.bound.first import FIRST

pytestmark = needs_browser
PAGES = (*(name for name in ON_TOP if name.endswith(".html")), "methods/fedauto.html", "01_ok/01_ok.html", "sweep.html")
AXE = "axe-core-4.10.3"
AXE_SHA256 = "0f2b4d7dcdf7d1219df8d1959ad68e565f51d14c3f0d88bb71cd59abeb956292"


@pytest.fixture(scope="module", autouse=True)
def swept(made):  # noqa: F811
    """A page of a sweep beside the others, with more rows than it shows at once."""
    marks = zip(range(20), itertools.cycle(MARKS), strict=False)
    rows = [(n, "01_ok", "C2", f"family {n % 2}", mark, n, n - 1.5, n + 1.5, 3, "points") for n, mark in marks]
    frame = pd.DataFrame(rows, columns=["skew", *sweep.COLUMNS])
    sweep.write_sweep(frame, ["skew"], Site("tiny", (), made, made), "01_ok")


@pytest.fixture(scope="module")
def window(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def axe(tmp_path_factory):
    """The accessibility checker, from npm; skipped without npm or its registry, except in CI with npm."""
    folder = tmp_path_factory.mktemp("axe")
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    done = subprocess.run(["npm", "pack", AXE.replace("core-", "core@")], cwd=folder, capture_output=True, text=True)
    if done.returncode and "CI" not in os.environ:
        pytest.skip(f"npm: {done.stderr.strip().splitlines()[0]}")
    archive = folder / f"{AXE}.tgz"
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == AXE_SHA256
    with tarfile.open(archive) as files:
        return files.extractfile("package/axe.min.js").read().decode()


def test_nothing_is_broken_and_nothing_is_wider_than_a_telephone(made, window):  # noqa: F811
    for page in PAGES:
        window.open(made / page, width=360, height=740)
        assert window.evaluate("document.documentElement.scrollWidth") <= 360, page
        assert window.evaluate("[...document.images].filter(i => i.complete && i.naturalWidth === 0).length") == 0, page
        assert window.evaluate("document.styleSheets.length") == 1, page
        failed = [event for event in window.events if event.get("method") == "Network.loadingFailed"]
        thrown = [event for event in window.events if event.get("method") == "Runtime.exceptionThrown"]
        assert failed == thrown == [], page


def test_mathematics_is_drawn_with_its_own_letters(made, window):  # noqa: F811
    window.open(made / "01_ok" / "01_ok.html")
    assert window.evaluate("document.querySelector('math').textContent") == "𝔼x"
    height, width = window.evaluate(
        "(({height, width}) => [height, width])(document.querySelector('math').getBoundingClientRect())"
    )
    assert height > 5 and width > 10
    assert "Math" in window.evaluate("getComputedStyle(document.querySelector('math')).fontFamily")


def test_both_themes_have_their_colours(made, window):  # noqa: F811
    shown = {}
    for scheme in ("light", "dark"):
        window.open(made / "index.html", scheme=scheme)
        shown[scheme] = window.evaluate("getComputedStyle(document.body).backgroundColor")
    assert shown["light"] == "rgb(255, 255, 255)" and shown["dark"] != shown["light"]


def test_the_checker_of_accessibility_finds_nothing(made, window, axe):  # noqa: F811
    script = "axe.run().then(r => r.violations.map(v => [v.id, v.nodes[0].html]))"
    for page, scheme in itertools.product(PAGES, ("light", "dark")):
        window.open(made / page, scheme=scheme)
        window.evaluate(f"{axe}; 0")
        assert window.evaluate(script) == [], (page, scheme)
    window.evaluate("document.querySelector('main').insertAdjacentHTML('beforeend', '<img src=x>'); 0")
    assert window.evaluate(script)[0][0] == "image-alt"  # it can find something


def test_a_table_unfolds_and_boxes_that_scroll_are_reached_by_key(made, window):  # noqa: F811
    window.open(made / "01_ok" / "01_ok.html", width=360, height=740)
    rows = "[...document.querySelectorAll('#numbers tbody tr')].filter(row => row.offsetHeight > 0).length"
    assert window.evaluate(rows) == 10
    window.evaluate("document.querySelector('.unfold').focus(); 0")
    window.press("Enter", 13, "\r")
    assert window.evaluate(rows) == 12
    assert window.evaluate("document.querySelector('.unfold').getAttribute('aria-expanded')") == "true"
    unreachable = (
        "[...document.querySelectorAll('main *')].filter(e => getComputedStyle(e).overflowX === 'auto'"
        " && e.scrollWidth > e.clientWidth + 1 && e.tabIndex < 0).length"
    )
    window.open(made / "reference.html", width=360, height=740)
    assert window.evaluate(unreachable) == 0
    window.evaluate("document.querySelector('main').insertAdjacentHTML('beforeend', '<div style=\"overflow-x: auto; "
                    "width: 5rem; white-space: nowrap\">too wide for its own box</div>'); 0")  # fmt: skip
    assert window.evaluate(unreachable) == 1  # it can find something


def test_the_search_finds_from_any_page(made, window):  # noqa: F811
    for page, root in (("index.html", ""), ("01_ok/01_ok.html", "../")):
        window.open(made / page)
        window.evaluate("document.getElementById('search').focus(); 0")
        window.type("waterfall")
        found = "new Promise(done => { const look = () => { const all = [...document.querySelectorAll('#results a')];"
        found += " all.length ? done(all.map(a => a.getAttribute('href'))) : setTimeout(look, 20); }; look(); })"
        assert window.evaluate(found) == [f"{root}{name}/{name}.html#Part" for name in ("01_ok", "02_old")]
        assert window.evaluate("document.getElementById('found').textContent") == "2 found"


SKEWED = np.array([[40, 0, 0], [30, 10, 0], [0, 40, 0], [0, 10, 30]])
ARRIVED = [clients for k in range(5) for clients in itertools.combinations(range(1, 5), k)]


def by_python(skew, lam, arrived, compensate):
    """Weights, chi-square and the terms of the first theorem over gamma E / 2, for constants 1, E = 5, gamma = 0.1."""
    even = SKEWED.sum(axis=1, keepdims=True) * SKEWED.sum(axis=0) / SKEWED.sum()
    counts = np.vstack([[4, 4, 4], np.floor((1 - skew) * even + skew * SKEWED + 0.5)])
    alpha, target = counts / counts.sum(axis=1, keepdims=True), counts.sum(axis=0) / counts.sum()
    rows, sizes = alpha[[0, *arrived]], counts[[0, *arrived]].sum(axis=1)
    extra = compensation(alpha[list(arrived)], target, counts[0])
    if compensate and extra.any():
        rows, sizes = np.vstack([rows, extra / extra.sum()]), np.append(sizes, extra.sum())
    beta, ones = fedauto_weights(rows, sizes, target, lam), np.ones(len(rows))
    chi2 = chi2_divergence(beta @ rows, target)
    drift = beta @ FIRST.drift(ones, ones, 0.1, 1.0, 5)
    terms = FIRST.terms(chi2, drift, 1.0, beta @ beta, 0.1, 1.0, 5)
    return [*beta, chi2, *(terms[name] / 0.25 for name in ("bias", "noise", "drift"))]


def test_the_explorable_figure_computes_what_python_computes(made, window):  # noqa: F811
    window.open(made / "explore.html")
    cases = list(itertools.product((0, 0.77, 1), (1e-4, 0.1, 3), ARRIVED, (False, True)))
    numbers = "({fedauto: f}) => [...f.beta, f.chi2, f.bias, f.noise, f.drift]"
    listed = ", ".join(f"[{s}, {lam}, {list(a)}, {str(c).lower()}]" for s, lam, a, c in cases)
    shown = window.evaluate(f"[{listed}].map(setting => ({numbers})(explore(...setting)))")
    for case, found in zip(cases, shown, strict=True):
        np.testing.assert_allclose(found, by_python(*case), rtol=0, atol=1e-8, err_msg=str(case))


def test_the_explorable_figure_follows_its_sliders(made, window):  # noqa: F811
    window.open(made / "explore.html")
    said = "document.getElementById('said').textContent"
    assert "No arrived client holds class 2." in window.evaluate(said)
    window.evaluate("document.getElementById('skew').focus(); 0")
    for _ in range(30):
        window.press("ArrowLeft", 37)
    assert window.evaluate("document.getElementById('skew-value').textContent") == "0.70"
    assert "No class is missing." in window.evaluate(said)
    assert "client 1" in window.evaluate("document.getElementById('weights').getAttribute('aria-label')")

"""The README shows what the committed report says, and points only at what exists."""

import re
import shlex
from pathlib import Path

import pandas as pd
import pytest

from fedauto_core.__main__ import parser
from fedauto_core.methods import METHODS, make_method, method_card
from fedauto_core.report import contests
from fedauto_core.report.record import markdown_table
from fedauto_core.report.verdicts import read_verdicts
from fedauto_core.store.keys import PACKAGE

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCK = re.compile(r"<!-- claims:begin -->.*<!-- claims:end -->", re.S)


def test_the_claims_table_is_the_generated_one():
    generated = BLOCK.search((ROOT / "reports" / "standard" / "claims.md").read_text())[0]
    assert BLOCK.search(README)[0] == generated


def test_the_method_card_is_the_generated_one():
    """`python -m fedauto_core methods` prints what belongs between the marks."""
    shown = re.search(
        r"<!-- methods:begin -->\n(.*)<!-- methods:end -->", (ROOT / "notebooks" / "README.md").read_text(), re.S
    )
    assert shown[1] == markdown_table(method_card({name: make_method(name) for name in METHODS}))


HEAD, CNN, LORA = "10_full_parameter-cifar10_head", "10_full_parameter", "11_lora"
STANDARD = ROOT / "reports" / "standard"


@pytest.mark.parametrize(
    ("page", "scenario", "rival", "said"),
    [
        (HEAD, "F10", "fedavg", "`fedavg` by 4.0 points"),
        (HEAD, "F10", "mifa", "`mifa` 4.9"),
        (HEAD, "F10", "feddyn", "3.7 (`feddyn`)"),
        (HEAD, "F10", "server_finetuning", "`server_finetuning` 0.0"),
        (HEAD, "F8", "feddyn", "`feddyn` -0.5"),
        (HEAD, "F4b", "fedadam", "`fedadam` -1.9"),
        (CNN, "F8", "fedavg", "`fedavg` by 1.1 points"),
        (CNN, "F8", "feddyn", "`feddyn` by 5.9"),
        (CNN, "F10", "fedavg", "`fedavg` by 3.6"),
        (CNN, "F10", "scaffold", "`scaffold` by 4.9"),
        (CNN, "F10", "server_finetuning", "`server_finetuning` 0.3"),
        (LORA, "F10", "fedavg", "in F10 `fedavg` 8.8"),
        (LORA, "F8", "fedavg", "in F8 `fedavg` 1.4"),
        (LORA, "F8", "feddyn", "`feddyn` 13.6"),
        ("12_resource_optimisation", "radio, F8", "fedavg, scheduled", "`fedavg, scheduled` 1.0"),
    ],
)
def test_what_came_out_says_what_the_report_says(page, scenario, rival, said):
    table = pd.read_csv(STANDARD / page / "comparisons.csv").set_index(["scenario", "rival"])
    assert said in " ".join(README.split()) and f"{table.loc[(scenario, rival), 'mean']:.1f}" in said


@pytest.mark.parametrize(
    ("page", "scenario", "rivals", "early", "said"),
    [
        (HEAD, "F10", {"won": 23, "equivalent": 1}, 5, "it is ahead of 23 of 24 (five early)"),
        (
            HEAD,
            "F8",
            {"won": 12, "won, uncorrected": 2, "equivalent": 9, "level": 1},
            0,
            "it is ahead of or equivalent to 23, level with one (`feddyn` -0.5)",
        ),
        (CNN, "F8", {"won": 6, "won, uncorrected": 2, "equivalent": 3}, 0, "it is ahead of or equivalent to all in F8"),
        (CNN, "F10", {"won": 10, "equivalent": 1}, 5, "ahead of ten in F10 (`fedavg` by 3.6, `scaffold` by 4.9), five"),
    ],
)
def test_what_came_out_counts_as_the_report_does(page, scenario, rivals, early, said):
    table = pd.read_csv(STANDARD / page / "comparisons.csv").query("scenario == @scenario")
    assert said in " ".join(README.split()) and table["standing"].value_counts().to_dict() == rivals
    assert (~table["settled"]).sum() == early


def test_what_came_out_of_our_own_rules_is_what_the_report_says():
    text = " ".join(README.split())
    runs, judged = (pd.read_csv(STANDARD / HEAD / f"{name}.csv") for name in ("final", "comparisons"))
    rivals, biting = (
        dict(zip(judged["rival"], judged["contest"], strict=True)),
        set(judged["scenario"][judged["counts"]]),
    )
    settled = contests.settled_comparisons(runs, "fedauto_memory", rivals, "fedavg_ideal")
    mine = contests.against(runs, "fedauto_memory", rivals, "points", settled=settled)
    mine = mine[mine["settled"] & mine["scenario"].isin(biting) & (mine["repeats"] == "")]
    behind = mine[~mine["mark"].isin(["Re", "="])]
    assert f"its rival in {len(mine) - len(behind)} of {len(mine)} settled comparisons" in text
    by_rival = behind.set_index(["scenario", "rival"])
    assert by_rival["mark"].to_dict() == {("F4b", "fedadam"): "¬Re", ("F7", "fedadam"): "~"}
    assert f"in F4b `fedadam` is ahead of it by {-by_rival['mean'].iloc[0]:.1f}, in F7 level" in text
    gains = pd.read_csv(STANDARD / "15_composition" / "gains.csv")
    gains = gains[(gains["scenario"] == "F10") & (gains["arm"] == "FedAuto")].set_index("X")
    assert len(gains) == 7 and (gains["low"] > 0).all()
    lead = max(verdict.effect for verdict in read_verdicts(STANDARD / "16_plug_and_play"))
    assert f"it is {lead:.1f} points ahead" in text
    assert f"FedDyn by {gains.loc['feddyn', 'mean']:.1f} and SCAFFOLD by {gains.loc['scaffold', 'mean']:.1f}" in text


@pytest.mark.parametrize("page", ["README.md", "notebooks/README.md"])
def test_links_and_pictures_exist(page):
    path = ROOT / page
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", path.read_text()):
        assert (path.parent / target).exists(), target


def test_the_two_commands_exist():
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M)
    assert {"report", "test", *re.findall(r"`make ([a-z]+)", README)} <= set(targets)
    assert "\nmake test\n" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize(
    "block", re.findall(r"```python\n(.*?)```", README, re.S), ids=lambda block: block.split("\n")[-2][:40]
)
def test_snippets_run_when_pasted(block, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FEDAUTO_DATA", str(tmp_path))
    if "flwr" in block:
        pytest.importorskip("flwr", reason="needs the extra [flower]")
    exec(compile(block, "README.md", "exec"), {})


COMMANDS = [
    line
    for page in (README, (ROOT / "notebooks" / "README.md").read_text(encoding="utf-8"))
    for block in re.findall(r"```\n(.*?)```", page.replace("\\\n", " "), re.S)
    for line in re.findall(r"^\.venv/bin/python -m fedauto_core (.+)$", block, re.M)
]


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_are_understood_when_pasted(line):
    assert parser().parse_args(shlex.split(line, comments=True)).command


def test_how_it_is_built_is_the_tree():
    tree = re.search(r"```\nfedauto_core/\n(.*?)```", README, re.S)[1]
    named = {word.rstrip("/") for line in tree.splitlines() for word in line[:25].split()}
    rooms = {path.name for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert named == {room for room in rooms if not room.startswith("__")}

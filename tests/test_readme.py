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
        (HEAD, "F10", "fedavg", "`fedavg` by 4.6 points"),
        (HEAD, "F10", "mifa", "`mifa` 5.9"),
        (HEAD, "F10", "fedadam", "4.0 (`fedadam`)"),
        (HEAD, "F10", "server_finetuning", "`server_finetuning` 0.0"),
        (HEAD, "F8", "fedstale", "`fedstale` -0.8"),
        (HEAD, "F4b", "fedadam", "`fedadam` -1.8"),
        (HEAD, "F4b", "fedavg_all", "`fedavg_all` -0.9"),
        (CNN, "F8", "fedavg", "`fedavg` by 1.1 points"),
        (CNN, "F8", "feddyn", "`feddyn` by 5.9"),
        (CNN, "F10", "fedavg", "`fedavg` by 3.6"),
        (CNN, "F10", "scaffold", "`scaffold` by 4.9"),
        (CNN, "F10", "server_finetuning", "`server_finetuning` 0.3"),
        (LORA, "F4b", "fedavg", "In F4b all is early (`fedavg` -1.0)"),
        (LORA, "F8", "fedavg", "in F8 (`fedavg` 1.7"),
        (LORA, "F8", "feddyn", "`feddyn` 6.4"),
        (LORA, "F10", "fedavg", "in F10 (`fedavg` 6.6"),
        (LORA, "F10", "server_finetuning", "`server_finetuning` 1.6"),
        ("12_resource_optimisation", "radio, F8", "fedavg, scheduled", "`fedavg, scheduled` 1.0"),
    ],
)
def test_what_came_out_says_what_the_report_says(page, scenario, rival, said):
    table = pd.read_csv(STANDARD / page / "comparisons.csv").set_index(["scenario", "rival"])
    assert said in " ".join(README.split()) and f"{table.loc[(scenario, rival), 'mean']:.1f}" in said


@pytest.mark.parametrize(
    ("page", "scenario", "rivals", "early", "said"),
    [
        (HEAD, "F10", {"won": 24, "equivalent": 1}, 11, "it is ahead of 24 of 25 (eleven early)"),
        (
            HEAD,
            "F8",
            {"won": 14, "equivalent": 10, "lost": 1},
            0,
            "it is ahead of or equivalent to 24, behind one (`fedstale` -0.8)",
        ),
        (
            HEAD,
            "F7",
            {"won": 5, "won, uncorrected": 3, "equivalent": 17},
            0,
            "with long outages alone (F7) ahead of or equivalent to all",
        ),
        (CNN, "F8", {"won": 6, "won, uncorrected": 2, "equivalent": 3}, 0, "it is ahead of or equivalent to all in F8"),
        (CNN, "F10", {"won": 10, "equivalent": 1}, 5, "ahead of ten in F10 (`fedavg` by 3.6, `scaffold` by 4.9), five"),
        (LORA, "F8", {"won": 7, "won, uncorrected": 1}, 0, "it is ahead of all eight rivals in F8"),
        (LORA, "F10", {"won, uncorrected": 8}, 7, "`server_finetuning` 1.6), where seven are early"),
        (
            LORA,
            "F7",
            {"won, uncorrected": 4, "equivalent": 1, "level": 3},
            0,
            "in F7 ahead of or equivalent to five, level with three",
        ),
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
    turns = mine[mine["scenario"] == "F4b"]
    mine = mine[mine["settled"] & mine["scenario"].isin(biting) & (mine["repeats"] == "")]
    behind = mine[~mine["mark"].isin(["Re", "="])]
    assert f"its rival in {len(mine) - len(behind)} of {len(mine)} settled comparisons" in text
    assert behind.empty and "F4b" not in set(mine["scenario"])
    (early,) = turns.loc[turns["rival"] == "fedadam", "mean"]
    assert f"in F4b, where all of its are early, `fedadam` is ahead of it by {-early:.1f}" in text
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

"""The first reference's verdicts beside today's."""

from fedauto_core.report import history
from fedauto_core.report.verdicts import Verdict


def test_every_page_of_the_first_reference_is_told_with_what_became_of_it():
    now = Verdict("C2", "data, optimiser: 3 comparisons; decided by feddyn in F2", "=", 0.5, 0.1, 0.9, 5, "points", "x")
    other = Verdict("C1", "another claim", "Re", 1.0, 0.5, 1.5, 5, "points", "x")
    table = history.then_and_now({"10_full_parameter": (now, other)}).set_index(["claim", "page"])
    row = table.loc["C2", "10_full_parameter"]
    assert (row["first"], row["after rounds"], row["now"]) == ("[¬Re]", 20, "[=]")
    assert row["lost then in (to)"] == "F3 (feddyn), F6 (feddyn), F9 (feddyn)"
    assert row["decided by"].startswith("[=] decided by feddyn in F2: +0.5 [+0.1, +0.9] points")
    assert (table.drop(index=("C2", "10_full_parameter"))["now"] == "not in this report").all()
    assert set(table.index.get_level_values("claim")) == {"C2", "C3", "C4"}

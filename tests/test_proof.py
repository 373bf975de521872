"""docs/proof/one_round.v: Coq accepts it, with no axioms but those of the reals, and no false number in a theorem."""

import shutil
import subprocess
from pathlib import Path

import pytest

FILE = Path(__file__).parents[1] / "docs" / "proof" / "one_round.v"
WHOLE = FILE.read_text(encoding="utf-8")
NEEDS_COQ = pytest.mark.skipif(shutil.which("coqc") is None, reason="coqc is missing: apt-get install coq")


def checked(text, folder):
    path = folder / "one_round.v"
    path.write_text(text, encoding="utf-8")
    return subprocess.run(["coqc", "-q", "-noglob", path], capture_output=True, text=True, cwd=folder)


@NEEDS_COQ
def test_the_proof_is_accepted_and_rests_on_the_reals_alone(tmp_path):
    done = checked(WHOLE, tmp_path)
    assert done.returncode == 0, done.stderr
    axioms = {line.split()[0] for line in done.stdout.splitlines() if line and not line.startswith((" ", "Axioms"))}
    assert axioms == {"ClassicalDedekindReals.sig_forall_dec", "FunctionalExtensionality.functional_extensionality_dep"}


@NEEDS_COQ
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("+ L * (gamma * gamma) / 2 * sigma2 * total", "+ L * (gamma * gamma) / 2.1 * sigma2 * total"),
        ("+ gamma / 2 * dot (minus slope H)", "+ gamma / 2.1 * dot (minus slope H)"),
        ("gamma * L <= 1.\n\nLet H", "gamma * L <= 1.1.\n\nLet H"),
        ("2 * gamma * L <= 1 /", "2 * gamma * L <= 1.1 /"),
        ("+ (1 / 2 + L * gamma / 2) * L", "+ (1 / 2 + L * gamma / 2.1) * L"),
        ("+ gamma * ((1 + theta) * dot", "+ gamma * (theta * dot"),
    ],
)
def test_a_false_number_in_a_theorem_is_refused(right, wrong, tmp_path):
    assert WHOLE.count(right) == 1
    assert checked(WHOLE.replace(right, wrong), tmp_path).returncode != 0


def test_nothing_is_left_unproved():
    assert not {"Admitted", "admit", "Axiom", "Parameter", "Conjecture"} & set(WHOLE.replace(".", " ").split())

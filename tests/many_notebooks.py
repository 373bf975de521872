"""Not a test: `python tests/many_notebooks.py 200 --jobs 2 --runs 3` runs so many tiny notebooks, each time from
nothing, and once more when all are up to date, and prints how long that took. One that fails ends it."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from notebook_factory import write_notebook, write_profile

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("notebooks", type=int)
parser.add_argument("--jobs", type=int, default=2)
parser.add_argument("--runs", type=int, default=3)
options = parser.parse_args()
names = [f"{number:03}_tiny" for number in range(options.notebooks)]
with tempfile.TemporaryDirectory() as place:
    folder = Path(place)
    for name in names:
        write_notebook(folder / "notebooks", name, f"# {name}", "print(1 + 1)")
    write_profile(folder / "notebooks", "".join(f"{name}: {{minutes: 1}}\n" for name in names))
    for run in range(options.runs):
        out, begin = folder / f"out{run}", time.monotonic()
        words = ["--profile", "tiny", "--notebooks", folder / "notebooks", "--out", out, "--jobs", str(options.jobs)]
        command = [sys.executable, "-m", "fedauto_core", "report", *words]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"FEDAUTO_DATA": place})
        seconds = time.monotonic() - begin
        each = [json.loads((out / name / "manifest.json").read_text(encoding="utf-8"))["seconds"] for name in names]
        begin = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"FEDAUTO_DATA": place})
        again = time.monotonic() - begin
        mean = sum(each) / len(each)
        print(
            f"run {run + 1}: {seconds:.0f} s, {mean:.2f} s each with its kernel; up to date: {again:.1f} s", flush=True
        )

"""The command line: `python -m fedauto_core report` builds a report, `list` names notebooks, `methods` the rules."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from fedauto_core.errors import InputError
from fedauto_core.report.batch import BAD_INPUT, print_notebooks, run_report
from fedauto_core.report.folder import REPORTS
from fedauto_core.report.sources import NOTEBOOKS


def parser() -> argparse.ArgumentParser:
    """The options of all commands."""
    notebooks, reports = (os.path.relpath(folder).replace("%", "%%") for folder in (NOTEBOOKS, REPORTS))
    top = argparse.ArgumentParser(
        prog="python -m fedauto_core",
        description="FedAuto, replicated. In a checkout, reports go to its folder reports/; installed as a package, to "
        "reports/ in the current folder.",
    )
    commands = top.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("list", help="notebooks with their parameters: type, default, help")
    commands.add_parser("methods", help="the method card: what every rule needs, keeps and sends (Markdown)")
    report = commands.add_parser("report", help="run the notebooks of a profile; what is up to date is skipped")
    for command in (listing, report):
        command.add_argument(
            "--notebooks", type=Path, metavar="DIR", default=NOTEBOOKS, help=f"source notebooks (default: {notebooks})"
        )
    report.add_argument("--profile", default="smoke", help="profiles/PROFILE.yaml beside them (default: smoke)")
    report.add_argument("--out", type=Path, metavar="DIR", help=f"report folder (default: {reports}/PROFILE)")
    report.add_argument(
        "--only", action="append", default=[], metavar="PATTERN", help="notebooks, such as '1*'; repeatable"
    )
    report.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a parameter, in every notebook that has it"
    )
    report.add_argument("--jobs", type=int, metavar="N", help="notebooks at a time (default: one per CPU)")
    report.add_argument("--dry-run", action="store_true", help="show what would run, with expected minutes")
    report.add_argument("--fresh", action="store_true", help="compute everything again, cached experiments included")
    report.add_argument(
        "--scheduler", metavar="ADDRESS", help="Dask scheduler, tcp://host:port, instead of local processes"
    )
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status is 0, 1 (a notebook failed), 2 (bad input) or 130 (interrupted)."""
    options = parser().parse_args(arguments)
    try:
        if options.command == "list":
            print_notebooks(options.notebooks)
            return 0
        if options.command == "methods":
            from fedauto_core.methods.registry import METHODS, make_method, method_card  # they take seconds to import
            from fedauto_core.report.tables import markdown_table

            print(markdown_table(method_card({name: make_method(name) for name in METHODS})), end="")
            return 0
        return run_report(
            options.profile,
            only=options.only,
            settings=options.set,
            jobs=options.jobs,
            dry_run=options.dry_run,
            fresh=options.fresh,
            scheduler=options.scheduler,
            out=options.out,
            notebooks_dir=options.notebooks,
        )
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())

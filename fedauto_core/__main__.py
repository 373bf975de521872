"""The command line: `python -m fedauto_core report` builds a report, `sweep` varies it, `verify`, `reproduce` and
`compare` hold it against itself and others, `pages` writes its HTML anew, `edition` writes the notebooks for a class,
`list`, `methods` and `paths` say what there is."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedauto_core.errors import InputError
from fedauto_core.report.batch import BAD_INPUT, print_notebooks, print_status, run_report, write_pages
from fedauto_core.report.folder import REPORTS
from fedauto_core.report.sources import NOTEBOOKS
from fedauto_core.report.tables import markdown_table


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
    commands.add_parser("methods", help="the method card: what every method needs, keeps and sends (Markdown)")
    report = commands.add_parser("report", help="run the notebooks of a profile; what is up to date is skipped")
    pages = commands.add_parser("pages", help="write the HTML pages of a report anew; nothing is run")
    sweep = commands.add_parser("sweep", help="one notebook for every point of a grid, and its verdicts side by side")
    edition = commands.add_parser("edition", help="the notebooks for a class: with cells to fill, or with solutions")
    edition.add_argument("edition", metavar="EDITION", help="student or teacher")
    commands.add_parser("paths", help="ways through the notebooks, with reading times (Markdown)")
    folder = {"type": Path, "metavar": "DIR"}
    edition.add_argument("--out", **folder, required=True, help="where to; other files there are kept")
    for command in (listing, report, pages, sweep, edition):
        text = f"source notebooks (default: {notebooks})"
        command.add_argument("--notebooks", dest="notebooks_dir", **folder, default=NOTEBOOKS, help=text)
    pages.add_argument("--profile", default="smoke", help="the profile it was made with (default: smoke)")
    pages.add_argument("--out", **folder, help=f"report folder (default: {reports}/PROFILE)")
    several = {"action": "append", "default": []}
    sweep.add_argument("notebook", help="its name in the profile")
    text = "a parameter and its values; repeatable, the points are their product"
    sweep.add_argument("--grid", dest="grids", **several, required=True, metavar="NAME=VALUE,VALUE", help=text)
    report.add_argument("--only", **several, metavar="PATTERN", help="notebooks, such as '1*'; repeatable")
    for command, place in ((report, "PROFILE"), (sweep, "sweeps/NOTEBOOK")):
        command.add_argument("--profile", default="smoke", help="profiles/PROFILE.yaml beside them (default: smoke)")
        command.add_argument("--out", **folder, help=f"report folder (default: {reports}/{place})")
        text = "a parameter, in every notebook that has it"
        command.add_argument("--set", dest="settings", **several, metavar="NAME=VALUE", help=text)
        text = "processes at a time (default: one per CPU); with --scheduler the cores of the cluster"
        command.add_argument("--jobs", type=int, metavar="N", help=text)
        command.add_argument("--dry-run", action="store_true", help="show what would run, with expected minutes")
        text = "compute everything again, cached experiments included"
        command.add_argument("--fresh", action="store_true", help=text)
        text = "minutes after which a notebook is ended (default: ten times what the profile expects)"
        command.add_argument("--timeout", type=float, metavar="MINUTES", help=text)
        text = "Dask scheduler, tcp://host:port, instead of local processes"
        command.add_argument("--scheduler", metavar="ADDRESS", help=text)
    report.add_argument("--status", action="store_true", help="how far a running or interrupted report is")
    reproduce = commands.add_parser("reproduce", help="compute a page anew and hold it against the one that is there")
    reproduce.add_argument("name", metavar="NOTEBOOK", help="the page's name in the profile")
    reproduce.add_argument("--profile", default="smoke", help="the profile it was made with (default: smoke)")
    reproduce.add_argument("--report", **folder, help=f"where the page is (default: {reports}/PROFILE)")
    text = f"where it is made anew (default: {reports}/scratch/reproduced)"
    reproduce.add_argument("--out", **folder, help=text)
    text = "bit-identical, to rounding, or statistical: the old intervals hold the new effects (default)"
    reproduce.add_argument("--at-least", default="statistical", metavar="CLASS", help=text)
    reproduce.add_argument("--jobs", type=int, metavar="N", help="processes at a time (default: one per CPU)")
    reproduce.add_argument("--notebooks", dest="notebooks_dir", **folder, default=NOTEBOOKS, help="source notebooks")
    compare = commands.add_parser("compare", help="two reports side by side: verdicts, effects, seconds")
    compare.add_argument("first", type=Path, metavar="A", help="a report folder")
    compare.add_argument("second", type=Path, metavar="B", help="another one")
    compare.add_argument("--out", **folder, help="folder for the tables as CSV (default: none is written)")
    verify = commands.add_parser(
        "verify", help="take every hash and compute every verdict of a report again; runs nothing"
    )
    verify.add_argument("report", type=Path, help="report folder, such as reports/standard")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status is 0, 1 (a notebook failed, or a report is not what it should be), 2 (bad
    input) or 130 (interrupted)."""
    options = vars(parser().parse_args(arguments))
    command = "status" if options.pop("status", False) else options["command"]
    del options["command"]
    try:
        status = _run(command, options)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        if command in ("report", "sweep", "reproduce"):  # which were cut short by it
            raise
        # The reader has seen enough (`... list | head`); what is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT


def _run(command: str, options: dict[str, Any]) -> int:
    if command == "status":
        return print_status(options["profile"], options["out"], options["notebooks_dir"])
    if command == "report":
        return run_report(options.pop("profile"), **options)
    if command == "pages":
        return write_pages(options.pop("profile"), **options)
    if command == "sweep":
        from fedauto_core.report.sweep import run_sweep

        return run_sweep(options.pop("notebook"), options.pop("profile"), options.pop("grids"), **options)
    if command == "reproduce":
        from fedauto_core.report.reproduce import run_reproduce

        return run_reproduce(options.pop("name"), options.pop("profile"), **options)
    if command == "compare":
        from fedauto_core.report.compare import run_compare

        return run_compare(**options)
    if command == "verify":
        from fedauto_core.report.verify import run_verify

        return run_verify(options["report"])
    if command == "edition":
        from fedauto_core.teaching.edition import write_edition

        print(f"{len(write_edition(**options))} notebooks in {options['out']}")
        return 0
    if command == "paths":
        from fedauto_core.teaching.paths import paths_page

        print(paths_page(NOTEBOOKS))
        return 0
    if command == "list":
        print_notebooks(options["notebooks_dir"])
        return 0
    from fedauto_core.methods.registry import METHODS, make_method, method_card  # they take seconds to import

    print(markdown_table(method_card({name: make_method(name) for name in METHODS})), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())

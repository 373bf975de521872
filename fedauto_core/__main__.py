"""The command line: `python -m fedauto_core report` builds a report, `list`, `methods`: what there is."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

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
    folder = {"type": Path, "metavar": "DIR"}
    for command in (listing, report, pages):
        text = f"source notebooks (default: {notebooks})"
        command.add_argument("--notebooks", dest="notebooks_dir", **folder, default=NOTEBOOKS, help=text)
    for command in (report, pages):
        command.add_argument("--profile", default="smoke", help="profiles/PROFILE.yaml beside them (default: smoke)")
        command.add_argument("--out", **folder, help=f"report folder (default: {reports}/PROFILE)")
    several = {"action": "append", "default": []}
    report.add_argument("--only", **several, metavar="PATTERN", help="notebooks, such as '1*'; repeatable")
    text = "a parameter, in every notebook that has it"
    report.add_argument("--set", dest="settings", **several, metavar="NAME=VALUE", help=text)
    report.add_argument("--jobs", type=int, metavar="N", help="processes at a time (default: one per CPU)")
    report.add_argument("--dry-run", action="store_true", help="show what would run, with expected minutes")
    report.add_argument("--fresh", action="store_true", help="compute everything again, cached experiments included")
    text = "minutes after which a notebook is ended (default: ten times what the profile expects)"
    report.add_argument("--timeout", type=float, metavar="MINUTES", help=text)
    report.add_argument("--status", action="store_true", help="how far a running or interrupted report is")
    text = "Dask scheduler, tcp://host:port, instead of local processes"
    report.add_argument("--scheduler", metavar="ADDRESS", help=text)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status is 0, 1 (a notebook failed), 2 (bad input) or 130 (interrupted)."""
    options = vars(parser().parse_args(arguments))
    command = options.pop("command")
    try:
        if command == "report":
            if options.pop("status"):
                return print_status(options["profile"], options["out"], options["notebooks_dir"])
            return run_report(options.pop("profile"), **options)
        if command == "pages":
            return write_pages(options.pop("profile"), **options)
        if command == "list":
            print_notebooks(options["notebooks_dir"])
        else:
            from fedauto_core.methods.registry import METHODS, make_method, method_card  # they take seconds to import

            print(markdown_table(method_card({name: make_method(name) for name in METHODS})), end="")
        sys.stdout.flush()
        return 0
    except BrokenPipeError:
        if command == "report":  # which was cut short by it
            raise
        # The reader has seen enough (`... list | head`); what is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())

"""Results beyond the paper, as Markdown with cited numbers: a passage for every page that has something to say."""

from collections.abc import Callable, Collection, Mapping, Sequence

from .ledger import Ledger, between, chosen, table

STANDINGS = ("won", "won, uncorrected", "equivalent", "level", "lost, uncorrected", "lost")
GROWTH = {"N": "clients", "A": "uploads", "P": "parameters", "C": "classes", "T": "rounds kept"}
"""What exponents.csv of notebook 14 varies, where the article has a word for it."""


def beyond(ledger: Ledger, shown: Collection[str]) -> str:
    """The passages of `PASSAGES` for the pages `shown`; notebooks without a page are named."""
    said, missing = [], []
    for notebook, passage in PASSAGES.items():
        pages = [page for page in shown if page.partition("-")[0] == notebook]
        said += [passage(ledger, page) for page in pages]
        missing += [] if pages else [f"`{notebook}`"]
    absent = [f"Not run: {', '.join(missing)}."] if missing else []
    return "\n\n".join([text for text in said if text] + absent)


def _whole(
    ledger: Ledger, page: str, file: str, columns: Sequence[str], text: str, named: Callable[[str], str] = str
) -> str:
    """`text`, and below it these columns of a whole file: names, as `named` writes them, then numbers."""
    frame = ledger.frame(page, file, columns)
    if frame is None:
        return ""
    first, *others = columns
    lines = [
        (named(frame.loc[row, first]), *(ledger.cell(page, file, row, what) for what in others)) for row in frame.index
    ]
    return f"{text}\n\n{table(columns, lines)}"


def _ours(ledger: Ledger, page: str) -> str:
    place = page, "ours.csv"
    frame = ledger.frame(*place, ["family", "scenario", "mark", "decided by", "difference", "low", "high", "method"])
    if frame is None or frame.empty:
        return ""
    lines = []
    for row, line in chosen(frame, {"family": "all rivals"}).iterrows():
        mean, low, high = (ledger.cell(*place, row, what, "signed points") for what in ("difference", "low", "high"))
        lines.append(
            (f"`{line['method']}`", line["mark"], f"`{line['decided by']}`", line["scenario"], mean, between(low, high))
        )
    if not lines:
        return ""
    heads = ["method", "mark", "decided by", "scenario", "difference", "interval"]
    return f"**Methods of our own against all rivals** (`{page}`), in points:\n\n{table(heads, lines)}"


def _ablations(ledger: Ledger, page: str) -> str:
    place = page, "tally.csv"
    text = f"**Where FedAuto and its closest rivals win** (`{page}`), over settings of data, skew and work:"
    return _whole(ledger, *place, ["rival", *STANDINGS], text, lambda rival: f"`{rival}`")


def _growth(ledger: Ledger, page: str) -> str:
    place = page, "exponents.csv"
    frame = ledger.frame(*place, ["varied", "cost", "exponent", "low", "high"])
    if frame is None:
        return ""
    said = []
    for row, line in chosen(frame, {"cost": "seconds", "varied": [*GROWTH]}).iterrows():
        power, low, high = (ledger.cell(*place, row, what, "two decimals") for what in ("exponent", "low", "high"))
        said.append(f"{GROWTH[line['varied']]} to the power {power} {between(low, high)}")
    if not said:
        return ""
    return f"**Cost at the server** (`{page}`). Its time grows with " + ", ".join(said) + "."


def _composition(ledger: Ledger, page: str) -> str:
    place = page, "tally.csv"
    text = (
        f"**FedAuto's aggregation under another method's local work** (`{page}`): how many methods it helps and harms, "
        "by the interval of the gain:"
    )
    listed = _whole(ledger, *place, ["scenario", "helps", "harms"], text)
    return listed and f"{listed}{_largest_gain(ledger, page)}"


def _largest_gain(ledger: Ledger, page: str) -> str:
    place = page, "gains.csv"
    frame = ledger.frame(*place, ["scenario", "X", "arm", "mean", "low", "high"])
    if frame is None:
        return ""
    gains = chosen(frame, {"arm": "FedAuto"})["mean"].dropna()
    if gains.empty:
        return ""
    row = gains.idxmax()
    mean, low, high = (ledger.cell(*place, row, what, "signed points") for what in ("mean", "low", "high"))
    where = f"`{frame.at[row, 'X']}` in {frame.at[row, 'scenario']}"
    return f"\nThe largest gain is that of {where}: {mean} {between(low, high)} points."


def _floor(ledger: Ledger, page: str) -> str:
    place = page, "floors.csv"
    column = "floor |grad F|²"
    frame = ledger.frame(*place, ["rule", column])
    if frame is None:
        return ""
    floors = [chosen(frame, {"rule": rule})[column].dropna() for rule in ("FedAvg", "FedAuto")]
    if any(floor.empty for floor in floors):
        return ""
    plain, ours = (ledger.cell(*place, floor.idxmin(), column) for floor in floors)
    return (
        f"**A floor that is real** (`{page}`). On quadratics, where every linear rule's limit is known in closed form, "
        f"plain averaging ends at a squared gradient of {plain}, FedAuto with its smallest $\\lambda$ at {ours}."
    )


def _gain(ledger: Ledger, page: str) -> str:
    place = page, "gain.csv"
    frame = ledger.frame(*place, ["E", "step", "median"])
    if frame is None or frame["median"].isna().all():
        return ""
    row = frame["median"].idxmax()
    much, steps, step = (ledger.cell(*place, row, what, "as it is") for what in ("median", "E", "step"))
    return (
        f"**An improved theorem** (`{page}`). Its error and noise terms are up to {much} times smaller than the first "
        f"theorem's (median, {steps} local steps, {step} of the largest step size)."
    )


def _nets(ledger: Ledger, page: str) -> str:
    place = page, "applicable.csv"
    text = f"**The theorems on real networks** (`{page}`): the share of rounds, in percent, whose step size they allow:"
    return _whole(ledger, *place, ["trained", "first", "improved"], text)


PASSAGES: Mapping[str, Callable[[Ledger, str], str]] = {
    "10_full_parameter": _ours,
    "13_ablations": _ablations,
    "14_cost": _growth,
    "15_composition": _composition,
    "21_any_failure_law": _floor,
    "22_tight_or_loose": _gain,
    "23_theory_meets_nets": _nets,
}
"""Notebook -> what it finds that the paper does not ask."""

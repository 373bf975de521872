"""A prediction is made before the numbers are seen, and later held against them."""

from collections.abc import Sequence

from IPython.display import Markdown, display

from fedauto_core.errors import is_number


def compare(
    prediction: object, came_out: str | float, why: str, choices: Sequence[str] = (), margin: float = 0
) -> None:
    """Say what was predicted, what came out, and why, in the numbers of this run.

    Parameters
    ----------
    prediction : the reader's: one of `choices`, or a number where there are none; anything else gets a sentence
    came_out : the answer of this run
    why : one or two sentences, computed
    choices : what can be predicted
    margin : how far a number may be off
    """
    if not (isinstance(prediction, str) and prediction in choices if choices else is_number(prediction)):
        asked = f"one of: {', '.join(choices)}" if choices else "a number"
        made = "You made no prediction; it is" if prediction is ... else f"Your prediction {prediction!r} is not"
        said = f"{made} {asked}."
    else:
        agree = prediction == came_out if choices else abs(prediction - came_out) <= margin
        said = f"You predicted {_shown(prediction)}{', and so it' if agree else '; it'} came out{_as(came_out, agree)}."
    display(Markdown(f"**Prediction.** {said} {why}"))


def _as(came_out: str | float, agree: bool) -> str:
    return "" if agree and isinstance(came_out, str) else f" {_shown(came_out)}"


def _shown(value: str | float) -> str:
    return f"*{value}*" if isinstance(value, str) else f"{value:.3g}"

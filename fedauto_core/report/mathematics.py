"""LaTeX as MathML that browsers show as it is meant, without a network."""

import html
import re
import unicodedata
from xml.etree.ElementTree import Element, tostring

from latex2mathml import commands
from latex2mathml.converter import Converter

from fedauto_core.errors import InputError

FONTS = {*commands.LOCAL_FONTS, *commands.MATH_NON_FONT_COMMANDS}
VARIANTS = {
    "bold": "MATHEMATICAL BOLD",
    "italic": "MATHEMATICAL ITALIC",
    "bold-italic": "MATHEMATICAL BOLD ITALIC",
    "double-struck": "MATHEMATICAL DOUBLE-STRUCK",
    "script": "MATHEMATICAL SCRIPT",
    "bold-script": "MATHEMATICAL BOLD SCRIPT",
    "fraktur": "MATHEMATICAL FRAKTUR",
    "bold-fraktur": "MATHEMATICAL BOLD FRAKTUR",
    "sans-serif": "MATHEMATICAL SANS-SERIF",
    "bold-sans-serif": "MATHEMATICAL SANS-SERIF BOLD",
    "sans-serif-italic": "MATHEMATICAL SANS-SERIF ITALIC",
    "sans-serif-bold-italic": "MATHEMATICAL SANS-SERIF BOLD ITALIC",
    "monospace": "MATHEMATICAL MONOSPACE",
}
"""MathML's `mathvariant` -> how Unicode calls its letters; browsers know no variant but "normal"."""
OLDER = {"DOUBLE-STRUCK": "DOUBLE-STRUCK", "SCRIPT": "SCRIPT", "FRAKTUR": "BLACK-LETTER"}
"""Letters that Unicode had before the mathematical ones, such as ℝ, ℒ and ℜ, are not called mathematical."""


def mathml(latex: str, display: str = "inline") -> str:
    r"""LaTeX as MathML (display: "inline" or "block"). InputError for what the converter does not know.

    The converter itself would show an unknown command as its name, drop an unknown `\math...` font and ignore a
    missing brace.
    """
    latex = re.sub(r"\\arg(?![A-Za-z])", r"\\operatorname{arg}", latex)  # common, and unknown to the converter
    latex = latex.replace(r"\operatorname*", r"\operatorname")  # the converter would show the star
    bare = re.sub(r"\\[{}\\]", "", latex)
    unknown = [name for name in re.findall(r"\\math[a-z]+", latex) if name not in FONTS]
    try:
        if bare.count("{") != bare.count("}"):
            raise ValueError("unbalanced braces")
        root = Converter(display=display).convert_to_element(latex)
        for element in root.iter():
            element.text = html.unescape(element.text or "")
            unknown += re.findall(r"\\[A-Za-z]*", element.text)
            _spell_out(element)
        if unknown:
            raise ValueError(f"unknown command {', '.join(unknown)}")
    except Exception as error:  # the converter raises many types, none of which names the formula
        raise InputError(
            f"mathematics {latex.strip()!r}: {str(error) or type(error).__name__}",
            allowed="the LaTeX commands that can be shown without a network",
            remedy=r"write it with other commands, for example \operatorname*{arg\,min} or \mathbf{1}",
        ) from error
    return tostring(root, encoding="unicode")


def _spell_out(element: Element) -> None:
    """Replace the attribute `mathvariant` by the letters that it asks for; one that has none stays as it is."""
    if (variant := element.get("mathvariant")) in VARIANTS:
        del element.attrib["mathvariant"]
        element.text = "".join(_letter(VARIANTS[variant], character) for character in element.text)


def _letter(alphabet: str, character: str) -> str:
    """A Latin or Greek letter or a digit in one of Unicode's mathematical alphabets."""
    name = unicodedata.name(character, "").replace("LATIN ", "").replace("GREEK ", "").replace(" LETTER", "")
    older = OLDER.get(alphabet.removeprefix("MATHEMATICAL "))
    if alphabet == "MATHEMATICAL ITALIC" and character == "h":
        return "ℎ"  # Planck's constant
    for words in (f"{alphabet} {name}", f"{older} {name}"):
        try:
            return unicodedata.lookup(words)
        except KeyError:
            pass
    return character

"""Text without its markup."""

import re

ANSI = re.compile(r"\x1b\[[0-9;]*m")
"""What colours the text of a terminal."""
COMMANDS = r"\\(?:left|right|,|;|!|operatorname|math\w+|text)(?![A-Za-z])"
MARKUP = re.compile(rf"[$`*]|{COMMANDS}|!?\[(?P<text>[^]]*)]\([^)]*\)")


def plain(markdown: str) -> str:
    """Markdown in one line for where no markup can stand: alternative texts, titles, the search."""
    return " ".join(MARKUP.sub(lambda found: found["text"] or "", markdown).split())

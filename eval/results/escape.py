"""Names of users in outputs that have a syntax: what is shown is the name, and nothing else happens."""

from __future__ import annotations

import re
import unicodedata

LATIN = 0x24F  # the last letter that pdfLaTeX may know

_TEX = {
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "|": r"\textbar{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    '"': r"\textquotedbl{}",
    "–": "--",
    "—": "---",
    "≈": r"$\approx$",
    "±": r"$\pm$",
    "−": "$-$",
    **{sign: "\\" + sign for sign in "&%$#_{}"},
}
# Greek capitals that look like Latin ones have no command of their own; neither has omicron.
_LATIN = dict(zip("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧο", "ABEZHIKMNOPTYXo", strict=True))


def line(text: str) -> str:
    """On one line, without characters that steer a terminal."""
    return "".join(sign for sign in " ".join(text.split()) if sign.isprintable())


def markdown(text: str) -> str:
    """For a Markdown table, list or heading: no markup, HTML or link comes of it."""
    text = line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*\[\]|~$])", r"\\\1", text)
    text = re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)  # within a word it marks nothing
    text = re.sub(r"^([-+#]|\d+[.)])(?=\s|$)", r"\\\1", text)
    return re.sub(r"(?i)\b(https?|ftp|www)([:.])(?=/|\w)", r"\1&#8203;\2", text)


def latex(text: str) -> str:
    """For LaTeX text; Greek letters become commands of math mode."""
    text = unicodedata.normalize("NFC", line(text))
    return "".join(_TEX.get(sign) or _greek(sign) for sign in text)


def _greek(sign: str) -> str:
    if sign in _LATIN:
        return _LATIN[sign]
    found = re.fullmatch(r"GREEK (SMALL|CAPITAL) LETTER (FINAL SIGMA|\w+)", unicodedata.name(sign, ""))
    if not found:
        return sign
    name = {"LAMDA": "lambda", "FINAL SIGMA": "varsigma"}.get(found[2], found[2].lower())
    return f"$\\{name if found[1] == 'SMALL' else name.capitalize()}$"


def csv_text(text: str) -> str:
    """For a spreadsheet, which would compute a text that begins like a formula."""
    text = line(text)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text

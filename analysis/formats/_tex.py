"""Text and addresses as pdfLaTeX takes them."""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import quote

GREEK = "αβγδεζηθικμνξπρστυφχψωΓΔΘΞΠΣΥΦΨΩ"
TEX = (
    {
        "\0": "{}",
        "\\": "\\textbackslash{}",
        "{": "\\{",
        "}": "\\}",
        "$": "\\$",
        "&": "\\&",
        "#": "\\#",
        "%": "\\%",
        "_": "\\_",
        "^": "\\textasciicircum{}",
        "~": "\\textasciitilde{}",
        "`": "\\textasciigrave{}",
        "<": "\\textless{}",
        ">": "\\textgreater{}",
        "|": "\\textbar{}",
        '"': "''",
        "[": "{[}",  # after a row's end it would open an optional argument
        "]": "{]}",
        "*": "{*}",  # the same
        "±": "$\\pm$",
        "\N{EN DASH}": "--",
        "—": "---",
        "\N{MINUS SIGN}": "$-$",
        "\N{MULTIPLICATION SIGN}": "$\\times$",
        "²": "$^2$",
        "³": "$^3$",
        "°": "$^\\circ$",
        "·": "$\\cdot$",
        "…": "\\dots{}",
        "→": "$\\rightarrow$",
        "↑": "$\\uparrow$",
        "↓": "$\\downarrow$",
        "≤": "$\\leq$",
        "≥": "$\\geq$",
        "≠": "$\\neq$",
        "≈": "$\\approx$",
        "∞": "$\\infty$",
        "√": "$\\surd$",
        "✓": "$\\surd$",
        "†": "$\\dagger$",
        "‡": "$\\ddagger$",
        "ß": "\\ss{}",
        "\N{LEFT SINGLE QUOTATION MARK}": "\\textquoteleft{}",
        "\N{RIGHT SINGLE QUOTATION MARK}": "'",
        "“": "``",
        "”": "''",
    }
    | {
        letter: f"$\\{name.capitalize() if letter.isupper() else name}$"
        for letter, name in ((letter, unicodedata.name(letter).split()[-1].lower()) for letter in GREEK)
    }
    | {"λ": "$\\lambda$", "Λ": "$\\Lambda$"}  # Unicode spells it without b
)
ACCENTS = {"\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0308": '"', "\u030a": "r", "\u030c": "v"}
"""Combining mark -> LaTeX's command for it; with the cedilla, all that Western names need."""
ACCENTS |= {"\u0327": "c", "\u0304": "=", "\u0306": "u", "\u0307": ".", "\u030b": "H"}


def tex(text: str) -> str:
    """Text with LaTeX's special characters escaped; what pdfLaTeX has no letter for is named, e.g. U+4E2D."""
    words = re.sub("-(?=-)", "-\0", " ".join(text.split()))  # two hyphens would become a dash
    return "".join(map(tex_character, words))


def tex_character(character: str) -> str:
    if character in TEX or (character.isascii() and character.isprintable()):
        return TEX.get(character, character)
    parts = unicodedata.normalize("NFD", character)
    if len(parts) == 2 and parts[1] in ACCENTS and parts[0].isascii():
        return f"\\{ACCENTS[parts[1]]}{{{parts[0]}}}"
    return f"\\texttt{{U+{ord(character):04X}}}"


def tex_address(link: str) -> str:
    """An address as `\\href` takes it, inside other commands too."""
    return "".join(f"\\{c}" if c in "%#&_" else c for c in quote(link, safe=":/?&=#._~%-@+,"))

"""Plain text to LaTeX that pdfLaTeX compiles: special signs escaped, letters and signs of mathematics as commands."""

from __future__ import annotations

# ruff: noqa: RUF001  the look-alike signs are what this module translates
import re
import unicodedata

_GREEK = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi o pi rho varsigma sigma tau upsilon"
_GREEK += " phi chi psi omega"
_CAPITALS = "ΓGamma ΔDelta ΘTheta ΛLambda ΞXi ΠPi ΣSigma ΥUpsilon ΦPhi ΨPsi ΩOmega"
_MATHS = {
    **{chr(ord("α") + i): name if name == "o" else f"\\{name}" for i, name in enumerate(_GREEK.split())},
    **{word[0]: f"\\{word[1:]}" for word in _CAPITALS.split()},
    **{raised: f"^{{{plain}}}" for raised, plain in zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿ", "0123456789+-()n", strict=True)},
    **{lowered: f"_{{{plain}}}" for lowered, plain in zip("₀₁₂₃₄₅₆₇₈₉₊₋", "0123456789+-", strict=True)},
    **{"<": "<", ">": ">", "−": "-", "±": r"\pm", "×": r"\times", "·": r"\cdot", "÷": r"\div", "≤": r"\leq"},
    **{"≥": r"\geq", "≈": r"\approx", "≠": r"\neq", "→": r"\to", "←": r"\leftarrow", "↑": r"\uparrow"},
    **{"↓": r"\downarrow", "∞": r"\infty", "√": r"\surd", "∑": r"\sum", "∈": r"\in", "∂": r"\partial", "‖": r"\|"},
    **{"°": r"^{\circ}", "µ": r"\mu", "ℓ": r"\ell", "∝": r"\propto", "½": r"\frac{1}{2}"},
}
LATEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "|": r"\textbar{}"},
    **{'"': "''", "“": "``", "”": "''", "‘": "`", "’": "'", "–": r"\textendash{}", "—": r"\textemdash{}", "‐": "-"},
    **{"‑": "-", "…": r"\ldots{}", "†": r"\dag{}", "‡": r"\ddag{}", "§": r"\S{}", "\u00a0": "~", "\u2009": r"\,"},
    **{"\u202f": r"\,", "ß": r"\ss{}", "ø": r"\o{}", "Ø": r"\O{}", "æ": r"\ae{}", "œ": r"\oe{}", "ł": r"\l{}"},
    **{sign: f"\\ensuremath{{{code}}}" for sign, code in _MATHS.items()},
}
ACCENTS = dict(zip("\u0300\u0301\u0302\u0303\u0304\u0308\u030a\u030c\u0327", "`'^~=\"rvc", strict=True))


def latex_text(text: str) -> str:
    """``text`` for pdfLaTeX, in ASCII.

    Args:
        text: plain text. A character that has no place in ``LATEX`` and is no accented letter becomes "?".
    """
    clusters = re.findall("[^\u0300-\u036f][\u0300-\u036f]*", unicodedata.normalize("NFC", text))
    return "".join(map(_letter, clusters)).replace("--", "-{}-")  # "--" would become a dash


def _letter(cluster: str) -> str:
    if cluster in LATEX or cluster.isascii():
        return LATEX.get(cluster, cluster)
    letter, *marks = list(unicodedata.normalize("NFD", cluster))
    if len(marks) == 1 and letter.isascii() and letter.isalpha() and marks[0] in ACCENTS:
        return f"\\{ACCENTS[marks[0]]}{{{letter}}}"
    return "?"

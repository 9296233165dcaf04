"""Captions to words, in the manner of the Penn Treebank: a tokenizer of our own, in Python.

The published caption scores use the tokenizer of Stanford's CoreNLP 3.4.1, a Java program that comes with
pycocoevalcap. This one follows what that program does with English captions; it was written from that program's output,
not from its code, and lacks some of its rules. `summary.json` says which of the two was used for a score.

This one is used unless both `pycocoevalcap` and Java are installed: `tokenizer_for_captions`.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections.abc import Callable, Sequence

__all__ = ["OURS", "STANFORD", "tokenize", "tokenizer_for_captions", "words"]

OURS = "mindformers-qwenvl's own Penn Treebank tokenizer in Python"
STANFORD = "Stanford CoreNLP 3.4.1, through pycocoevalcap"

# What pycocoevalcap leaves out. Brackets are in its list in capitals while words are lower case, so they stay.
LEFT_OUT = frozenset(("''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"))

REPLACED = {
    "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-",
    "“": "``", "”": "''", "‘": "`", "’": "'", "–": "--", "—": "--", "…": "...",
    "€": "$", "£": "#", "¢": "cents", "¼": "1/4", "½": "1/2", "¾": "3/4", "⅓": "1/3", "⅔": "2/3",
}  # fmt: skip
ENTITIES = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&apos;": "'"}

# With a full stop that belongs to them.
ABBREVIATIONS = (
    "jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|mon|tues?|wed|thurs?|thu|fri"
    "|ala|ariz|calif|colo|conn|ct|dak|fla|ga|ind|kans?|ky|md|mich|minn|mo|mont|neb|nev|okla|penn|tenn|va|vt|wisc?|wyo"
    "|inc|cos?|corp|ltd|plc|bancorp|dept|bhd|assn|univ|intl|sys|assoc|bldg|est|natl|pty|pte|ptys"
    "|mrs?|ms|drs?|profs?|sens?|reps?|attys?|lt|col|gen|messrs|govs?|adm|rev|maj|sgt|cpl|pvt|mt|capt|ste?|ave|pres"
    "|lieut|hon|brig|comdr|cmdr|pfc|spc|supts?|det|sr|jr|bros|blvd|rd|esq|sq|etc|al|seq|vs|ft|ext|cf|tel|ph\\.d|ed\\.d"
)
ABBREVIATIONS_IN_CAPITALS = ("ark", "del", "ill", "la", "mass", "miss", "ore", "pa", "tex", "wash")
ABBREVIATIONS_BEFORE_NUMBERS = "nos?|figs?|pp|ca|art"

# Words that are written as one and count as two.
JOINED = {"cannot": 3, "gonna": 3, "wanna": 3, "gotta": 3, "gimme": 3, "lemme": 3}  # letters of the first


def _capitalised(word: str) -> str:
    return f"{word.capitalize()}|{word.upper()}"


_LETTER = r"[^\W\d_]"
_APOSTROPHE = "['’]"
_PATTERNS = (
    ("entity", "|".join(ENTITIES)),
    ("address", r"https?://[^\s\"<>|()]*[^\s\"<>|().,?!;:\-]|www\.[^\s\"<>|()]*[^\s\"<>|().,?!;:\-]"),
    ("mail", r"[\w.+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z]+)+"),
    ("tag", r"@[A-Za-z_]\w*|#[A-Za-z]\w+"),
    ("smiley", r"[<>]?[:;=]['’]?-?[()DPpOo\[\]|\\/]+(?![A-Za-z0-9(])"),
    ("dots", r"\.{3,}|\.(?: \.){2,}"),
    ("date", r"\d{1,2}[-/]\d{1,2}[-/]\d{2,4}(?!\d)"),
    ("fraction", r"\d{1,4}/\d{1,4}(?![\d/])"),
    ("decade", _APOSTROPHE + r"\d\ds?\b"),
    ("ordinal", r"\d+[eE]\d+\b|\d+(?:[A-Za-z]+(?<!am)(?<!pm))+(?:-\w+)*\b"),
    ("telephone", r"\(\d{3}\)(?=\s?\d{3}-\d{4})"),
    ("compound", rf"\d+(?:-{_LETTER}\w*)+|\d+(?:-\d+)+"),
    ("number", r"(?:(?<![\w)])[-+])?(?:\d+(?:[.,:]\d+)*|(?<!\w)[.]\d+)"),
    ("initials", rf"(?<![\w'’-])(?:{_LETTER}\.){{2,}}(?!\w)|(?<![\w'’-])(?:{_LETTER}\.)+{_LETTER}(?![\w.])"),
    (
        "abbreviation",
        rf"\b(?:(?i:{ABBREVIATIONS})|{'|'.join(map(_capitalised, ABBREVIATIONS_IN_CAPITALS))})\.(?!\w)"
        rf"|\b(?i:{ABBREVIATIONS_BEFORE_NUMBERS})\.(?=\s?\d)|(?<![\w'’-]){_LETTER}\.(?![^\W\d]|\.)",
    ),
    ("money", r"\b(?:US|HK|C|A|NZ)\$"),
    ("all", rf"(?i:\by{_APOSTROPHE}(?=all\b))"),
    ("it", rf"(?i:{_APOSTROPHE}t(?=is\b|was\b))"),
    ("n", rf"{_APOSTROPHE}n{_APOSTROPHE}|(?i:(?<=e){_APOSTROPHE}n\b)"),
    ("joined", rf"(?i:{'|'.join(JOINED)})\b"),
    ("not", rf"(?i:{_LETTER}+(?=n{_APOSTROPHE}t(?!{_LETTER})))"),
    ("nt", rf"(?i:n{_APOSTROPHE}t(?!{_LETTER}))"),
    ("ending", rf"(?i:{_APOSTROPHE}(?:s|m|d|re|ve|ll)(?!{_LETTER}))"),
    # l'amour, o'clock, d'you; ma'am; AT&T; left-hand; and/or; foo.bar
    (
        "word",
        rf"(?:(?i:[dlo]){_APOSTROPHE}(?={_LETTER}{{2}}))?{_LETTER}\w*(?<!_)"
        rf"(?:{_APOSTROPHE}(?!(?i:s|m|d|re|ve|ll|t|n)(?!{_LETTER})){_LETTER}+)*"
        rf"(?:(?:(?:-|/|(?<=[A-Z])&(?=[A-Z]))\w+(?<!_))+|(?:[.!?](?={_LETTER}{{2}})\w+(?<!_))*)",
    ),
    ("marks", r"[!?]+|--+|``|''|\*+"),
    ("other", r"\S"),
)
_TOKEN = re.compile("|".join(f"(?P<{name}>{pattern})" for name, pattern in _PATTERNS))
_QUOTE_OPENS_AFTER = re.compile(r"(?:^|[\s(\[{<`“‘\-–—])$")


def words(text: str) -> list[str]:
    """The tokens of a text, lower case, punctuation among them."""
    found: list[str] = []
    position, quoted = 0, False
    for match in _TOKEN.finditer(text):
        token, kind = match.group(), match.lastgroup
        position = match.start()
        if kind == "joined":
            cut = JOINED[token.lower()]
            found += [token[:cut], token[cut:]]
        elif kind == "entity":
            found.append(ENTITIES[token])
        elif kind == "other" and token in "\"'":
            opens = bool(_QUOTE_OPENS_AFTER.search(text[:position][-1:])) if token == "'" else not quoted
            quoted = not quoted if token == '"' else quoted
            found.append(("``" if opens else "''") if token == '"' else ("`" if opens else "'"))
        elif kind == "dots":
            found.append("...")
        elif kind == "marks" and token.startswith("--"):
            found.append("--" if len(token) < 5 else token)
        elif kind in ("smiley", "telephone"):
            found.append("".join(REPLACED.get(character, character) for character in token))
        else:
            found.append(REPLACED.get(token, token.replace("’", "'")))
    return [word.lower() for word in found]


def tokenize(texts: Sequence[str]) -> list[str]:
    """Each text as words with spaces between, without punctuation."""
    return [" ".join(word for word in words(text.replace("\n", " ")) if word not in LEFT_OUT) for text in texts]


def _stanford(texts: Sequence[str]) -> list[str]:
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    captions = {number: [{"caption": text}] for number, text in enumerate(texts)}
    tokenized = PTBTokenizer().tokenize(captions)
    return [tokenized[number][0] for number in captions]


def tokenizer_for_captions() -> tuple[str, Callable[[Sequence[str]], list[str]]]:
    """A name and a function from texts to tokenized texts: Stanford's if pycocoevalcap and Java are there, or ours."""
    if shutil.which("java") and importlib.util.find_spec("pycocoevalcap"):
        return STANFORD, _stanford
    return OURS, tokenize

"""The bounds of a text. Within them, NFC and BPE take time linear in its length. Plain Python.

Both bounds are far beyond any text that people write. Texts of up to LONGEST_MARKS characters are not scanned at all.
"""

from __future__ import annotations

import re
import unicodedata

__all__ = ["LONGEST_MARKS", "LONGEST_SPACE", "normalised"]

# tiktoken's regular expressions give up on a run of a million spaces, with a Rust panic that ends the process.
LONGEST_SPACE = 200_000
# Characters that combine with the one before them are sorted by NFC: 80,000 in a row take half a minute.
LONGEST_MARKS = 2_000

SPACE = re.compile(r"\s+")


def normalised(text: str) -> str:
    """NFC of `text`.

    Raises:
        ValueError: it has more than LONGEST_SPACE characters of white space, or LONGEST_MARKS combining ones, in a row.
    """
    if len(text) > LONGEST_MARKS and not text.isascii() and _longest_marks(text) > LONGEST_MARKS:
        raise ValueError(f"the text has more than {LONGEST_MARKS:,} combining characters in a row; shorten it")
    text = unicodedata.normalize("NFC", text)
    if len(text) > LONGEST_SPACE and max(map(len, SPACE.findall(text)), default=0) > LONGEST_SPACE:
        raise ValueError(f"the text has more than {LONGEST_SPACE:,} characters of white space in a row; shorten it")
    return text


def _longest_marks(text: str) -> int:
    longest = length = 0
    for combines in map(unicodedata.combining, text):
        length = length + 1 if combines else 0
        longest = max(longest, length) if combines else longest
    return longest

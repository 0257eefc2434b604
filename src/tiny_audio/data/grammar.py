"""English sentences from a small grammar, grammar.txt, so that the quickstart needs no corpus.

Text is what the bundled pair writes: lower case words with apostrophes, numbers spelt out.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Iterator
from functools import cache
from importlib import resources

ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen"
).split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_A = re.compile(r"\ba(?= (?:[aeiou]|honest|hour)(?!seful|seless))")


def number_words(n: int) -> str:
    """The English words of 0 <= n < 1,000,000, no "and", no hyphens."""
    if n < 20:
        return ONES[n]
    if n < 100:
        return TENS[n // 10 - 2] + ("" if n % 10 == 0 else " " + ONES[n % 10])
    base, name = (100, "hundred") if n < 1000 else (1000, "thousand")
    rest = "" if n % base == 0 else " " + number_words(n % base)
    return f"{number_words(n // base)} {name}{rest}"


def ordinal_words(n: int) -> str:
    """The English ordinal of 1 <= n < 100 in words."""
    irregular = {
        "one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth",
        "nine": "ninth", "twelve": "twelfth",
    }  # fmt: skip
    head, _, last = number_words(n).rpartition(" ")
    regular = last[:-1] + "ieth" if last.endswith("y") else last + "th"
    return f"{head} {irregular.get(last, regular)}".strip()


def plural(noun: str) -> str:
    """The regular English plural of a noun, and that of potato and tomato."""
    if noun.endswith(("s", "x", "z", "ch", "sh", "tato", "mato")):
        return noun + "es"
    return noun[:-1] + "ies" if noun.endswith("y") and noun[-2] not in "aeiou" else noun + "s"


def past(verb: str) -> str:
    """The regular English past of a verb whose last consonant is not doubled."""
    if verb.endswith("e"):
        return verb + "d"
    return verb[:-1] + "ied" if verb.endswith("y") and verb[-2] not in "aeiou" else verb + "ed"


@cache
def _grammar() -> tuple[dict[str, list[str]], list[str]]:
    """Words by the name of their list, and patterns: see the head of grammar.txt."""
    text = resources.files("tiny_audio.data").joinpath("grammar.txt").read_text("utf-8")
    entries, _, patterns = re.sub(r"#.*\n", "", text).strip().partition("\n\n")
    lists: dict[str, list[str]] = {}
    for entry in entries.replace("\n ", " ").splitlines():
        name, _, words = entry.partition(":")
        forms = [word.replace("_", " ").split("/") for word in words.split()]
        lists[name] = [form[0] for form in forms]
        lists[f"{name}.past"] = [form[1] if form[1:] else past(form[0]) for form in forms]
        lists[f"{name}.done"] = [form[-1] if form[1:] else past(form[0]) for form in forms]
    rare = resources.files("tiny_audio").joinpath("assets/nano/words.txt").read_text("utf-8")
    return lists | {"rare": rare.split()}, patterns.splitlines()


def _slot(name: str, rng: random.Random) -> str:
    """What stands for `{name}`; the words of two lists for `{one|other}`."""
    if name in ("number", "count"):  # "count" is followed by a plural
        return number_words(int(max(2 * (name == "count"), 10 ** rng.uniform(0, 4.3))))
    if name == "small":
        return number_words(rng.randint(2, 24))
    if name == "ordinal":
        return ordinal_words(rng.randint(1, 31))
    if name == "date":
        month = rng.choice(_grammar()[0]["month"])
        days = {"february": 28, "april": 30, "june": 30, "september": 30, "november": 30}
        return f"{ordinal_words(rng.randint(1, days.get(month, 31)))} of {month}"
    if name == "digits":
        return " ".join(rng.choice(ONES[:10]) for _ in range(rng.randint(1, 7)))
    if name == "year":
        return f"{number_words(rng.randint(15, 20))} {number_words(rng.randint(10, 99))}"
    if name == "clock":
        minutes = ["o'clock", "fifteen", "thirty", "forty five", "oh five", ""]
        return f"{number_words(rng.randint(1, 12))} {rng.choice(minutes)}".strip()
    return rng.choice([word for one in name.split("|") for word in _grammar()[0][one]])


def _sentence(rng: random.Random) -> str:
    words: list[str] = []
    for word in rng.choice(_grammar()[1]).split():
        if not word.startswith("{"):
            words.append(word)
            continue
        slot, _, ending = word[1:].partition("}")
        drawn = _slot(slot, rng)
        while drawn in words:  # "would you like ham with your ham"
            drawn = _slot(slot, rng)
        words.append(plural(drawn) if ending else drawn)
    return _A.sub("an", " ".join(words))


def is_test_text(text: str) -> bool:
    """Whether a sentence belongs to the held-out tenth, by its hash."""
    return zlib.crc32(text.encode()) % 10 == 0


def sentences(seed: int, split: str = "train") -> Iterator[str]:
    """Endless sentences of one split, "train" or "test"; deterministic in `seed`."""
    rng = random.Random(f"{split}-{seed}")
    while True:
        text = _sentence(rng)
        if is_test_text(text) == (split == "test"):
            yield text

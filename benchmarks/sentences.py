"""English sentences drawn from templates by a seed, and BERT's word pieces for them."""

from __future__ import annotations

import string
import unicodedata
from functools import cache

import numpy as np

from taut import samples

PAD, UNKNOWN, START, END = "[PAD]", "[UNK]", "[CLS]", "[SEP]"

_TEMPLATES = """
the {adjective} {animal} {moved} {where} the {adjective} {place}
how do i {task} my {thing} when the {thing} is {adjective} ?
{person} said on {day} that the {thing} would {change} by {number} percent this {season}
please send the {adjective} {thing} to {person} before {day} , or call {number}
scientists in {city} found that {animal}s {moved} {where} a {place} at night
the {place} in {city} was {adjective} , and nobody expected the {animal} to be there
is it possible to {task} a {thing} without a {adjective} {thing} ?
{person} bought {number} {animal}s and a {adjective} {thing} for the {place}
breaking news : {city} closes its {place} after {number} reports of a {adjective} {animal}
in {season} , the {adjective} {thing} of {person} will {change} , says the {place} of {city}
i can't {task} the {thing} ; it was {adjective} yesterday and {adjective} today
our {place} offers {adjective} {thing}s for {number} dollars every {day}
"""
_WORDS = {
    "adjective": "old quick brown quiet broken expensive frozen happy electric strange public "
    "bright empty careful ancient digital wooden famous cheap dangerous",
    "animal": "dog cat horse whale fox eagle spider turtle wolf bee elephant rabbit",
    "moved": "ran slept jumped walked waited swam lived hid flew worked",
    "where": "near across behind inside under beyond around over",
    "place": "river museum school factory garden hospital station library market church beach "
    "mountain airport theatre court",
    "task": "repair sell clean install cook return replace paint explain download delete move",
    "thing": "car computer contract price bicycle phone letter engine window budget camera "
    "ticket report password table medicine song",
    "person": "maria the minister john smith my neighbour a teacher the company dr. chen anna",
    "day": "monday tuesday friday sunday",
    "change": "rise fall change grow shrink disappear",
    "season": "spring summer autumn winter year",
    "city": "london paris tokyo berlin chicago lagos sydney madrid oslo",
}
_PEOPLE = ["maria", "the minister", "john smith", "my neighbour", "a teacher", "dr. chen", "anna"]


def sentences(count: int, seed: int, parts: int = 1) -> tuple[list[str], np.ndarray]:
    """`count` texts of `parts` sentences, each text from one template; the templates' numbers."""
    random = np.random.default_rng([seed, 11])
    templates = [t for t in _TEMPLATES.split("\n") if t]
    words = {k: v.split() for k, v in _WORDS.items()} | {"person": _PEOPLE}

    def one(text: str) -> str:
        for _, name, *_ in [*string.Formatter().parse(text)]:
            if name == "number":
                text = text.replace("{number}", str(random.integers(2, 2000)), 1)
            elif name:
                choice = words[name][random.integers(len(words[name]))]
                text = text.replace("{" + name + "}", choice, 1)
        return text

    topics = random.integers(len(templates), size=count)
    texts = [" . ".join(one(templates[t]) for _ in range(parts)) + " ." for t in topics]
    return texts, topics


@cache
def vocabulary() -> dict[str, int]:
    lines = samples.fetch("minilm-vocabulary").read_text(encoding="utf-8").split("\n")
    return {word: index for index, word in enumerate(lines)}


def tokens(text: str) -> list[int]:
    """BERT's uncased word pieces, with the two markers around them."""
    known = vocabulary()
    plain = unicodedata.normalize("NFD", text.lower())
    plain = "".join(c for c in plain if unicodedata.category(c) != "Mn")
    spaced = "".join(f" {c} " if c in string.punctuation else c for c in plain)
    pieces = [p for word in spaced.split() for p in _pieces(word)]
    return [known[p] for p in (START, *pieces, END)]


def _pieces(word: str) -> list[str]:
    """The longest known prefix, then the longest continuation, and so on."""
    known, made, start = vocabulary(), [], 0
    while start < len(word):
        mark = "##" if start else ""
        ends = range(len(word), start, -1)
        end = next((e for e in ends if mark + word[start:e] in known), None)
        if end is None:
            return [UNKNOWN]
        made.append(mark + word[start:end])
        start = end
    return made


def batch(count: int, length: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Token ids i64[count, length] of texts that about fill the length, cut or padded to it, and
    the texts' topics.
    """
    ids = np.full((count, length), vocabulary()[PAD], np.int64)
    texts, topics = sentences(count, seed, parts=max(1, length // 18))
    for row, text in zip(ids, texts):
        found = tokens(text)[:length]
        found[-1] = vocabulary()[END]
        row[: len(found)] = found
    return ids, topics

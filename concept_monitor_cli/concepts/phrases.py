"""Phrases to describe units by: every concept, and pairs of an attribute and a thing, `red car`."""

from __future__ import annotations

from dataclasses import dataclass

from concept_monitor_cli.concepts.concept_set import ConceptSet

#: Categories whose words say what something is like, in the order in which they are paired.
ATTRIBUTES = ("color", "texture", "material")
#: Categories whose words say what there is, likewise.
THINGS = ("object", "part", "scene")
#: An encoder embeds each phrase; ten thousand take a ViT-B/16 a minute or two on a CPU, once.
MOST_PHRASES = 10_000


@dataclass(frozen=True)
class Phrases:
    """What a unit may be described by.

    Attributes:
        texts: concepts first, then pairs; each once.
        categories: of each: that of the concept, of a pair that of its thing.
        left_out: pairs for which there was no room.
    """

    texts: tuple[str, ...]
    categories: tuple[str, ...]
    left_out: int = 0


def phrases_of(concepts: ConceptSet, most: int = MOST_PHRASES) -> Phrases:
    """The phrases that a concept set makes.

    Args:
        concepts: with their categories. Without words of `ATTRIBUTES` and of `THINGS` there are no pairs.
        most: phrases at most; concepts come first, then the pairs of one attribute after the other.

    Example:
        >>> words = ConceptSet.clean("test", ["red", "car"], ["color", "object"])
        >>> phrases_of(words).texts
        ('red', 'car', 'red car')
    """
    kind = dict(zip(concepts.concepts, concepts.categories, strict=True))
    attributes, things = (
        sorted((word for word in kind if kind[word] in wanted), key=lambda word: wanted.index(kind[word]))
        for wanted in (ATTRIBUTES, THINGS)
    )
    found = dict(kind)
    pairs = {
        f"{attribute} {thing}": kind[thing]
        for attribute in attributes
        for thing in things
        if f"{attribute} {thing}" not in kind
    }
    room = max(0, most - len(found))
    found.update(list(pairs.items())[:room])
    return Phrases(tuple(found), tuple(found.values()), max(0, len(pairs) - room))

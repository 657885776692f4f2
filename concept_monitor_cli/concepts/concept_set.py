"""What a concept set is: names, their categories, and a digest of both."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from concept_monitor_cli.concepts.plain import spelling
from concept_monitor_cli.concepts.tidy import tidy

CATEGORIES: tuple[str, ...] = ("color", "texture", "material", "part", "object", "scene")
"""The six categories of Broden, from low to high level: the order in tables and plots."""


@dataclass(frozen=True)
class ConceptSet:
    """The words that a unit may be named with: `S` in CLIP-Dissect, `M` concepts.

    The same name may stand in two categories (`orange` the fruit and `orange` the colour); the pair
    (name, category) is what tells concepts apart.

    Args:
        name: what to call the set in messages and in `run.json`.
        concepts: the names, `M` of them.
        categories: a category for each, `""` where unknown.
        notes: what was changed while reading (blank lines, duplicates), each one sentence for the user.
        codes: for each concept its name in the list or data set where that is another one (`n02084071`,
            `great_white_shark`), else `""`; empty where no name differs.

    Raises:
        ValueError: where `concepts`, `categories` and `codes` differ in length, or a name is blank.
    """

    name: str
    concepts: tuple[str, ...]
    categories: tuple[str, ...]
    notes: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()
    digest: str = field(init=False, repr=False)
    """sha256 (hex) over names and categories in order; `name`, `notes` and `codes` do not enter."""

    def __post_init__(self) -> None:
        if len(self.concepts) != len(self.categories):
            raise ValueError(f"{len(self.concepts)} concepts but {len(self.categories)} categories")
        if self.codes and len(self.codes) != len(self.concepts):
            raise ValueError(f"{len(self.concepts)} concepts but {len(self.codes)} codes")
        if any(not concept.strip() for concept in self.concepts):
            raise ValueError("a concept is blank")
        # JSON, not a joined string: no separator that a name could contain.
        payload = json.dumps([list(self.concepts), list(self.categories)], ensure_ascii=True)
        object.__setattr__(self, "digest", hashlib.sha256(payload.encode()).hexdigest())

    def __len__(self) -> int:
        return len(self.concepts)

    @property
    def code_of(self) -> dict[tuple[str, str], str]:
        """(name, category) -> its name in the data set, for those whose name differs there."""
        pairs = zip(self.concepts, self.categories, strict=True)
        return {pair: code for pair, code in zip(pairs, self.codes, strict=False) if code}

    @classmethod
    def clean(
        cls,
        name: str,
        concepts: Sequence[str],
        categories: Sequence[str] | None = None,
        *,
        codes: Sequence[str] | None = None,
        notes: Iterable[str] = (),
    ) -> ConceptSet:
        """A concept set from raw names: white space tidied, blanks and repeated pairs left out with a note.

        A British and an American spelling of one word (`aeroplane`, `airplane`) count as repeated.

        Args:
            name: as for the class.
            concepts: names as they came, in order; the first of several equal ones stays.
            categories: one for each name; all unknown where None.
            codes: what each name is called in the data set; as the name itself where None.
            notes: put before those of this step.
        """
        kinds = [""] * len(concepts) if categories is None else [tidy(c).lower() for c in categories]
        if len(kinds) != len(concepts):
            raise ValueError(f"{len(concepts)} concepts but {len(kinds)} categories")
        kept: dict[tuple[str, str], tuple[str, str]] = {}
        blank = 0
        repeated: list[str] = []
        respelt: list[str] = []
        for concept, kind, code in zip((tidy(c) for c in concepts), kinds, codes or concepts, strict=True):
            if not concept:
                blank += 1
                continue
            pair = (spelling(concept), kind)
            if pair not in kept:
                kept[pair] = (concept, tidy(code))
            elif kept[pair][0] != concept:
                respelt.append(f"{concept!r} beside {kept[pair][0]!r}")
            else:
                repeated.append(f"{concept!r} ({kind})" if kind else repr(concept))
        said = list(notes)
        if blank:
            said.append(f"{name}: {blank} blank {'entry' if blank == 1 else 'entries'} left out")
        for count, what, first in (
            (len(repeated), "duplicate", repeated[:1]),
            (len(respelt), "second spelling", respelt[:1]),
        ):
            if count:
                said.append(
                    f"{name}: {count} {what}{'' if count == 1 else 's'} left out, the first is {first[0]}"
                )
        named = [(concept, "" if code == concept else code) for concept, code in kept.values()]
        return cls(
            name,
            tuple(concept for concept, _ in named),
            tuple(kind for _, kind in kept),
            tuple(said),
            tuple(code for _, code in named) if any(code for _, code in named) else (),
        )

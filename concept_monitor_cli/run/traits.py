"""What is true of all that a detector says, kept in `run.json`: readers need not know the detector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

#: What a label is: one of the run's concepts, a formula of several, a weighted sum of them, a weighted
#: formula (what a unit says at a range of its activation), or a sentence.
LabelKind = Literal["concepts", "formulas", "sums", "ranges", "sentences"]
#: What a label was found by: a similarity of pooled activations and concepts, which can be computed again for
#: resampled images, or pixels.
Evidence = Literal["similarity", "pixels", "other"]
#: From what its labels are taken: the run's concept set, or the labels of the probing set's masks.
Candidates = Literal["concepts", "annotations"]


@dataclass(frozen=True)
class Traits:
    """What is true of all findings of a detector.

    Attributes:
        labels: what its labels are.
        evidence: what they are found by.
        candidates: from what they are taken.
        summary: one line of help.
        paper: where the method was published.
    """

    labels: LabelKind = "concepts"
    evidence: Evidence = "other"
    candidates: Candidates = "concepts"
    summary: str = ""
    paper: str = ""

    @property
    def in_word_space(self) -> bool:
        """Whether a label has a place of its own among the words that an encoder embeds."""
        return self.labels == "concepts"

    @property
    def resampled(self) -> bool:
        """Whether its scores can be computed again for resampled images, from what is recorded."""
        return self.evidence == "similarity"

    def to_json(self) -> dict[str, Any]:
        """As in `run.json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Traits:
        """Read what `to_json` wrote; what a later version added is passed over."""
        known = {item.name for item in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})


#: Of a detector that nothing is known of.
ORDINARY = Traits()

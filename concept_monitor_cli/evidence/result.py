"""What was found out about a network's images, as it is stored, written into run.json and printed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from concept_monitor_cli.evidence.candidates import Presentation
from concept_monitor_cli.evidence.decide import Decision
from concept_monitor_cli.evidence.look import Measured
from concept_monitor_cli.evidence.variants import Rival
from concept_monitor_cli.models.geometry import Channels
from concept_monitor_cli.models.preprocess import Triple

Status = Literal[
    "taken",
    "confirmed",
    "undecided",
    "far off",
    "no statistics",
    "untrained",
    "too few images",
    "not looked at",
]


@dataclass(frozen=True)
class Shown:
    """One presentation, and how far it is from what the network remembers.

    Attributes:
        model: the architecture, "library/name".
        normalisation: its name, or its numbers.
        mean: per channel R, G, B.
        std: likewise.
        channels: order of the colours.
        size: side in pixels.
        divergence: median over the layers of the Kullback-Leibler divergence, nats.
        low, high: the middle 95 % of the resamples of the photos.
        photos: how many were shown.
    """

    model: str
    normalisation: str
    mean: Triple
    std: Triple
    channels: Channels
    size: int
    divergence: float
    low: float
    high: float
    photos: int

    @classmethod
    def of(cls, measured: Measured) -> Shown:
        """From a measurement."""
        shown = measured.presentation
        low, high = measured.interval
        return cls(
            shown.source.label,
            shown.normalisation,
            shown.preprocessing.mean,
            shown.preprocessing.std,
            shown.channels,
            shown.size,
            measured.divergence,
            low,
            high,
            measured.photos,
        )

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Shown:
        """What `asdict` wrote."""
        return cls(**{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])})

    def is_of(self, presentation: Presentation) -> bool:
        """Whether it was this presentation."""
        known = presentation.preprocessing
        mine = (self.model, self.mean, self.std, self.channels, self.size)
        return mine == (
            presentation.source.label,
            known.mean,
            known.std,
            known.channels,
            presentation.size,
        )

    def differs_in_model(self, other: Shown) -> bool:
        """Whether it is another architecture, shown as many photos in the same way."""
        same = ("mean", "std", "channels", "size", "photos")
        return self.model != other.model and all(getattr(self, x) == getattr(other, x) for x in same)

    def __str__(self) -> str:
        swapped = ", blue first" if self.channels == "bgr" else ""
        return f"{self.model}, {self.normalisation}, {self.size} pixels{swapped}"

    @property
    def figure(self) -> str:
        """The divergence, to be read."""
        return f"{self.divergence:.3g}"


@dataclass(frozen=True)
class InputEvidence:
    """Whether the checkpoint's running statistics agree with how its images are shown.

    Attributes:
        status: see `decide.Decision`; or why nothing was looked at.
        reason: a sentence on that, where nothing was looked at.
        checkpoint: whose statistics they are.
        photos: probing images that were shown.
        layers: layers of batch normalisation that were compared.
        usual: what is assumed without evidence; None where nothing was looked at.
        chosen: what is used; None likewise.
        others: the runners-up, least first.
        open_parts: what is left open.
        against: options of the user that the evidence is against.
        unfollowed: parts in which the evidence is not followed, though it is against the usual.
        better: what it would take if it were followed in everything.
        variants: other architectures that the weights fit and that compute something else.
        rivals: these beside the architecture that is used, or beside the one that was found.
        names: digest of the names and shapes of the weights: which network of a run it is.
    """

    status: Status
    reason: str = ""
    checkpoint: str = ""
    photos: int = 0
    layers: int = 0
    usual: Shown | None = None
    chosen: Shown | None = None
    others: tuple[Shown, ...] = ()
    open_parts: tuple[str, ...] = ()
    against: tuple[str, ...] = ()
    unfollowed: tuple[str, ...] = ()
    better: Shown | None = None
    variants: tuple[str, ...] = ()
    rivals: tuple[Rival, ...] = ()
    names: str = ""

    @classmethod
    def of(
        cls,
        decision: Decision,
        usual: Measured,
        others: Sequence[Measured],
        fixed: Collection[str] = (),
        variants: Sequence[str] = (),
        rivals: Sequence[Rival] = (),
    ) -> InputEvidence:
        """From a decision, where the user fixed some parts and other architectures fit, too."""
        chosen = Shown.of(decision.chosen)
        return cls(
            status=decision.status,
            photos=decision.chosen.photos,
            layers=decision.chosen.layers,
            usual=Shown.of(usual),
            chosen=chosen,
            others=tuple(Shown.of(each) for each in others if each is not decision.chosen),
            open_parts=decision.open_parts,
            against=tuple(part for part in decision.against if part in fixed),
            unfollowed=tuple(part for part in decision.against if part not in fixed),
            better=None if decision.better is None else Shown.of(decision.better),
            variants=tuple(variants),
            rivals=tuple(rivals),
        )

    def to_json(self) -> dict[str, Any]:
        """As plain values, for the store and for `run.json`, with the sentence that was said."""
        return {**asdict(self), "sentence": self.sentence}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> InputEvidence:
        """What `to_json` wrote."""
        content = {name: value for name, value in values.items() if name != "sentence"}
        for name in ("usual", "chosen", "better"):
            content[name] = None if content[name] is None else Shown.from_json(content[name])
        content["others"] = tuple(Shown.from_json(each) for each in content["others"])
        for name in ("open_parts", "against", "unfollowed", "variants"):
            content[name] = tuple(content[name])
        content["rivals"] = tuple(Rival(**each) for each in content.get("rivals", ()))
        return cls(**content)

    @property
    def compared(self) -> bool:
        """Whether there was something to compare: running statistics, and images."""
        return self.chosen is not None

    @property
    def sentence(self) -> str:
        """For the user: what was found, with figures."""
        if self.usual is None or self.chosen is None:
            return f"input: {self.reason}; the usual is assumed"
        measured = (
            f"divergence of {self.layers} batch-norm layers on {self.photos} photos from {self.checkpoint}"
        )
        same = [each for each in self.others if each.photos == self.photos]
        least = min((self.chosen, *same), key=lambda each: each.divergence)
        if self.status == "far off":
            return (
                "input: in no way that was tried do the probing images come near the checkpoint's own "
                "statistics: they may be of another kind than the training's, or those were shown in a way "
                f"that was not tried ({measured}: {least.figure} at least, as {least}); the usual is kept"
            )
        tail = self._which + self._nearer
        left = [part for part in self.open_parts if part != "architecture" or not self.variants]
        if left and self.status != "undecided":
            tail = f"; left open: {', '.join(left)}{tail}"
        if self.status == "taken":
            return (
                f"input, by the checkpoint's own statistics: {self.chosen} ({measured}: "
                f"{self.chosen.figure}; as is usual, {self.usual}: {self.usual.figure}){tail}"
            )
        after = f"; the next, {self.others[0]}: {self.others[0].figure}" if self.others else ""
        if self.status == "confirmed" and self.against:
            return (
                f"input: as given by options, {self.chosen} ({measured}: {self.chosen.figure}{after}){tail}"
            )
        if self.status == "confirmed":
            return (
                "input: the checkpoint's own statistics agree with the normalisation that is used, "
                f"{self.chosen.normalisation} ({measured}: {self.chosen.figure}{after}){tail}"
            )
        return (
            f"input: the checkpoint's own statistics leave open {' and '.join(left)}, where the "
            f"usual is kept ({measured}: {self.chosen.figure}{after}){tail}"
        )

    @property
    def architecture_told(self) -> bool:
        """Whether the architecture that is used was found to be the true one of several that fit."""
        undecided = {"architecture"} & {*self.open_parts, *self.against}
        return bool(self.rivals) and not undecided and self.status != "far off"

    @property
    def _which(self) -> str:
        if self.chosen is None or not self.variants:
            return ""
        if self.architecture_told:
            return (
                f"; the weights also fit {', '.join(map(str, self.rivals))}, and their statistics are "
                f"those of {self.chosen.model}"
            )
        if "architecture" not in self.open_parts:
            return ""
        alike = {each.model: each for each in self.others if each.differs_in_model(self.chosen)}
        known = [self.chosen.model]
        known += [f"{each} ({alike[each].figure})" if each in alike else each for each in self.variants]
        return f"; the weights fit {', '.join(known)}, and the statistics do not tell which: --model says it"

    @property
    def _nearer(self) -> str:
        if self.better is None or not self.unfollowed:
            return ""
        options = {"architecture": f"--model {self.better.model}", "size": f"--input-size {self.better.size}"}
        wanted = " ".join(options[part] for part in self.unfollowed if part in options)
        return (
            f"; nearer is {self.better} ({self.better.figure}), which is not followed: if the training was "
            f"so, add {wanted}"
        )

    @property
    def parts(self) -> dict[str, str]:
        """For each part of a presentation: what is used, and why, to be read."""
        if self.usual is None or self.chosen is None:
            return {}
        names = {"architecture": "model", "channel order": "channels"}
        lines = {}
        for part in ("architecture", "normalisation", "channel order", "size"):
            usual, used = (getattr(each, names.get(part, part)) for each in (self.usual, self.chosen))
            if used != usual:
                why = f"by the checkpoint's own statistics, instead of {usual}"
            elif part in self.against:
                why = f"as given, though {self._better(names.get(part, part))} is nearer"
            elif part in self.unfollowed:
                why = f"as is usual, though {self._better(names.get(part, part))} is nearer"
            elif part in self.open_parts or self.status == "far off":
                why = "as is usual, and left open"
            elif part == "architecture" and self.architecture_told:
                why = "as is usual, and the checkpoint's own statistics agree"
            else:
                why = "as is usual"
            lines[part] = f"{used} ({why})"
        return lines

    def _better(self, name: str) -> Any:
        return getattr(self.better, name)

    @property
    def warning(self) -> str | None:
        """Against what the user gave, or None."""
        if not self.against or self.better is None or self.chosen is None:
            return None
        said = (
            f"the checkpoint's own statistics are against the {' and '.join(self.against)} given by options"
        )
        if self.against == ("architecture",) and self.rivals:
            return f"{said}: of those that its weights fit, {self.better.model} agrees with them"
        return (
            f"{said}: their divergence is {self.chosen.figure} as {self.chosen}, and {self.better.figure} as "
            f"{self.better}"
        )

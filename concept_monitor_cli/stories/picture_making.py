"""Pictures of a run's units: which are wanted, which the store has, and how the others are made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional import pictures as method
from concept_monitor_cli.functional.objectives import layer_energy
from concept_monitor_cli.functional.pictures import Climb
from concept_monitor_cli.functional.rectifiers import redirected
from concept_monitor_cli.models.normalise import grey_images
from concept_monitor_cli.options import PictureOptions
from concept_monitor_cli.progress import Progress
from concept_monitor_cli.record.sight import Sight, looking, usable_side
from concept_monitor_cli.store import Entry, JSONValue, Key, Writer
from concept_monitor_cli.stories.attribute_making import Photo
from concept_monitor_cli.stories.picture_scores import Score
from concept_monitor_cli.stories.picture_wishes import PHOTOS, Picture, Scale, Task, Wish
from concept_monitor_cli.stories.recorder import Network, Recorder

#: Where pictures are made at once, how many of them, and how many steps: without a GPU, and on one.
AT_ONCE, AT_ONCE_GPU = 8, 64
STEPS, STEPS_GPU = 128, 512
#: The largest side that is taken without a GPU where none is asked for, pixels.
LARGEST = 128
#: Warps under which a finished picture is shown again.
ROBUST_DRAWS = 8
#: Forward passes that a step costs, gradients included: 1.6 to 3 in what was measured.
PASSES_PER_STEP = 3
# Photos whose spectrum is measured at once.
_SPECTRUM_ROWS = 64


Wanted = TypeVar("Wanted")


class PictureSizes(Protocol):
    """What a user says of the size of pictures, and of how many are made at once."""

    @property
    def size(self) -> int | None:
        """`--size`."""

    @property
    def at_once(self) -> int | None:
        """`--at-once`."""


@dataclass
class Ascents:
    """How large pictures are on this machine, and how many are made at once.

    Args:
        recorder: the run's networks.
        sizes: what the user said.
        progress: told what happens.
        largest: the largest side where none is asked for, without a GPU and on one (`None`: its own).
    """

    recorder: Recorder
    sizes: PictureSizes
    progress: Progress
    largest: tuple[int | None, int | None]
    _sides: dict[int, int] = field(default_factory=dict)

    @cached_property
    def on_gpu(self) -> bool:
        """Whether there is one."""
        return self.recorder.device.type != "cpu"

    @property
    def at_once(self) -> int:
        """Pictures in a batch. The same for every batch, since another number rounds otherwise."""
        return self.sizes.at_once or (AT_ONCE_GPU if self.on_gpu else AT_ONCE)

    def batches(
        self, wanted: Sequence[Wanted], size: int | None = None, group: int = 1
    ) -> Iterator[tuple[list[Wanted], list[Wanted]]]:
        """What is wanted, batch by batch, and each batch filled up with copies of its last.

        Args:
            wanted: of a group all together.
            size: of a batch; `None`: `at_once`.
            group: how many belong together, so that the last group is copied.
        """
        size = size or self.at_once
        for first in range(0, len(wanted), size):
            batch = list(wanted[first : first + size])
            yield batch, batch + batch[-group:] * ((size - len(batch)) // group)

    def side(self, network: Network) -> int:
        """The side of pictures, tried once for each architecture."""
        place = id(network.architecture)
        if place not in self._sides:
            own = network.architecture.preprocessing.geometry.size
            wanted = self.sizes.size or min(own, self.largest[self.on_gpu] or own)
            if wanted == own:
                self._sides[place] = own
            else:
                channels = network.architecture.layers[0].channels
                tries = [wanted] if self.sizes.size else [wanted, own]
                side = usable_side(network.make(), channels, tries, self.recorder.device)
                if side != wanted:
                    self.progress.notice(
                        f"pictures of {side} pixels: the network takes no images of {wanted}"
                    )
                self._sides[place] = side
        return self._sides[place]


def shaped(pixels: NDArray[np.uint8], climb: Climb) -> Tensor:
    """Images as pictures are, `(b, channels, s, s)` in [0, 1], of `(b, h, w, 3)`."""
    images = torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2).float() / 255
    if climb.channels == 1:
        images = grey_images(images)
    side = (climb.side, climb.side)
    if images.shape[-2:] != side:
        images = torch.nn.functional.interpolate(
            images, side, mode="bilinear", antialias=True, align_corners=False
        ).clamp(0, 1)
    return images


@dataclass
class Maker:
    """Makes the pictures of a run.

    Args:
        recorder: the run's networks.
        options: how.
        progress: told what happens.
        images: of caricatures, by what they are called.
        compared: other images, to see how like them caricatures are.
    """

    recorder: Recorder
    options: PictureOptions
    progress: Progress
    images: Mapping[str, Photo] = field(default_factory=dict)
    compared: Sequence[Photo] = ()
    _spectra: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    _scales: dict[tuple[str, str], Scale] = field(default_factory=dict)

    @cached_property
    def ascents(self) -> Ascents:
        """How large pictures are, and how many are made at once."""
        return Ascents(self.recorder, self.options, self.progress, (LARGEST, None))

    @property
    def steps(self) -> int:
        """Of the ascent of a picture that begins at the start."""
        return self.options.steps or (STEPS_GPU if self.ascents.on_gpu else STEPS)

    def steps_of(self, task: Task) -> int:
        """Of the ascent of some pictures: half as many where they go on from others."""
        return self.steps if task.before is None else max(1, self.steps // 2)

    def climb(self, task: Task) -> Climb:
        """How some pictures are made."""
        options = self.options
        return Climb(
            kind=options.parameters,
            side=self.ascents.side(task.network),
            channels=task.look.tapped.channels,
            steps=self.steps_of(task),
            seed=task.seed,
            warped=options.warps,
            smooth=options.tv,
            crops=options.crops,
        )

    def group(self, task: Task) -> int:
        """How many pictures are made together, since each depends on the others."""
        return self.options.diverse if task.wishes[0].member >= 0 else 1

    def rows(self, task: Task) -> int:
        """Pictures in a batch. The same for every batch, since another number rounds otherwise."""
        if self.options.objective == "layer":
            return 1  # there is no other one
        group = self.group(task)
        return max(1, self.ascents.at_once // group) * group

    def passes(self, task: Task, pictures: int) -> int:
        """About how many forward passes so many pictures cost; a batch that is not full counts as full."""
        rows = -(-pictures // self.rows(task)) * self.rows(task)
        return rows * self.steps_of(task) * PASSES_PER_STEP * max(1, self.options.crops)

    # -- the store -----------------------------------------------------------------------------

    def _layer_parts(self, task: Task) -> dict[str, JSONValue]:
        """What a layer says depends on, images apart."""
        network, look = task.network, task.look
        parts: dict[str, JSONValue] = {
            "network": network.architecture.source.identity(),
            "weights": network.architecture.weights_digest(network.checkpoint, look.tapped.name),
            "layer": look.tapped.name,
            **network.architecture.preprocessing.colour_key,
            "precision": "fp32",
        }
        if look.key is not None:
            parts["basis"] = look.key.digest
        return parts

    def key(self, task: Task, wish: Wish) -> Key:
        """What a picture depends on; of a film also on all pictures before it."""
        climb, options = self.climb(task), self.options
        photos = task.network.architecture.pixels.digest
        parts: dict[str, JSONValue] = {
            **self._layer_parts(task),
            "objective": "caricature" if wish.image else options.objective,
            "unit": wish.unit,
            "parameters": climb.kind,
            "side": climb.side,
            "steps": climb.steps,
            "seed": climb.seed,
            "warps": climb.warped,
            "tv": climb.smooth,
            "pooling": task.network.pooling,
            "at_once": self.rows(task),
            "draws": ROBUST_DRAWS,
        }
        if climb.kind == "maco":
            parts["photos"] = photos
        if climb.crops:
            parts["crops"] = climb.crops
        if wish.other >= 0:
            parts["pair"], parts["between"] = [wish.other, wish.share], photos
        if wish.member >= 0:
            parts["diverse"], parts["between"] = [wish.member, options.diverse, options.diversity], photos
        if wish.image:
            photos_of = [self.images[wish.image], *self.compared]
            parts["images"] = [photo.digest for photo in photos_of]
        if task.film:
            parts["after"] = "" if task.before is None else self.key(task.before, wish).digest
        return self.recorder.store.key("picture", **parts)

    def missing(self, task: Task) -> list[Wish]:
        """Those that the store lacks; of those made together all, if one is lacking."""
        store, group = self.recorder.store, self.group(task)
        found: list[Wish] = []
        for first in range(0, len(task.wishes), group):
            own = task.wishes[first : first + group]
            if not all(store.proved(self.key(task, wish)) for wish in own):
                found += own
        return found

    def _entry(self, task: Task, wish: Wish) -> Entry:
        entry = self.recorder.store.get(self.key(task, wish))
        if entry is None:
            raise InputError(
                f"a picture of {task.layer} at epoch {task.record.epoch} has gone from the cache",
                where=self.recorder.store.root,
                hint="run the command again",
            )
        return entry

    def load(self, task: Task) -> list[Picture]:
        """Pictures that are in the store."""
        found = []
        for wish in task.wishes:
            with self._entry(task, wish) as entry:
                chance = float(entry.read("chance")[0]) if "chance" in entry.names() else float("nan")
                found.append(
                    Picture(
                        wish,
                        entry.read("image"),
                        entry.read("activations"),
                        float(entry.read("robust")[0]),
                        bool(entry.read("silent")[0]),
                        chance,
                    )
                )
        return found

    # -- what the probing images say ------------------------------------------------------------

    def scale(self, task: Task) -> Scale:
        """The measure of a layer's pictures at one epoch.

        Raises:
            InputError: as `Recorder.pooled`.
        """
        place = (task.record.folder, task.layer)
        if place not in self._scales:
            whole = self.options.objective == "layer"
            said = self._energies(task) if whole else self.recorder.pooled(task.record, task.layer)
            self._scales[place] = Scale.of(said, PHOTOS)
        return self._scales[place]

    def _energies_key(self, task: Task) -> Key:
        return self.recorder.store.key(
            "layer-energy",
            **self._layer_parts(task),
            photos=task.network.architecture.pixels.digest,
            side=self.ascents.side(task.network),
        )

    def photo_passes(self, task: Task) -> int:
        """Forward passes that the measure of a whole layer still costs."""
        known = self.options.objective != "layer" or self.recorder.store.proved(self._energies_key(task))
        return 0 if known else len(task.network.architecture.pixels)

    def _energies(self, task: Task) -> Tensor:
        """How loud a layer is on each probing image, at the size of the pictures, `(N, 1)`."""

        def write(writer: Writer) -> None:
            network, climb = task.network, self.climb(task)
            with self._looking(task) as sight, torch.no_grad():
                found = [
                    layer_energy(sight.maps(photos.to(self.recorder.device))).float().cpu()
                    for photos in self._photos(network, climb)
                ]
            writer.put("energy", torch.cat(found).numpy())

        with self.recorder.store.get_or_make(self._energies_key(task), write) as entry:
            return torch.from_numpy(entry.read("energy"))[:, None]

    # -- making --------------------------------------------------------------------------------

    def _looking(self, task: Task) -> AbstractContextManager[Sight]:
        network = task.network
        return looking(
            network.make(),
            task.look.tapped,
            network.architecture.preprocessing,
            basis=task.look.basis(),
            pooling=network.pooling,
            device=self.recorder.device,
        )

    def make(self, task: Task, wishes: Sequence[Wish], advance: Callable[[int], None]) -> None:
        """Makes pictures and puts them into the store, batch by batch: a killed run goes on where it was.

        Args:
            task: of which these are.
            wishes: those that the store lacks.
            advance: called with the number of pictures' steps that were done.
        """
        climb = self.climb(task)
        magnitude = self._magnitude(task.network, climb)
        device = self.recorder.device
        scale = self._scale_of(task, wishes)
        with self._looking(task) as sight:
            for batch, padded in self.ascents.batches(wishes, self.rows(task), self.group(task)):
                of_images = self._of_caricatures(climb, padded)
                score = Score(sight, padded, self.options, scale, of_images)

                def stepped(count: int = len(batch)) -> None:
                    advance(count)

                ascent = method.ascend(
                    score.climbed,
                    climb,
                    len(padded),
                    magnitude=magnitude,
                    redirect=redirected,
                    device=device,
                    theta=self._theta(task, padded, climb),
                    step_done=stepped,
                )
                arrays = {
                    "image": ascent.images.float(),
                    "activations": score.said(ascent.images),
                    "robust": self._robust(score, ascent.images, climb)[:, None],
                    "silent": ascent.silent[:, None].to(torch.uint8),
                }
                if task.film:
                    arrays["theta"] = ascent.theta
                if self.options.objective == "layer":
                    start = method.start(climb.kind, climb.channels, climb.side, climb.seed)[None].to(device)
                    arrays["chance"] = score.said(method.image_of(climb.kind, start, magnitude))
                if padded[0].image:
                    arrays["chance"] = self._alike_by_chance(score, ascent.images, padded, climb)[:, None]
                self._put(task, batch, arrays)

    def _scale_of(self, task: Task, wishes: Sequence[Wish]) -> Scale | None:
        """The measure of what is climbed; `None` where activations are climbed as they are.

        Raises:
            InputError: the way from or to a dead unit.
        """
        if wishes[0].other < 0 and wishes[0].member < 0:
            return None
        scale = self.scale(task)
        for unit in {wishes[0].unit, wishes[0].other} - {-1}:
            if wishes[0].other >= 0 and not scale.maximum[unit] > scale.mean[unit]:
                raise InputError(
                    f"unit {unit} of {task.layer} is dead at epoch {task.record.epoch}: it says the same of "
                    "all images, so that no way leads from or to it",
                    where="--pair",
                    hint="take another unit, or other epochs",
                )
        return scale

    def _put(self, task: Task, batch: Sequence[Wish], arrays: Mapping[str, Tensor]) -> None:
        kept = {name: values.detach().cpu().numpy() for name, values in arrays.items()}
        for place, wish in enumerate(batch):
            own = {name: values[place] for name, values in kept.items()}
            self.recorder.store.put(self.key(task, wish), own).close()

    def _theta(self, task: Task, wishes: Sequence[Wish], climb: Climb) -> Tensor | None:
        """What pictures start from: those before them, or each of a group from its own seed."""
        if task.before is not None:
            found = []
            for wish in wishes:
                with self._entry(task.before, wish) as entry:
                    found.append(torch.from_numpy(entry.read("theta")))
            return torch.stack(found)
        if wishes[0].member < 0:
            return None
        starts = [
            method.start(climb.kind, climb.channels, climb.side, task.seed + wish.member) for wish in wishes
        ]
        return torch.stack(starts)

    def _robust(self, score: Score, images: Tensor, climb: Climb) -> Tensor:
        """The mean of what each picture climbed under some fixed warps, `(B,)`."""
        found = [
            score.own(score.said(method.warp(images, matrix)))
            for matrix in climb.warps("robust", ROBUST_DRAWS)
        ]
        return torch.stack(found).mean(0)

    def _magnitude(self, network: Network, climb: Climb) -> Tensor | None:
        """The spectrum of the photos at the pictures' size, for `maco`."""
        if climb.kind != "maco":
            return None
        place = (network.architecture.pixels.digest, climb.side)
        if place not in self._spectra:
            self._spectra[place] = method.natural_magnitude(self._photos(network, climb))
        return self._spectra[place].to(self.recorder.device)

    # -- images --------------------------------------------------------------------------------

    def _of_caricatures(self, climb: Climb, wishes: Sequence[Wish]) -> Tensor | None:
        """The image of each caricature, `(B, channels, s, s)`; `None` of other pictures."""
        if not wishes[0].image:
            return None
        pixels = np.stack([self.images[wish.image].pixels for wish in wishes])
        return shaped(pixels, climb).to(self.recorder.device)

    def _alike_by_chance(self, score: Score, images: Tensor, wishes: Sequence[Wish], climb: Climb) -> Tensor:
        """How like other images each caricature is to the layer, `(B,)`."""
        found = []
        for photo in self.compared:
            other = shaped(photo.pixels[None], climb).to(self.recorder.device)
            own = [self.images[wish.image].digest == photo.digest for wish in wishes]
            alike = score.alike(images, other.expand(len(wishes), -1, -1, -1))
            found.append(alike.masked_fill(torch.tensor(own, device=alike.device), torch.nan))
        return torch.stack(found).nanmean(0)

    def _photos(self, network: Network, climb: Climb) -> Iterator[Tensor]:
        """The probing images as the network sees them, `(b, channels, s, s)` in [0, 1]."""
        pixels = network.architecture.pixels
        for first in range(0, len(pixels), _SPECTRUM_ROWS):
            yield shaped(pixels.rows(first, min(first + _SPECTRUM_ROWS, len(pixels))), climb)

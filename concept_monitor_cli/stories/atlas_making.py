"""What an atlas is made of: samples of a layer, and pictures of cells; from the store or made."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from concept_monitor_cli.errors import CmonError
from concept_monitor_cli.functional import atlas as method
from concept_monitor_cli.functional import pictures
from concept_monitor_cli.functional.rectifiers import redirected
from concept_monitor_cli.models.directional import at_places
from concept_monitor_cli.models.normalise import ImageNormaliser, grey_images
from concept_monitor_cli.options import AtlasOptions
from concept_monitor_cli.progress import Progress
from concept_monitor_cli.record.sight import looking
from concept_monitor_cli.store import JSONValue, Key
from concept_monitor_cli.stories.picture_making import Ascents
from concept_monitor_cli.stories.recorder import Network, Recorder

#: The largest side of a cell's picture where none is asked for, pixels: without a GPU, and on one.
LARGEST, LARGEST_GPU = 64, 128
#: Warps of cells' pictures shift and turn twice as far as those of units'.
WIDER = 2.0


@dataclass(frozen=True)
class Samples:
    """One place of each probing image at one epoch.

    Attributes:
        rows, columns: `(N,)` int64, of the layer's maps.
        activations: `(N, C)` float32.
        attributions: `(N, K)` float32, what each place says for each class; `None` for none.
        why_not: why there are no attributions.
    """

    rows: Tensor
    columns: Tensor
    activations: Tensor
    attributions: Tensor | None
    why_not: str


@dataclass(frozen=True)
class Tile:
    """The picture of a cell.

    Attributes:
        image: `(channels, s, s)` float32 in [0, 1].
        activation: `(C,)` float32, of the middle of its map.
    """

    image: NDArray[np.float32]
    activation: NDArray[np.float32]


@dataclass
class Atlases:
    """The samples and tiles of a run's networks at one layer, each made once.

    Args:
        recorder: the networks.
        options: how.
        progress: told what happens.
    """

    recorder: Recorder
    options: AtlasOptions
    progress: Progress

    # -- samples ---------------------------------------------------------------------------------------------

    def _samples_key(self, network: Network) -> Key:
        architecture = network.architecture
        return self.recorder.store.key(
            "samples",
            network=architecture.source.identity(),
            weights=network.checkpoint.digest,
            layer=network.looks[0].tapped.name,
            photos=architecture.pixels.digest,
            seed=self.options.seed,
            **architecture.preprocessing.colour_key,
            precision="fp32",
        )

    def sampled(self, network: Network) -> bool:
        """Whether the store has the samples."""
        return self.recorder.store.proved(self._samples_key(network))

    def samples(self, network: Network, advance: Callable[[int], object] = lambda _: None) -> Samples:
        """One place of each probing image.

        Args:
            network: at one epoch.
            advance: told how many images were shown to it.

        Raises:
            InputError: the layer has no maps.
        """
        key = self._samples_key(network)
        entry = self.recorder.store.get(key)
        if entry is None:
            self._sample(network, key, advance)
            entry = self.recorder.store.get(key)
            if entry is None:
                raise CmonError(
                    "samples were lost from the cache while in use", where=self.recorder.store.root
                )
        with entry:
            said = entry.read("attributions")
            why_not = bytes(entry.read("why_not")).decode()
            return Samples(
                torch.from_numpy(entry.read("rows")),
                torch.from_numpy(entry.read("columns")),
                torch.from_numpy(entry.read("activations")),
                torch.from_numpy(said) if said.shape[1] else None,
                why_not,
            )

    def _sample(self, network: Network, key: Key, advance: Callable[[int], object]) -> None:
        layer, pixels = network.looks[0].tapped, network.architecture.pixels
        assert layer.map_size is not None
        height, width = layer.map_size
        preprocessing, device = network.architecture.preprocessing, self.recorder.device
        shown_as = ImageNormaliser(preprocessing, layer.channels, device)
        model = network.make().to(device)
        places: list[tuple[int, int]] = []
        found, said, why_not = [], [], ""
        for first in range(0, len(pixels), self.options.batch_size):
            shown = np.array(pixels.rows(first, min(first + self.options.batch_size, len(pixels))))
            own = [
                method.inner_place(
                    hashlib.sha256(image.tobytes()).hexdigest(), self.options.seed, height, width
                )
                for image in shown
            ]
            places += own
            images = torch.from_numpy(shown).permute(0, 3, 1, 2).float() / 255
            if layer.channels == 1:
                images = grey_images(images)
            rows, columns = torch.tensor(own, device=device).T
            seen = at_places(model, layer, shown_as(images.to(device)), rows, columns)
            found.append(seen.activations.float().cpu())
            why_not = seen.why_not
            said.append(torch.zeros(len(own), 0) if seen.attributions is None else seen.attributions.cpu())
            advance(len(own))
        rows_and_columns = np.array(places, dtype=np.int64)
        arrays = {
            "rows": rows_and_columns[:, 0].copy(),
            "columns": rows_and_columns[:, 1].copy(),
            "activations": torch.cat(found).numpy(),
            "attributions": torch.cat(said).numpy(),
            "why_not": np.frombuffer(why_not.encode(), dtype=np.uint8).copy(),
        }
        self.recorder.store.put(key, arrays).close()

    # -- tiles -----------------------------------------------------------------------------------------------

    @cached_property
    def ascents(self) -> Ascents:
        """How large tiles are, and how many are made at once."""
        return Ascents(self.recorder, self.options, self.progress, (LARGEST, LARGEST_GPU))

    def climb(self, network: Network) -> pictures.Climb:
        """How the tiles of a network are made."""
        return pictures.Climb(
            side=self.ascents.side(network),
            channels=network.looks[0].tapped.channels,
            steps=self.options.steps,
            seed=self.options.seed,
            wider=WIDER,
        )

    def _tile_key(self, network: Network, mean: Tensor, direction: Tensor) -> Key:
        climb, look = self.climb(network), network.looks[0]
        preprocessing = network.architecture.preprocessing
        wanted = hashlib.sha256(mean.numpy().tobytes() + direction.numpy().tobytes()).hexdigest()
        parts: dict[str, JSONValue] = {
            "network": network.architecture.source.identity(),
            "weights": network.architecture.weights_digest(network.checkpoint, look.tapped.name),
            "layer": look.tapped.name,
            "wanted": wanted,
            "side": climb.side,
            "steps": climb.steps,
            "seed": climb.seed,
            "wider": climb.wider,
            **preprocessing.colour_key,
            "precision": "fp32",
            "at_once": self.ascents.at_once,
        }
        return self.recorder.store.key("tile", **parts)

    def missing(self, network: Network, means: Tensor, directions: Tensor) -> list[int]:
        """Which tiles the store lacks."""
        return [
            number
            for number, (mean, direction) in enumerate(zip(means, directions, strict=True))
            if not self.recorder.store.proved(self._tile_key(network, mean, direction))
        ]

    def tiles(
        self,
        network: Network,
        means: Tensor,
        directions: Tensor,
        advance: Callable[[int], object] = lambda _: None,
    ) -> list[Tile]:
        """The pictures of some cells; a stopped run goes on after the last whole batch.

        Args:
            network: at one epoch.
            means: `m`, `(P, C)` float32.
            directions: `S m`, `(P, C)` float32.
            advance: told how many pictures' steps were done.
        """
        wanted = self.missing(network, means, directions)
        if wanted:
            self._make(network, means, directions, wanted, advance)
        found = []
        for mean, direction in zip(means, directions, strict=True):
            entry = self.recorder.store.get(self._tile_key(network, mean, direction))
            if entry is None:
                raise CmonError("a tile was lost from the cache while in use", where=self.recorder.store.root)
            with entry:
                found.append(Tile(entry.read("image"), entry.read("activation")))
        return found

    def _make(
        self,
        network: Network,
        means: Tensor,
        directions: Tensor,
        wanted: Sequence[int],
        advance: Callable[[int], object],
    ) -> None:
        device, climb = self.recorder.device, self.climb(network)
        with looking(
            network.make(),
            network.looks[0].tapped,
            network.architecture.preprocessing,
            pooling=network.pooling,
            device=device,
        ) as sight:

            def middle(images: Tensor) -> Tensor:
                maps = sight.maps(images)
                return maps[:, :, maps.shape[2] // 2, maps.shape[3] // 2]

            for batch, padded in self.ascents.batches(wanted):
                to, of = directions[padded].to(device), means[padded].to(device)

                def score(images: Tensor, to: Tensor = to, of: Tensor = of) -> Tensor:
                    return method.towards(middle(images), to, of)

                def stepped(count: int = len(batch)) -> None:
                    advance(count)

                made = pictures.ascend(
                    score, climb, len(padded), redirect=redirected, device=device, step_done=stepped
                )
                seen = middle(made.images).detach().float().cpu()
                for place, number in enumerate(batch):
                    arrays = {
                        "image": made.images[place].float().cpu().numpy(),
                        "activation": seen[place].numpy(),
                    }
                    key = self._tile_key(network, means[number], directions[number])
                    self.recorder.store.put(key, arrays).close()

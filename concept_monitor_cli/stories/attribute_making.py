"""Attribution maps of some images for one network: from the store, or made one image at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional import attribution as method
from concept_monitor_cli.functional.building_blocks import way
from concept_monitor_cli.functional.pictures import generator
from concept_monitor_cli.functional.rectifiers import guided
from concept_monitor_cli.models.geometry import Preprocessing
from concept_monitor_cli.models.gradients import gradient_tap, gradients, normalises_images, scaled
from concept_monitor_cli.models.layers import LayerInfo, evaluation
from concept_monitor_cli.models.normalise import ImageNormaliser, grey_images
from concept_monitor_cli.models.pooling import spatial_maps
from concept_monitor_cli.models.taps import first_tensor
from concept_monitor_cli.options import AttributionMethod
from concept_monitor_cli.store import JSONValue, Key, Store
from concept_monitor_cli.stories.recorder import Network

Pixels = NDArray[np.uint8]

# Images that run through the network together on the way from 0 to a layer's output.
_TOGETHER = 32
# How dense the way from 0 to a layer's output is at its beginning (`building_blocks.way`), where the network
# normalises single images. Random ViT, Swin and ConvNeXt, 32 points: with 1 sums are off by .9 to 15 times
# the change, with 4 by .001 to .36; of EfficientNet-Lite1, with batch norm, 1 is nearer (.02; 4: .045).
_DENSE = 4


@dataclass(frozen=True)
class Photo:
    """An image whose output is explained.

    Attributes:
        name: as in tables.
        pixels: as the network sees it, `(s, s, 3)`.
    """

    name: str
    pixels: Pixels

    @property
    def digest(self) -> str:
        """Of its pixels."""
        return hashlib.sha256(repr(self.pixels.shape).encode() + self.pixels.tobytes()).hexdigest()


@dataclass(frozen=True)
class Target:
    """What is explained: the logit of `wanted`, or how far it is above that of `against` (-1: none)."""

    wanted: int
    against: int = -1

    def of(self, logits: Tensor) -> Tensor:
        """`(B,)` of `(B, K)`."""
        one = logits[:, self.wanted]
        return one if self.against < 0 else one - logits[:, self.against]


@dataclass(frozen=True)
class Map:
    """An attribution.

    Attributes:
        values: `(h, w)` float32, raw and signed; of pixel methods as large as the image.
        completeness_error: of `integrated`; NaN for others.
    """

    values: NDArray[np.float32]
    completeness_error: float = float("nan")


@dataclass(frozen=True)
class InLayer:
    """What a layer put out for an image, and how the logits of some classes hang on it.

    Attributes:
        activations: `A`, `(C, h, w)` float32.
        gradients: `(K, C, h, w)` float32: `G` of each class, or its mean on the way from 0 to `A`.
        elsewhere: `(K,)` float64: `A G` of what the layer puts out beside its maps, as class tokens.
        change: `(K,)` float64: `y(A) - y(0)`.
    """

    activations: NDArray[np.float32]
    gradients: NDArray[np.float32]
    elsewhere: NDArray[np.float64]
    change: NDArray[np.float64]


class Explainer:
    """A network that is asked where its outputs come from.

    Args:
        model: the network, with its weights, in evaluation mode.
        layer: the layer of the CAMs.
        preprocessing: mean, standard deviation, order of colours.
        seed: of `smooth`.
        device: where it runs.
        path: midpoints of `integrated`.
    """

    def __init__(
        self,
        model: nn.Module,
        layer: LayerInfo,
        preprocessing: Preprocessing,
        seed: int,
        device: torch.device,
        path: int = method.PATH_STEPS,
    ) -> None:
        self._model, self._layer, self._seed, self._device = model.to(device), layer, seed, device
        self._path = path
        self._shown = ImageNormaliser(preprocessing, layer.channels, device)

    def image(self, photo: Photo) -> Tensor:
        """The pixels in [0, 1], `(channels, s, s)`, red first whatever the network wants."""
        image = torch.from_numpy(np.array(photo.pixels)).permute(2, 0, 1).float() / 255
        if self._layer.channels == 1:
            image = grey_images(image)
        return image.to(self._device)

    def _logits(self, result: object) -> Tensor:
        logits = first_tensor(result, self._model, "the network")
        if logits.ndim != 2:
            raise InputError(
                f"the network puts out {' x '.join(map(str, logits.shape[1:]))} numbers for an image, not "
                "one for each class",
                hint="attributions are for classifiers",
            )
        return logits

    def logits(self, photo: Photo) -> Tensor:
        """`(K,)` float32."""
        with evaluation(self._model), torch.no_grad():
            logits = self._logits(self._model(self._shown(self.image(photo))[None]))[0].float().cpu()
        if not bool(logits.isfinite().all()):
            raise InputError(
                "the network's outputs are not finite: the checkpoint may have no weights for its classifier",
                where=photo.name,
            )
        return logits

    @property
    def mean(self) -> Tensor:
        """The mean colour, which stands for nothing, `(channels, 1, 1)` in [0, 1], red first."""
        return self._shown.mean

    def scores(self, target: Target) -> Callable[[Tensor], Tensor]:
        """Images in [0, 1] -> the target's logit and the probability of its class, `(b, 2)`."""

        def score(images: Tensor) -> Tensor:
            with evaluation(self._model), torch.no_grad():
                logits = self._logits(self._model(self._shown(images))).float()
            return torch.stack([target.of(logits), logits.softmax(1)[:, target.wanted]], dim=1)

        return score

    def explain(self, photo: Photo, target: Target, name: AttributionMethod) -> Map:
        """The map of one image by one method.

        Raises:
            InputError: the layer does not reach the output, has no maps or negative ones, or no ReLU is there
                for guided gradients.
        """
        image = self.image(photo)
        if name in method.LAYER_METHODS:
            return Map(self._of_layer(image, target, name).cpu().numpy())
        if name == "guided-grad-cam":
            pixels = self._of_pixels(image, target, "guided")
            cam = self._of_layer(image, target, "grad-cam").clamp_min(0)
            large = method.enlarged(cam[None], *image.shape[1:])[0]
            return Map((pixels.values * large.cpu().numpy()).astype(np.float32))
        return self._of_pixels(image, target, name)

    def _of_layer(self, image: Tensor, target: Target, name: str) -> Tensor:
        layer = self._layer
        with evaluation(self._model), gradient_tap(self._model, [layer.name]) as run:
            seen = run(self._shown(image)[None])
            score = target.of(self._logits(seen.result))
            slope = gradients(score, seen.outputs)[layer.name]
            A, G = (spatial_maps(each.detach(), layer.layout) for each in (seen.outputs[layer.name], slope))
        self._reaches(G)
        chosen = next(make for known, make in method.LAYER_METHODS.items() if known == name)
        return chosen(A, G)[0]

    def in_layer(self, photo: Photo, targets: Sequence[Target], path: int = 0) -> InLayer:
        """The activations of an image and the gradients of some targets at them.

        Args:
            photo: the image.
            targets: what is explained.
            path: points of the straight way from 0 to `A` over which gradients are averaged; 0: at `A`.

        Raises:
            InputError: the places of the layer do not reach the output.
        """
        layer = self._layer
        image = self._shown(self.image(photo))[None]
        with evaluation(self._model), gradient_tap(self._model, [layer.name]) as run:
            seen = run(image)
            logits = self._logits(seen.result)
            A = seen.outputs[layer.name]
            if path:
                slopes = self._on_the_way(image, targets, path)
            else:
                slopes = [
                    gradients(target.of(logits), seen.outputs, keep_graph=True)[layer.name]
                    for target in targets
                ]
        with evaluation(self._model), torch.no_grad(), scaled(self._model, layer, [0.0]):
            nothing = self._logits(self._model(image))
        A = A.detach()
        maps = spatial_maps(A, layer.layout)[0]
        found = [spatial_maps(slope, layer.layout)[0] for slope in slopes]
        for slope in found:
            self._reaches(slope)
        whole = [float((A.double() * slope.double()).sum()) for slope in slopes]
        inside = [float((maps.double() * slope.double()).sum()) for slope in found]
        # Sums of the same numbers in another order differ by rounding, which is no token.
        beside = layer.layout.prefix > 0
        return InLayer(
            maps.cpu().numpy().copy(),
            torch.stack(found).float().cpu().numpy(),
            np.array([a - b if beside else 0.0 for a, b in zip(whole, inside, strict=True)]),
            np.array([float(target.of(logits.detach())[0] - target.of(nothing)[0]) for target in targets]),
        )

    def _on_the_way(self, image: Tensor, targets: Sequence[Target], path: int) -> list[Tensor]:
        """Of each target the mean gradient on the way from 0 to what the layer puts out."""
        layer = self._layer
        points = way(path, _DENSE if normalises_images(self._model) else 1)
        total: list[Tensor] = []
        for first in range(0, path, _TOGETHER):
            some, weights = zip(*points[first : first + _TOGETHER], strict=True)
            # Its hook comes first, so the tap sees what is scaled.
            with scaled(self._model, layer, some), gradient_tap(self._model, [layer.name]) as run:
                seen = run(image.expand(len(some), -1, -1, -1))
                logits = self._logits(seen.result)
                batch = 1 if layer.layout.batch_second else 0
                shape = [-1 if axis == batch else 1 for axis in range(seen.outputs[layer.name].ndim)]
                weight = seen.outputs[layer.name].new_tensor(weights).reshape(shape)
                slopes = [
                    gradients(target.of(logits), seen.outputs, keep_graph=True)[layer.name]
                    for target in targets
                ]
                sums = [(slope * weight).sum(batch, keepdim=True) for slope in slopes]
            total = [a + b for a, b in zip(total, sums, strict=True)] if total else sums
        return total

    def _reaches(self, slope: Tensor) -> None:
        if not bool((slope != 0).any()):
            # The class token has a gradient, the places have none.
            raise InputError(
                f"the places of {self._layer.name} say nothing of the answer: their gradient is zero "
                "everywhere",
                where=f"--layer {self._layer.name}",
                hint="choose an earlier layer (after the last block of a ViT only its class token is read)",
            )

    def _of_pixels(self, image: Tensor, target: Target, name: str) -> Map:
        with ExitStack() as stack:
            stack.enter_context(evaluation(self._model))
            run = stack.enter_context(gradient_tap(self._model))

            def score(images: Tensor) -> Tensor:
                return target.of(self._logits(run(self._shown(images)).result))

            if name == "integrated":
                values, error = method.integrated_gradient(score, image, self.mean, self._path)
                return Map(values.cpu().numpy(), error)
            make: dict[str, Callable[[], Tensor]] = {
                "gradient": lambda: method.image_gradient(score, image[None])[0].sum(0),
                "gradient-x-input": lambda: method.gradient_times_input(score, image, self.mean),
                "smooth": lambda: method.smooth_gradient(score, image, generator(self._seed, "smooth")),
                "guided": lambda: self._guided(score, image),
            }
            return Map(make[name]().cpu().numpy())

    @staticmethod
    def _guided(score: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
        with guided() as mode:
            found = method.image_gradient(score, image[None])[0].sum(0)
        if not mode.met:
            raise InputError(
                "this network has no ReLU, so there are no guided gradients",
                where="--method guided",
                hint="take gradient, smooth or integrated",
            )
        return found


@dataclass
class Attributions:
    """Maps of a run's networks, each made once.

    Args:
        store: the cache.
        device: where networks run.
        seed: of `smooth`.
        path: midpoints of `integrated`.
    """

    store: Store
    device: torch.device
    seed: int
    path: int = method.PATH_STEPS
    _open: tuple[int, Explainer] | None = field(default=None)

    def explainer(self, network: Network) -> Explainer:
        """The network, built; the last one is kept."""
        if self._open is None or self._open[0] != id(network):
            look = network.looks[0]
            preprocessing = network.architecture.preprocessing
            made = Explainer(network.make(), look.tapped, preprocessing, self.seed, self.device, self.path)
            self._open = id(network), made
        return self._open[1]

    def key(self, network: Network, photo: Photo, **more: JSONValue) -> Key:
        """What something that is made of an image depends on.

        Args:
            network: at one epoch.
            photo: the image.
            **more: what else it depends on; `weights` in the place of the checkpoint's.
        """
        return self.store.key(
            "attribution",
            network=network.architecture.source.identity(),
            image=photo.digest,
            **network.architecture.preprocessing.colour_key,
            precision="fp32",
            **{"weights": network.checkpoint.digest, **more},
        )

    def logits(self, network: Network, photo: Photo) -> Tensor:
        """What the network puts out, `(K,)`."""
        key = self.key(network, photo, method="logits")
        entry = self.store.get(key)
        if entry is None:
            entry = self.store.put(key, {"logits": self.explainer(network).logits(photo).numpy()})
        with entry:
            return torch.from_numpy(entry.read("logits"))

    def stored_logits(self, network: Network, photo: Photo) -> Tensor | None:
        """What the network puts out, `(K,)`, if the store knows."""
        entry = self.store.get(self.key(network, photo, method="logits"))
        if entry is None:
            return None
        with entry:
            return torch.from_numpy(entry.read("logits"))

    def map(self, network: Network, photo: Photo, target: Target, name: AttributionMethod) -> Map:
        """The map of an image."""
        more: dict[str, JSONValue] = {"method": name, "target": [target.wanted, target.against]}
        if name in method.LAYER_METHODS or name == "guided-grad-cam":
            more["layer"] = network.looks[0].tapped.name
        if name == "smooth":
            more |= {"seed": self.seed, "copies": method.COPIES, "noise": method.NOISE}
        if name == "integrated":
            more["steps"] = self.path
        key = self.key(network, photo, **more)
        entry = self.store.get(key)
        if entry is None:
            made = self.explainer(network).explain(photo, target, name)
            error = np.array([made.completeness_error], dtype=np.float64)
            entry = self.store.put(key, {"map": made.values, "error": error})
        with entry:
            return Map(entry.read("map"), float(entry.read("error")[0]))

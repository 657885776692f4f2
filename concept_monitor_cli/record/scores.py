"""What a network says in the end, and the gradients of it at its layers, in one pass and one way back.

A consumer of scores names the class whose score each image is asked about. The gradient of the sum of these
scores over a batch gives every image its own, since images do not mix in evaluation mode; so one way back
serves all layers and all classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.models.gradients import InGraph, gradient_tap
from concept_monitor_cli.models.layers import LayerInfo
from concept_monitor_cli.models.pooling import Pooling, shift_gradient
from concept_monitor_cli.models.taps import first_tensor
from concept_monitor_cli.record.consumers import BLOCK_ROWS, RowBuffer, RowWriter

#: What gradients are taken of: a class's score, or its log-probability (minus the cross-entropy loss).
Target = Literal["logit", "loss"]

#: Of an image whose own class is not known, that which the network predicts is asked about.
PREDICTED = -1


class ScoreConsumer(Protocol):
    """Takes in the scores of the classes, and gradients, batch by batch, images in order."""

    @property
    def layers(self) -> Sequence[str]:
        """The layers at which it wants the gradient; none: only the scores."""

    @property
    def classes(self) -> Tensor | None:
        """`(N,)` int64, the class whose score is differentiated, or `PREDICTED`; None: that for all."""

    @property
    def target(self) -> Target:
        """What is differentiated."""

    @property
    def weighted(self) -> bool:
        """Whether gradients are multiplied by what the layer puts out, position by position."""

    def update(self, scores: Tensor, asked: Tensor, gradients: Mapping[str, Tensor]) -> None:
        """Takes in the next images.

        Args:
            scores: `(B, K)` float32.
            asked: `(B,)` int64, the class of each image.
            gradients: layer -> `(B, C)` float32, of the score of that class with respect to a shift of each
                unit at all positions; `weighted`: the sum of gradient times output over these.
        """

    def finish(self) -> None:
        """Called once after the last batch, not after a failure."""


class ScoreWriter:
    """Streams the scores of all classes, `(N, K)` float32, into a store entry.

    Args:
        writer: of the entry.
        n_images: `N`.
        dataset: name of the array.
    """

    layers: Sequence[str] = ()
    classes: Tensor | None = None
    target: Target = "logit"
    weighted = False

    def __init__(self, writer: RowWriter, n_images: int, dataset: str = "logits") -> None:
        self._writer, self._n_images, self._dataset = writer, n_images, dataset
        self._row = 0

    def update(self, scores: Tensor, asked: Tensor, gradients: Mapping[str, Tensor]) -> None:
        """Takes in a batch."""
        if self._row == 0:
            self._writer.create(self._dataset, (self._n_images, scores.shape[1]), np.float32)
        self._writer.write(self._dataset, self._row, scores.cpu().numpy())
        self._row += len(scores)

    def finish(self) -> None:
        """Everything is written."""


class GradientWriter:
    """Streams the gradients of one layer, `(N, C)` float32, and the classes asked about into a store entry.

    Args:
        layer: the layer.
        writer: of the entry.
        n_images: `N`.
        classes, target, weighted: see `ScoreConsumer`.
    """

    def __init__(
        self,
        layer: LayerInfo,
        writer: RowWriter,
        n_images: int,
        classes: Tensor | None,
        target: Target = "logit",
        weighted: bool = False,
    ) -> None:
        self.layers = (layer.name,)
        self.classes = classes
        self.target = target
        self.weighted = weighted
        self._writer = writer
        self._gradients, self._classes = RowBuffer(BLOCK_ROWS), RowBuffer(BLOCK_ROWS)
        self._row = 0
        self._reaches = False
        writer.create("gradients", (n_images, layer.units), np.float32)
        writer.create("classes", (n_images,), np.int64)

    def update(self, scores: Tensor, asked: Tensor, gradients: Mapping[str, Tensor]) -> None:
        """Takes in a batch."""
        self._write(
            self._classes.add(self._row, asked), self._gradients.add(self._row, gradients[self.layers[0]])
        )
        self._row += len(asked)

    def finish(self) -> None:
        """Writes what is left.

        Raises:
            InputError: the gradient was 0 for every image.
        """
        self._write(self._classes.take(), self._gradients.take())
        if not self._reaches:
            raise InputError(
                f"what layer {self.layers[0]!r} puts out changes no score: its gradient is zero everywhere",
                where=self.layers[0],
                hint="choose an earlier layer (patch tokens after the last block of a ViT that reads its "
                "class token do not reach the scores)",
            )

    def _write(self, classes: tuple[int, Tensor] | None, gradients: tuple[int, Tensor] | None) -> None:
        """Both are blocks of the same rows."""
        if classes is not None and gradients is not None:
            rows = gradients[1].cpu().numpy()
            self._reaches = self._reaches or bool((rows != 0).any())
            self._writer.write("gradients", gradients[0], rows)
            self._writer.write("classes", classes[0], classes[1].cpu().numpy())


def class_scores(result: Any, model: nn.Module) -> Tensor:
    """The scores of the classes, `(B, K)`, of what a network returned.

    Raises:
        InputError: it returned something else.
    """
    scores = first_tensor(result, model, type(model).__name__)
    if scores.ndim == 4 and scores.shape[2:] == (1, 1):
        scores = scores.flatten(1)
    if scores.ndim != 2:
        raise InputError(
            f"the network puts out {' x '.join(map(str, scores.shape[1:]))} numbers per image, not a score "
            "for each class",
            where=type(model).__name__,
            hint="what classes use can only be asked of a classifier",
        )
    return scores


@contextmanager
def score_reader(
    model: nn.Module,
    infos: Mapping[str, LayerInfo],
    poolings: Mapping[str, Pooling],
    scores: Sequence[ScoreConsumer],
    capture: Callable[[str, Tensor], Any],
) -> Iterator[Callable[[Tensor], dict[str, Any]]]:
    """A reader in a tap's place that hands scores and gradients to their consumers as well.

    Args:
        model: the network.
        infos: all layers to be read.
        poolings: what each layer's activations are pooled by.
        scores: who wants scores and gradients.
        capture: as of `models.taps.tap`.

    Yields:
        A function of a batch of images, all batches in order, that returns what a tap does.

    Raises:
        ValueError: two consumers ask about different classes or targets.
    """
    asking = [each for each in scores if each.layers]
    classes = asking[0].classes if asking else None
    target: Target = asking[0].target if asking else "logit"
    if any(each.target != target for each in asking):
        raise ValueError("consumers of one pass ask for gradients of different numbers")
    for each in asking:
        if (each.classes is None) != (classes is None) or (
            classes is not None and each.classes is not None and not torch.equal(each.classes, classes)
        ):
            raise ValueError("consumers of one pass ask about different classes")
    names = [name for name in infos if any(name in each.layers for each in asking)]
    start = 0

    def read(images: Tensor) -> dict[str, Any]:
        nonlocal start
        seen = run(images)
        said = class_scores(seen.result, model)
        asked = said.detach().argmax(1)
        if classes is not None:
            own = classes[start : start + len(asked)].to(asked.device)
            asked = torch.where(own == PREDICTED, asked, own)
        start += len(asked)
        slopes = _gradients(said, asked, seen, names, target)
        with torch.no_grad():
            captured = {name: capture(name, output.detach()) for name, output in seen.outputs.items()}
            wanted = {(name, each.weighted) for each in asking for name in each.layers}
            pooled = {
                (name, weighted): shift_gradient(
                    slopes[name] * seen.outputs[name].detach() if weighted else slopes[name],
                    infos[name].layout,
                    poolings[name],
                )
                for name, weighted in wanted
            }
            for each in scores:
                given = {name: pooled[name, each.weighted] for name in each.layers}
                each.update(said.detach().float(), asked, given)
        return captured

    with gradient_tap(model, list(infos), calls={name: info.calls for name, info in infos.items()}) as run:
        yield read


def _gradients(
    said: Tensor, asked: Tensor, seen: InGraph, names: Sequence[str], target: Target
) -> dict[str, Tensor]:
    """At each layer, of the sum over images of the score (or log-probability) of the class asked about."""
    if not names:
        return {}
    outputs = [seen.outputs[name] for name in names]
    if not said.requires_grad:
        return {name: torch.zeros_like(output) for name, output in zip(names, outputs, strict=True)}
    said = said.log_softmax(1) if target == "loss" else said
    chosen = said.gather(1, asked[:, None]).sum()
    found = torch.autograd.grad(chosen, outputs, allow_unused=True)
    return {
        name: torch.zeros_like(output) if slope is None else slope
        for name, output, slope in zip(names, outputs, found, strict=True)
    }

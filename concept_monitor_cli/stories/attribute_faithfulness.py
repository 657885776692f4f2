"""`attribute --check`: does the answer hang on the places that maps point at, more than on any places?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from concept_monitor_cli.functional import faithfulness as method
from concept_monitor_cli.functional.attribution import enlarged
from concept_monitor_cli.functional.pictures import generator
from concept_monitor_cli.options import AttributeOptions
from concept_monitor_cli.progress import Progress
from concept_monitor_cli.run import CheckpointRecord
from concept_monitor_cli.stories.attribute_making import Attributions, Photo, Target
from concept_monitor_cli.stories.recorder import Network

# Maps that know nothing of the network; they stand in the table beside the methods.
_NOTHING = ("random", "centre", "edges")
_SCALES = ("logit", "probability")


def faithfulness(
    network: Network,
    record: CheckpointRecord,
    photos: Sequence[Photo],
    targets: Sequence[Target],
    making: Attributions,
    options: AttributeOptions,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Rows of `faithfulness.csv`: areas under the curves at the last epoch, and gains over random orders."""
    explainer = making.explainer(network)
    found: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in (*options.methods, *_NOTHING)}
    with progress.task("deleting and inserting pixels", len(photos) * len(found), "maps") as advance:
        for number, (photo, target) in enumerate(zip(photos, targets, strict=True)):
            image, score = explainer.image(photo), explainer.scores(target)
            side = image.shape[-1]
            maps: dict[str, Tensor] = {
                name: enlarged(
                    torch.from_numpy(making.map(network, photo, target, name).values)[None], side, side
                )[0]
                for name in options.methods
            }
            maps |= {"centre": method.centre_map(side), "edges": method.edge_map(image)}

            def areas(
                values: Tensor,
                purpose: str,
                image: Tensor = image,
                score: Callable[[Tensor], Tensor] = score,
            ) -> tuple[Tensor, Tensor]:
                order = method.pixel_order(values, generator(options.seed, purpose))
                return method.areas(score, image, explainer.mean, order)

            for name, values in maps.items():
                found[name].append(areas(values, f"ties {number}"))
                advance(1)
            flat = torch.zeros(side, side)
            draws = [areas(flat, f"random {number} {draw}") for draw in range(method.RANDOM_ORDERS)]
            found["random"].append(
                (torch.stack([a for a, _ in draws]).mean(0), torch.stack([b for _, b in draws]).mean(0))
            )
            advance(1)
    rows = []
    for name, images in found.items():
        for curve, sign in (("deletion", -1), ("insertion", 1)):
            for place, scale in enumerate(_SCALES):
                own, chance = (
                    torch.stack([each[0 if curve == "deletion" else 1][place] for each in areas_of])
                    for areas_of in (images, found["random"])
                )
                better, low, high = method.gain(sign * (own - chance), generator(options.seed, "gain"))
                rows.append(
                    {
                        "epoch": record.epoch,
                        "checkpoint": record.name,
                        "layer": network.looks[0].tapped.name,
                        "method": name,
                        "curve": curve,
                        "scale": scale,
                        "value": float(own.mean()),
                        "chance": float(chance.mean()),
                        "gain": better,
                        "gain_low": low,
                        "gain_high": high,
                        "images": len(photos),
                    }
                )
    return rows

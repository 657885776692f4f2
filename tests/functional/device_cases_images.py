"""Cases for a simulated device: maps, masks, pictures and what is seen in images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from concept_monitor_cli.functional import (
    atlas,
    attribution,
    building_blocks,
    faithfulness,
    objectives,
    part_clusters,
    pictures,
    pointing,
    rectifiers,
    tuning,
    unit_ranges,
)
from concept_monitor_cli.functional.dissection import chance, masks, thresholds
from tests.functional.on_device import Case, World


def _score(w: World) -> Callable[[Tensor], Tensor]:
    """A number for each image, in the graph; ReLU has its other gradients in it."""
    weight = w.put(torch.randn(3, 16, 16, generator=w.numbers))
    return lambda images: ((images - 0.5) * weight).relu().square().sum((1, 2, 3))


def _places(w: World) -> Tensor:
    return w.R[:, 2:4].sigmoid()


def _cells(w: World) -> Tensor:
    return atlas.cells_of(_places(w), 3)


def _baseline(w: World) -> Tensor:
    return w.picture.mean((1, 2), keepdim=True)


def _groups(w: World, X: Tensor) -> tuple[Tensor, Tensor]:
    return w.new(len(X), 4).abs(), w.new(4, w.C).abs()


def _climb(w: World, kind: pictures.Parameterisation, crops: int = 0) -> pictures.Ascent:
    climb = pictures.Climb(kind, side=16, steps=2, crops=crops, smooth=0.1)
    magnitude = pictures.natural_magnitude(iter([w.pictures]))
    return pictures.ascend(
        _score(w), climb, 2, magnitude=magnitude, redirect=rectifiers.redirected, device=w.device
    )


def _cuts(w: World) -> list[unit_ranges.Cut | None]:
    return [
        unit_ranges.cut_ranges(torch.randn(200, generator=w.numbers).numpy(), 3) if unit else None
        for unit in range(w.C)
    ]


CASES: dict[str, Case] = {
    "atlas.standardised": Case(lambda w: atlas.standardised(w.R)),
    "atlas.unit_square": Case(lambda w: atlas.unit_square(w.Q[:, :2])),
    "atlas.joint_side": Case(lambda w: atlas.joint_side([_places(w), _places(w) / 2]), waits=2),
    "atlas.cells_of": Case(_cells),
    "atlas.epoch_purity": Case(lambda w: atlas.epoch_purity(_places(w), w.classes, 5), waits=2),
    "atlas.whitening": Case(lambda w: atlas.whitening(w.R), waits=2),
    "atlas.sums_by_cell": Case(lambda w: atlas.sums_by_cell(w.Q, _cells(w), 9)),
    "atlas.cell_means": Case(lambda w: atlas.cell_means(w.Q, w.classes, w.classes[: w.K]), waits=2),
    "atlas.filled": Case(lambda w: atlas.filled(_cells(w), 2), waits=3),
    "atlas.coherence": Case(lambda w: atlas.coherence(w.Q, _cells(w)), waits=6),
    "atlas.class_share": Case(lambda w: atlas.class_share(w.Z, w.classes, w.classes[: w.K]), waits=5),
    "atlas.dealt_out": Case(lambda w: atlas.dealt_out(_cells(w), w.numbers)),
    "atlas.loosened": Case(lambda w: atlas.loosened(w.Q, w.numbers)),
    "atlas.towards": Case(lambda w: atlas.towards(w.Q, w.R, w.Q + w.R)),
    "atlas.own_and_other": Case(lambda w: atlas.own_and_other(w.Q, w.W, w.classes)),
    "atlas.class_samples": Case(lambda w: atlas.class_samples(w.Z, 1, 9), waits=2),
    "atlas.between": Case(lambda w: atlas.between(w.Z, 0, 1), host=True, waits=2),
    **{
        f"attribution.{method.__name__}": Case(lambda w, method=method: method(w.maps.abs(), w.maps))
        for method in (
            attribution.grad_cam,
            attribution.hires_cam,
            attribution.layer_cam,
            attribution.xgrad_cam,
        )
    },
    "attribution.grad_cam_plus_plus": Case(
        lambda w: attribution.grad_cam_plus_plus(w.maps.abs(), w.maps), waits=1
    ),
    "attribution.enlarged": Case(lambda w: attribution.enlarged(w.A, 9, 11)),
    "attribution.image_gradient": Case(lambda w: attribution.image_gradient(_score(w), w.pictures)),
    "attribution.gradient_times_input": Case(
        lambda w: attribution.gradient_times_input(_score(w), w.picture, _baseline(w))
    ),
    "attribution.smooth_gradient": Case(
        lambda w: attribution.smooth_gradient(_score(w), w.picture, w.numbers, 3)
    ),
    "attribution.integrated_gradient": Case(
        lambda w: attribution.integrated_gradient(_score(w), w.picture, _baseline(w), 3), waits=2
    ),
    "attribution.peak": Case(lambda w: attribution.peak(w.G[0]), waits=4),
    "attribution.map_cosine": Case(lambda w: attribution.map_cosine(w.G[0], w.G[1]), waits=2),
    "building_blocks.cells": Case(lambda w: building_blocks.cells(w.maps, 4)),
    "building_blocks.unit_attribution": Case(lambda w: building_blocks.unit_attribution(w.A, w.G)),
    "building_blocks.place_attribution": Case(lambda w: building_blocks.place_attribution(w.A, w.G)),
    "building_blocks.places_by_units": Case(lambda w: building_blocks.places_by_units(w.A)),
    "building_blocks.lost_energy": Case(lambda w: building_blocks.lost_energy(w.G), waits=2),
    "building_blocks.stacked": Case(lambda w: building_blocks.stacked(w.A, w.G)),
    "building_blocks.fit_groups": Case(
        lambda w: building_blocks.fit_groups(building_blocks.places_by_units(w.A), 2),
        waits=72,
        grows="a fit asks after each sweep whether it goes on",
    ),
    "building_blocks.coefficients": Case(
        lambda w: building_blocks.coefficients(
            building_blocks.places_by_units(w.A[:, :2]), w.new(2, w.C).abs()
        ),
        waits=1,
    ),
    "building_blocks.group_attribution": Case(
        lambda w: building_blocks.group_attribution(
            w.A, w.G, *_groups(w, building_blocks.places_by_units(w.A))
        ),
        waits=1,
    ),
    "building_blocks.signed_group_attribution": Case(
        lambda w: building_blocks.signed_group_attribution(
            w.A, w.G, *_groups(w, building_blocks.stacked(w.A, w.G))
        ),
        waits=1,
    ),
    "building_blocks.explained": Case(
        lambda w: building_blocks.explained(
            building_blocks.places_by_units(w.A), *_groups(w, building_blocks.places_by_units(w.A))
        ),
        waits=3,
    ),
    "building_blocks.apart": Case(lambda w: building_blocks.apart(w.A, w.numbers)),
    "building_blocks.shares": Case(lambda w: building_blocks.shares(w.p)),
    "building_blocks.by_rank": Case(
        lambda w: building_blocks.by_rank(w.p, w.p.sort(descending=True).values[:5])
    ),
    "building_blocks.Floor.of": Case(lambda w: building_blocks.Floor.of([w.p, w.p[:5]])),
    "building_blocks.shuffled_floor": Case(
        lambda w: building_blocks.shuffled_floor(w.G, lambda G: (w.A * G).sum((1, 2)), w.numbers, 3)
    ),
    "dissection.chance.chance_effect": Case(lambda w: chance.chance_effect(w.p, w.null), waits=2),
    "dissection.chance: chance_p_values chance_effects": Case(
        lambda w: chance.chance_p_values(w.p, w.null), waits=7
    ),
    "dissection.masks.unit_masks": Case(
        lambda w: masks.unit_masks(w.maps, w.p * 0 + 1.5, (14, 14)), host=True, waits=6
    ),
    "dissection.masks.interpolated": Case(lambda w: masks.interpolated(w.A, (14, 13))),
    "dissection.thresholds.comparable": Case(lambda w: thresholds.comparable(w.maps / 0)),
    "dissection.thresholds.activation_threshold": Case(
        lambda w: thresholds.activation_threshold(w.maps, 0.05), waits=2
    ),
    "faithfulness.pixel_order": Case(
        lambda w: faithfulness.pixel_order(w.G[0], w.numbers), host=True, waits=1
    ),
    "faithfulness.replaced": Case(
        lambda w: faithfulness.replaced(w.picture, w.pictures[1], torch.arange(256).flip(0), 5)
    ),
    "faithfulness.area": Case(lambda w: faithfulness.area(w.p), waits=1),
    "faithfulness.blurred": Case(lambda w: faithfulness.blurred(w.picture)),
    "faithfulness.edge_map": Case(lambda w: faithfulness.edge_map(w.picture)),
    "faithfulness.areas": Case(
        lambda w: faithfulness.areas(
            lambda images: images.mean((2, 3)), w.picture, _baseline(w), torch.arange(256).flip(0)
        ),
        host=True,
        waits=2,
    ),
    "faithfulness.gain": Case(lambda w: faithfulness.gain(w.p, w.numbers), waits=1),
    "objectives.layer_energy": Case(lambda w: objectives.layer_energy(w.maps)),
    "objectives.resemblance": Case(lambda w: objectives.resemblance(w.maps, w.maps**2)),
    "objectives.caricature": Case(lambda w: objectives.caricature(w.maps, w.maps**2)),
    "objectives.gram_cosines": Case(lambda w: objectives.gram_cosines(w.maps.unflatten(0, (2, 2)))),
    "objectives.diverse": Case(
        lambda w: objectives.diverse(w.Q[:2, :2], objectives.gram_cosines(w.maps.unflatten(0, (2, 2))))
    ),
    "objectives.apart": Case(lambda w: objectives.apart(w.Q)),
    "part_clusters.part_clusters": Case(lambda w: part_clusters.part_clusters(w.maps.relu(), 3), waits=5),
    "pictures.fourier_image": Case(lambda w: pictures.fourier_image(w.new(2, 3, 16, 9, 2))),
    "pictures.pixel_image": Case(lambda w: pictures.pixel_image(w.pictures)),
    "pictures.maco_image": Case(lambda w: pictures.maco_image(w.new(2, 3, 16, 9), w.new(3, 16, 9).abs())),
    "pictures.natural_magnitude": Case(lambda w: pictures.natural_magnitude(iter([w.pictures])), waits=1),
    "pictures.image_of": Case(
        lambda w: [
            pictures.image_of("maco", w.new(2, 3, 16, 9), w.new(3, 16, 9).abs()),
            pictures.image_of("pixel", w.pictures),
        ]
    ),
    "pictures.warp": Case(lambda w: pictures.warp(w.pictures, pictures.draw_warp(16, w.numbers))),
    "pictures.at_centre": Case(lambda w: pictures.at_centre(w.maps, w.classes[: w.B])),
    "pictures.of_own": Case(lambda w: pictures.of_own(w.Q, w.classes)),
    "pictures.above_mean": Case(lambda w: pictures.above_mean(w.Q, w.Q.mean(0), w.Q.amax(0))),
    "pictures.ascend": Case(
        lambda w: [_climb(w, "fourier"), _climb(w, "pixel"), _climb(w, "maco", crops=2)], waits=3
    ),
    "pictures.total_variation": Case(lambda w: pictures.total_variation(w.pictures)),
    "pictures.high_frequency": Case(lambda w: pictures.high_frequency(w.pictures), waits=1),
    "pictures.shown": Case(lambda w: pictures.shown(w.pictures, "maco")),
    "pictures.blends": Case(lambda w: pictures.blends([0.0, 0.5, 1.0], w.p[:3], w.null[0, :3])),
    "pointing.surroundings": Case(lambda w: pointing.surroundings(w.A[0] > 0.5), waits=2),
    "pointing: hits at": Case(lambda w: pointing.hits(w.G[0], w.A[0] > 0.1), waits=5),
    "pointing.shares_inside": Case(
        lambda w: pointing.shares_inside(w.G[0], [w.A[0] > 0.1, w.A[2] > 0.5]), waits=5
    ),
    "rectifiers.passes": Case(lambda w: rectifiers.passes(w.maps, w.maps.flip(0), 6.0)),
    "rectifiers.redirected_gradient": Case(
        lambda w: rectifiers.redirected_gradient(w.maps, w.maps.flip(0), 6.0)
    ),
    "rectifiers.guided_gradient": Case(lambda w: rectifiers.guided_gradient(w.maps, w.maps.flip(0), None)),
    "tuning.explained": Case(lambda w: tuning.explained(w.Q.view(4, -1, w.C))),
    "tuning.tuning": Case(lambda w: tuning.tuning(w.Q.view(4, -1, w.C), w.numbers, 5)),
    "tuning.turned": Case(lambda w: tuning.turned(w.label, w.label.flip(0), "curve")),
    "unit_ranges.range_masks": Case(
        lambda w: unit_ranges.range_masks(w.maps, _cuts(w), (14, 14), ranges=3), host=True, waits=1
    ),
}

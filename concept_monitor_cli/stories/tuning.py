"""The story of `tuning`: how units depend on the angle of rendered shapes, over the epochs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from concept_monitor_cli.errors import CmonError, InputError
from concept_monitor_cli.functional import tuning as method
from concept_monitor_cli.functional.calibration import benjamini_hochberg
from concept_monitor_cli.functional.pictures import above_mean, generator
from concept_monitor_cli.functional.tuning import Shape, Tuning
from concept_monitor_cli.options import TuningOptions
from concept_monitor_cli.progress import SILENT, Progress
from concept_monitor_cli.record.sight import looking
from concept_monitor_cli.report.style import save
from concept_monitor_cli.report.tuning_figures import tuning_curves
from concept_monitor_cli.run import TABLES, CheckpointRecord
from concept_monitor_cli.run.folder import file_name
from concept_monitor_cli.store import Key
from concept_monitor_cli.stories.opened import OpenRun
from concept_monitor_cli.stories.picture_tables import concepts_at, history_of
from concept_monitor_cli.stories.picture_wishes import PHOTOS, Scale
from concept_monitor_cli.stories.recorder import Network, Recorder
from concept_monitor_cli.stories.stats import plain_rows
from concept_monitor_cli.study.looks import Look

if TYPE_CHECKING:
    import pandas as pd

# The seed of the network with random weights; 0 may be the one that a training began with.
_UNTRAINED = 1_000
# Of units without an angle, the shorter way between two random angles is a quarter of a turn on average.
_QUARTER = 0.25


@dataclass
class TuningResult:
    """What a `tuning` found.

    Attributes:
        out: the run.
        layers: rows of `tuning-layers.csv` as plain values.
        tables, plots: what was written.
    """

    out: Path
    layers: list[dict[str, Any]] = field(default_factory=list)
    tables: list[Path] = field(default_factory=list)
    plots: list[Path] = field(default_factory=list)


def tuning(options: TuningOptions, progress: Progress = SILENT) -> TuningResult:
    """Show gratings, arcs and corners of all angles to a run's networks.

    Args:
        options: which run, layers and epochs; whose curves are drawn.
        progress: told what happens.

    Raises:
        InputError: no run; no such layer, unit or epoch; checkpoints, images or code that are gone.
    """
    # A layer that was not dissected can be looked at as well, so the run is opened with all of its own.
    opened = OpenRun(options.out, replace(options, layers=()), progress)
    layers = options.layers or tuple(dict.fromkeys(history.layer for history in opened.histories))
    recorder = Recorder(opened, options, layers=layers)
    wanted = set(opened.table["epoch"].tolist())
    records = [record for record in opened.run.checkpoints() if record.epoch in wanted]
    networks = [recorder.network(record) for record in records]
    _check_units(networks[-1], options)
    asked = _Asked(recorder, options)
    total = (len(networks) + 1) * len(networks[-1].looks)
    found: list[_Seen] = []
    untrained: dict[str, dict[Shape, Tuning]] = {}
    with progress.task("showing shapes", total, "layers") as advance:
        for number in range(len(networks[-1].looks)):
            untrained[networks[-1].looks[number].layer.name] = asked.tunings(
                networks[-1], number, trained=False
            )
            advance(1)
        for record, network in zip(records, networks, strict=True):
            for number, look in enumerate(network.looks):
                own = asked.tunings(network, number)
                scale = Scale.of(recorder.pooled(record, look.layer.name), PHOTOS)
                found.append(_Seen(record, look.layer.name, own, scale))
                advance(1)
    result = TuningResult(options.out)
    _write(opened, found, untrained, options, result)
    return result


def _check_units(network: Network, options: TuningOptions) -> None:
    for look in network.looks:
        beyond = [unit for unit in options.units if unit >= look.layer.units]
        if beyond:
            raise InputError(
                f"{look.layer.name} has no unit {beyond[0]}",
                where="--units",
                hint=f"units count from 0 to {look.layer.units - 1}",
            )


# -- what is asked -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Seen:
    """The tuning of a layer at one epoch."""

    record: CheckpointRecord
    layer: str
    tunings: dict[Shape, Tuning]
    scale: Scale


@dataclass
class _Asked:
    """Responses of networks to shapes, from the store or made."""

    recorder: Recorder
    options: TuningOptions

    def tunings(self, network: Network, number: int, *, trained: bool = True) -> dict[Shape, Tuning]:
        """The tuning of one layer to every shape; with random weights where not `trained`."""
        look = network.looks[number]
        responses = self._responses(network, look, trained)
        found: dict[Shape, Tuning] = {}
        first = 0
        for shape in method.SHAPES:
            last = first + len(method.blocks(shape))
            found[shape] = method.tuning(
                responses[first:last], generator(self.options.seed, f"tuning {shape}")
            )
            first = last
        return found

    def _key(self, network: Network, look: Look, trained: bool) -> Key:
        architecture = network.architecture
        weights = architecture.weights_digest(network.checkpoint, look.tapped.name)
        return self.recorder.store.key(
            "tuning",
            network=architecture.source.identity(),
            weights=weights if trained else f"untrained {_UNTRAINED}",
            layer=look.tapped.name,
            basis=None if look.key is None else look.key.digest,
            side=architecture.preprocessing.geometry.size,
            **architecture.preprocessing.colour_key,
            pooling=network.pooling,
            precision="fp32",
        )

    def _responses(self, network: Network, look: Look, trained: bool) -> Tensor:
        """`(B, A, U)` float32 of all shapes, one after the other."""
        key = self._key(network, look, trained)
        entry = self.recorder.store.get(key)
        if entry is None:
            made = torch.stack(list(self._shown(network, look, trained)))
            self.recorder.store.put(key, {"responses": made.numpy()}).close()
            entry = self.recorder.store.get(key)
            if entry is None:
                raise CmonError("responses were lost from the cache in use", where=self.recorder.store.root)
        with entry:
            return torch.from_numpy(entry.read("responses"))

    def _shown(self, network: Network, look: Look, trained: bool) -> Iterator[Tensor]:
        make: Callable[[], nn.Module] = network.make
        if not trained:
            make = lambda: network.architecture.source.build(seed=_UNTRAINED)  # noqa: E731
        device = self.recorder.device
        with looking(
            make(),
            look.tapped,
            network.architecture.preprocessing,
            basis=look.basis(),
            pooling=network.pooling,
            device=device,
        ) as sight:
            side = network.architecture.preprocessing.geometry.size
            for _, images in method.batches(side, look.tapped.channels):
                parts = torch.split(images, self.options.batch_size)
                yield torch.cat([sight.activations(part.to(device)).float().cpu() for part in parts])


# -- what is said --------------------------------------------------------------------------------------------


def _write(
    opened: OpenRun,
    found: Sequence[_Seen],
    untrained: dict[str, dict[Shape, Tuning]],
    options: TuningOptions,
    result: TuningResult,
) -> None:
    import pandas as pd

    rows: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    layers: list[dict[str, Any]] = []
    last = {seen.layer: seen for seen in found}
    drawn = {layer: _drawn(seen, options) for layer, seen in last.items()}
    before: dict[str, _Seen] = {}
    for seen in found:
        earlier = before.get(seen.layer)
        own = _unit_rows(opened, seen, earlier)
        rows += own
        layers += _layer_rows(seen, own, untrained[seen.layer], earlier is not None)
        curves += _curve_rows(seen, drawn[seen.layer])
        before[seen.layer] = seen
    for name, plain in (("tuning", rows), ("tuning-curves", curves), ("tuning-layers", layers)):
        table = TABLES[name].frame(pd.DataFrame(plain))
        result.tables.append(opened.run.write_csv(name, table))
        if name == "tuning-layers":
            result.layers = plain_rows(table)
        if name == "tuning-curves" and options.plot_formats:
            _draw(opened, table, drawn, last, options, result)


def _best(seen: _Seen) -> list[Shape]:
    """The shape whose angle explains most of each unit."""
    shares = torch.stack([seen.tunings[shape].share.nan_to_num(-1.0) for shape in method.SHAPES])
    return [method.SHAPES[number] for number in shares.argmax(0).tolist()]


def _drawn(seen: _Seen, options: TuningOptions) -> list[int]:
    """Whose curves are kept: those asked for, else the units that angles explain most; ties by number."""
    if options.units:
        return list(dict.fromkeys(options.units))
    most = torch.stack([each.share.nan_to_num(-1.0) for each in seen.tunings.values()]).amax(0)
    order = torch.sort(most, descending=True, stable=True).indices
    return [int(unit) for unit in order[: options.top] if most[unit] >= 0]


def _strength(values: Tensor, scale: Scale) -> Tensor:
    """Responses in the measure of the photos: 0 is their mean, 1 the best one."""
    return above_mean(values.float(), scale.mean, scale.maximum)


def _unit_rows(opened: OpenRun, seen: _Seen, earlier: _Seen | None) -> list[dict[str, Any]]:
    count = len(seen.scale.mean)
    concepts, _ = concepts_at(history_of(opened, seen.layer), seen.record.epoch, range(count))
    rows = []
    for shape, own in seen.tunings.items():
        live = ~own.share.isnan()
        tuned = torch.zeros(count, dtype=torch.bool)
        if bool(live.any()):
            tuned[live] = benjamini_hochberg(own.p_value[live])
        strength = _strength(own.peak, seen.scale)
        degrees, turn = method.angles(shape), 180.0 if shape == "grating" else 360.0
        way = (
            None if earlier is None else method.turned(own.preferred, earlier.tunings[shape].preferred, shape)
        )
        blocks = method.blocks(shape)
        for unit in range(count):
            alive = bool(live[unit])
            rows.append(
                {
                    "epoch": seen.record.epoch,
                    "checkpoint": seen.record.name,
                    "layer": seen.layer,
                    "unit": unit,
                    "shape": shape,
                    "concept": concepts[unit],
                    "preferred": degrees[int(own.preferred[unit])] if alive else None,
                    "share": float(own.share[unit]) if alive else None,
                    "share_chance": own.chance,
                    "p_value": float(own.p_value[unit]) if alive else None,
                    "tuned": bool(tuned[unit]),
                    "width": float(own.width[unit]) * turn if alive else None,
                    "size": blocks[int(own.block[unit])].size if alive else None,
                    "strength": float(strength[unit]) if strength[unit].isfinite() else None,
                    "turned": float(way[unit]) if way is not None and alive else None,
                    "turned_chance": turn * _QUARTER if way is not None else None,
                }
            )
    return rows


def _layer_rows(
    seen: _Seen, rows: Sequence[dict[str, Any]], untrained: dict[Shape, Tuning], later: bool
) -> list[dict[str, Any]]:
    found = []
    for shape, own in seen.tunings.items():
        mine = [row for row in rows if row["shape"] == shape and row["share"] is not None]
        tuned = [row for row in mine if row["tuned"]]
        fresh = untrained[shape]
        live = ~fresh.share.isnan()
        by_luck = benjamini_hochberg(fresh.p_value[live]) if bool(live.any()) else torch.zeros(0)
        found.append(
            {
                "epoch": seen.record.epoch,
                "checkpoint": seen.record.name,
                "layer": seen.layer,
                "shape": shape,
                "units": len(mine),
                "tuned": len(tuned) / len(mine) if mine else None,
                "tuned_untrained": float(by_luck.double().mean()) if len(by_luck) else None,
                "share": _median([row["share"] for row in mine]),
                "share_untrained": _median(fresh.share[live].tolist()),
                "share_chance": own.chance,
                "strength": _median([row["strength"] for row in mine if row["strength"] is not None]),
                "turned": _median([row["turned"] for row in tuned]) if later else None,
                "turned_chance": mine[0]["turned_chance"] if later and mine else None,
            }
        )
    return found


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if len(values) else None


def _curve_rows(seen: _Seen, units: Sequence[int]) -> list[dict[str, Any]]:
    rows = []
    for shape, own in seen.tunings.items():
        degrees = method.angles(shape)
        for unit in units:
            scaled = above_mean(own.curve[:, unit].float(), seen.scale.mean[unit], seen.scale.maximum[unit])
            for number, value in enumerate(own.curve[:, unit].tolist()):
                rows.append(
                    {
                        "epoch": seen.record.epoch,
                        "checkpoint": seen.record.name,
                        "layer": seen.layer,
                        "unit": unit,
                        "shape": shape,
                        "angle": degrees[number],
                        "response": value,
                        "strength": float(scaled[number]) if scaled[number].isfinite() else None,
                    }
                )
    return rows


def _draw(
    opened: OpenRun,
    curves: pd.DataFrame,
    drawn: dict[str, list[int]],
    last: dict[str, _Seen],
    options: TuningOptions,
    result: TuningResult,
) -> None:
    for layer, units in drawn.items():
        best = _best(last[layer])
        shown = {}
        for unit in units:
            shape = best[unit]
            own = last[layer].tunings[shape]
            block = method.blocks(shape)[int(own.block[unit])]
            image = method.rendered(block, 48)[int(own.preferred[unit])]
            shown[unit] = shape, image.numpy(), float(own.share[unit])
        if not shown:
            continue
        figure = tuning_curves(curves[curves["layer"] == layer], shown, layer=layer, chance=own.chance)
        stem = opened.run.plots / f"tuning.{file_name(layer)}"
        result.plots += save(figure, stem, options.plot_formats, caption=opened.caption)

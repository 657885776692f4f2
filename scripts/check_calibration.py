"""How many units does each detector call interpretable where nothing is to be found, and where something is?

    python scripts/check_calibration.py trained.pth --layer blocks.4,blocks.5 --probe broden1_224

Five shares per layer and detector (clip-dissect with each of its similarities, network-dissection with each
of its label rules; of `ranges` a second row for the ranges themselves):

- `trained, shuffled`: the network as it is, against chance;
- `trained, untrained`: the same, against networks with random weights;
- `broken`: its recorded activations laid over the wrong images, against chance: the largest share of
  `--draws` draws. At an exact level these would be called as rarely as --fdr says;
- `random, shuffled`: a network with random weights, against chance. It may respond to colour and contrast;
- `random, untrained`: the same, against other random weights. As rare as --fdr, again.

What was computed once is kept in `--cache-dir`; the runs lie in `--out`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from concept_monitor_cli.checkpoints import load_checkpoint
from concept_monitor_cli.functional import shuffled, top_images
from concept_monitor_cli.functional.dissection import shuffled_masks
from concept_monitor_cli.lenses import make_detector
from concept_monitor_cli.lenses.names import ranges
from concept_monitor_cli.models.build import resolve_model
from concept_monitor_cli.options import SIMILARITIES, DissectOptions, ReadingOptions
from concept_monitor_cli.progress import SILENT
from concept_monitor_cli.record.requests import read_masks
from concept_monitor_cli.record.whole_maps import PackedMaps
from concept_monitor_cli.store import Entry, Store
from concept_monitor_cli.stories.dissect import dissect
from concept_monitor_cli.stories.opened import OpenRun
from concept_monitor_cli.study import Context

RANDOM, TRAINED = 0, 1
BY_MASKS = ("network-dissection", "compositional", "ranges")
BY_RANGE = "ranges, each range"
SEED = 20_260_000  # of the network with random weights, and of the draws; far from those of a study


def main() -> None:
    """Run the studies and print the table."""
    options = _arguments()
    if options.range_draws is not None:
        ranges.FEWEST_DRAWS = ranges.MOST_DRAWS = options.range_draws
    folder = _checkpoints(Path(options.checkpoint), options.model, options.out / "checkpoints")
    rows: dict[tuple[str, str], dict[str, float]] = {}
    studies = _studies(options.detector.split(","), options.similarity.split(","))
    for name, detectors, similarity, rule in studies:
        for null in options.nulls.split(","):
            asked = DissectOptions(
                checkpoints=(str(folder),),
                layers=tuple(options.layer.split(",")),
                detectors=detectors,
                similarity=similarity,
                label_rule=rule,
                null=null,
                stability=False,
                floors=False,
                probe=options.probe,
                encoder=options.encoder,
                encoder_weights=options.encoder_weights,
                encoder_config=options.encoder_config,
                model=options.model,
                input_size=options.input_size,
                mean=options.mean,
                std=options.std,
                out=options.out / f"{name}-{null}",
                cache_dir=options.cache_dir,
            )
            dissect(asked)
            for layer, detector, epoch, share in (*_called(asked.out), *_called_ranges(asked.out)):
                network = "trained" if epoch == TRAINED else "random"
                row = _row(detector, similarity, rule)
                rows.setdefault((layer, row), {})[f"{network}, {null}"] = share
            if null == "shuffled":
                for layer, detector, share in _broken(asked, options.draws):
                    rows[layer, _row(detector, similarity, rule)]["broken"] = share
            _print(rows)
    if options.json:
        named = [{"layer": layer, "detector": name, **shares} for (layer, name), shares in rows.items()]
        options.json.write_text(json.dumps(named, indent=1))


def _row(detector: str, similarity: str, rule: str) -> str:
    kind = {"clip-dissect": f", {similarity}", "network-dissection": f", {rule}"}.get(detector, "")
    return detector + kind


def _studies(detectors: list[str], similarities: list[str]) -> Iterator[tuple[str, Any, Any, Any]]:
    masks = tuple(name for name in BY_MASKS if name in detectors)
    if masks:
        yield "masks", masks, "soft-wpmi", "supported"
    if "network-dissection" in masks:
        yield "masks-iou", ("network-dissection",), "soft-wpmi", "iou"
    if "clip-dissect" in detectors:
        yield from ((name, ("clip-dissect",), name, "supported") for name in similarities)


def _checkpoints(trained: Path, model: str | None, folder: Path) -> Path:
    """The trained network as epoch 1, and one with random weights as epoch 0."""
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = load_checkpoint(trained)
    source = resolve_model(model, checkpoint.state_dict, said=checkpoint.arch)
    fresh = source.build("cpu", seed=SEED).state_dict()
    torch.save({"state_dict": fresh, "epoch": RANDOM}, folder / "random.pth")
    torch.save({"state_dict": dict(checkpoint.state_dict), "epoch": TRAINED}, folder / "trained.pth")
    return folder


def _called(run: Path) -> Iterator[tuple[str, str, int, float]]:
    """The share of the live units that are called interpretable, per layer, detector and epoch."""
    table = OpenRun(run, ReadingOptions(), SILENT).table
    live = table[(table["rank"] == 1) & (table["state"] == "live")]
    for (layer, detector, epoch), units in live.groupby(["layer", "detector", "epoch"], sort=True):
        yield str(layer), str(detector), int(str(epoch)), float(units["interpretable"].mean())


def _called_ranges(run: Path) -> Iterator[tuple[str, str, int, float]]:
    """The same of the ranges of units."""
    for path in sorted((run / "tables").glob("epoch_*/*.ranges.ranges.csv")):
        rows = pd.read_csv(path)
        for (layer, epoch), own in rows.groupby(["layer", "epoch"], sort=True):
            yield str(layer), BY_RANGE, int(str(epoch)), float(own["interpretable"].mean())


def _broken(made: DissectOptions, draws: int) -> Iterator[tuple[str, str, float]]:
    """The largest share of interpretable units when activations are laid over the wrong images."""
    opened = OpenRun(made.out, ReadingOptions(out=made.out, cache_dir=made.cache_dir), SILENT)
    context = _context(opened)
    for history in opened.histories:
        detector = make_detector(history.detector, made)
        shares: dict[str, list[float]] = {}
        for seed in range(SEED, SEED + draws):
            with (
                opened.recording(history, TRAINED) as entry,
                _shuffled(opened.store, entry, seed, context) as broken,
            ):
                found = detector.find(broken, context)
            shares.setdefault(history.detector, []).append(float(found.interpretable[found.live].mean()))
            if "ranges" in found.more:
                of_range = found.more["ranges"]["interpretable"]
                shares.setdefault(BY_RANGE, []).append(float(of_range.mean()))
            print(
                f"broken, {history.layer}, {history.detector}: {[each[-1] for each in shares.values()]}",
                flush=True,
            )
        for name, each in shares.items():
            yield history.layer, name, max(each)


def _context(opened: OpenRun) -> Context:
    """What the detectors of a run look at; without an encoder where none of them needs one."""
    if opened.info["encoder"] is not None:
        return opened.context
    return opened.context_of(None, (), opened.concepts)


def _shuffled(store: Store, entry: Entry, seed: int, context: Context) -> Entry:
    """A recording whose images are permuted for every unit."""
    arrays: dict[str, Any] = {"live": entry.read("live")}
    if entry.key.kind == "masks":
        masks = shuffled_masks(read_masks(entry), groups=context.groups, seed=seed)
        arrays |= {name: getattr(masks, name) for name in ("image", "unit", "offsets", "edges")}
    elif entry.key.kind == "whole_maps":
        maps = PackedMaps.read(entry)
        places = torch.arange(len(maps), dtype=torch.float64)[:, None].repeat(1, maps.codes.shape[1])
        source = shuffled(places, groups=context.groups, seed=seed).numpy().astype(np.int64)
        unit = np.arange(maps.codes.shape[1])
        arrays |= {name: each[source, unit] for name, each in maps.arrays.items()}
    else:
        pooled = shuffled(torch.from_numpy(entry.read("pooled")), groups=context.groups, seed=seed)
        indices, _ = top_images(pooled, 100)
        arrays |= {"pooled": pooled.numpy(), "top_images": np.ascontiguousarray(indices.T.numpy())}
    key = store.key(entry.key.kind, broken=entry.key.digest, seed=seed)
    return store.put(key, arrays, entry.meta)


COLUMNS = ("trained, shuffled", "trained, untrained", "broken", "random, shuffled", "random, untrained")


def _print(rows: dict[tuple[str, str], dict[str, float]]) -> None:
    print("| layer | detector |", " | ".join(COLUMNS), "|")
    print("| --- | --- |", " | ".join("---" for _ in COLUMNS), "|")
    for (layer, name), shares in rows.items():
        cells = (f"{100 * shares[column]:.1f} %" if column in shares else "" for column in COLUMNS)
        print(f"| {layer} | {name} |", " | ".join(cells), "|", flush=True)
    print()


def _arguments() -> argparse.Namespace:
    def triple(text: str) -> tuple[float, ...]:
        return tuple(float(part) for part in text.split(","))

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("checkpoint", help="of the trained network")
    parser.add_argument("--layer", required=True, help="a comma list")
    parser.add_argument("--probe", required=True, help="a probing set with masks")
    parser.add_argument("--encoder", default="ViT-B-16/openai")
    parser.add_argument("--encoder-weights", type=Path)
    parser.add_argument("--encoder-config", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--input-size", type=int)
    parser.add_argument("--mean", type=triple)
    parser.add_argument("--std", type=triple)
    parser.add_argument("--detector", default="network-dissection,compositional,clip-dissect")
    parser.add_argument("--similarity", default=",".join(SIMILARITIES))
    parser.add_argument("--draws", type=int, default=3, help="of broken activations; each is a whole study")
    parser.add_argument("--range-draws", type=int, help="of chance for each range; default: as a run takes")
    parser.add_argument("--nulls", default="shuffled,untrained", help="a comma list")
    parser.add_argument("--out", type=Path, default=Path("check-calibration"))
    parser.add_argument("--cache-dir", type=Path)
    parser.add_argument("--json", type=Path, help="where to write the shares")
    return parser.parse_args()


if __name__ == "__main__":
    main()

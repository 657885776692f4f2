"""Check what running statistics tell of the images of a training, where the truth is known.

    python scripts/check_input_evidence.py networks presented --photos minibroden/images
    python scripts/check_input_evidence.py table efficientnet_lite1.pth --model timm/tf_efficientnet_lite1 \
        --other timm/efficientnet_lite1 --photos imagenet_samples
    python scripts/check_input_evidence.py cost torchvision/resnet50 --photos imagenet_samples

`networks` reads a folder of `train_presentations.py`, and counts how often each part of the presentation is
found, left open, or mistaken, beside the usual rule. Photos of another set than that of the training are the
honest ones. `table` shows a network of known presentation in several ways, and prints the divergence beside
the accuracy: the names of the photos' classes stand in their file names, as in the folder of ImageNet samples
(`n01440764_tench.jpg`), and the sorted first words are the classes' order. `cost` plants statistics of some
photos in a fresh network, once in the usual normalisation and once in another, and counts what finding that
takes, on one core.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from concept_monitor_cli.checkpoints import load_checkpoint
from concept_monitor_cli.evidence import InputEvidence, Presentation, find_input, fitting
from concept_monitor_cli.evidence.candidates import NORMALISATIONS, alike
from concept_monitor_cli.evidence.look import Eye, Photos
from concept_monitor_cli.models.build import ModelSource, constructor, resolve_model
from concept_monitor_cli.models.layers import evaluation
from concept_monitor_cli.models.normalise import Normaliser
from concept_monitor_cli.models.preprocess import target_preprocessing
from concept_monitor_cli.probe import ProbeSet, load_probe
from concept_monitor_cli.probe.decode import shape_image

NAMES = {
    "imagenet": "ImageNet",
    "half": "mean and std 0.5",
    "cifar": "CIFAR-10",
    "clip": "CLIP",
    "unit": "0..1",
    "bytes": "0..255",
}
"""Names of normalisations in `train_presentations.py`, and in the evidence."""

CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    networks = commands.add_parser("networks", help="count over a folder of trained networks")
    networks.add_argument("folder", type=Path)
    networks.add_argument("--only", default="", help="networks with this text in their name")
    networks.set_defaults(run=check_networks)
    table = commands.add_parser("table", help="one network shown in several ways")
    table.add_argument("weights", type=Path)
    table.add_argument("--model", required=True, help="the architecture that it was trained in")
    table.add_argument("--other", help="another one with the same shapes of weights")
    table.add_argument("--normalisation", default="mean and std 0.5", choices=NORMALISATIONS, help="the true")
    table.add_argument("--limit", type=int, default=1000, help="photos for the accuracy")
    table.set_defaults(run=print_table)
    cost = commands.add_parser("cost", help="processor time for one architecture")
    cost.add_argument("model", help="the architecture")
    cost.set_defaults(run=print_cost)
    for each in (networks, table, cost):
        each.add_argument("--photos", required=True, help="as --probe of cmon")
        each.add_argument("--cache", type=Path, default=Path(".cmon-check"), help="folder for decoded images")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.run(options)


def check_networks(options: argparse.Namespace) -> None:
    """A line per network, then the counts."""
    probe = load_probe(options.photos, cache_dir=options.cache)
    counts: dict[str, Counter[str]] = {}
    seconds = []
    for path in sorted(options.folder.glob("*/epoch_01.pth")):
        if options.only not in path.parent.name:
            continue
        truth = torch.load(path, weights_only=True)["presented"]
        weights = load_checkpoint(path).state_dict
        begin = time.process_time()
        found, sources = look(weights, probe)
        seconds.append(time.process_time() - begin)
        judged = judge(found, truth, sources, weights)
        for part, verdict in judged.items():
            counts.setdefault(part, Counter())[verdict] += 1
        bad = " ".join(f"{part}: {verdict}" for part, verdict in judged.items() if verdict != "right")
        print(f"{path.parent.name}: {found.status}; {bad or 'all right'}\n    {found.sentence}", flush=True)
    for part, counted in counts.items():
        print(f"{part}: " + ", ".join(f"{number} {verdict}" for verdict, number in counted.most_common()))
    print(f"{len(seconds)} networks, {max(seconds, default=0):.1f} s of processor time at most")


def look(weights: dict[str, Tensor], probe: ProbeSet) -> tuple[InputEvidence, list[ModelSource]]:
    """What is found of a network, as `dissect` does it."""
    source = resolve_model(None, weights)
    usual = Presentation(source, target_preprocessing(source))
    sources = fitting(source, weights)
    found = find_input(weights, usual, sources, target_preprocessing, probe=probe, device=CPU)
    return found, sources


def judge(
    found: InputEvidence, truth: dict[str, Any], sources: list[ModelSource], weights: dict[str, Tensor]
) -> dict[str, str]:
    """Per part: `right`, `put right` (the usual is wrong), `left wrong` (likewise, but kept), or `WRONG`.

    `WRONG` is also a usual part that is wrong and was confirmed; `WORSE` where the usual one was right;
    `alike` a normalisation that is not told apart from the true one, such as CIFAR-10's from ImageNet's.
    """
    if found.usual is None or found.chosen is None:
        return {"compared": found.status}
    true = {
        "architecture": truth["architecture"],
        "normalisation": NAMES[truth["normalisation"]],
        "channel order": truth["channels"],
        "size": truth["size"],
    }
    verdicts = {}
    for part, wanted in true.items():
        usual, chosen = (value_of(shown, part) for shown in (found.usual, found.chosen))
        if part == "architecture":
            usual, chosen = (same_network(each, wanted, sources, weights) for each in (usual, chosen))
        known = NORMALISATIONS if part == "normalisation" and chosen != wanted else {}
        if chosen in known and alike(known[chosen], known[wanted]):
            verdicts[part] = "alike"
        elif chosen == wanted:
            verdicts[part] = "right" if usual == wanted else "put right"
        elif chosen == usual:
            claimed = found.status == "confirmed" and part not in found.open_parts and part != "size"
            verdicts[part] = "WRONG" if claimed else "left wrong"
        else:
            verdicts[part] = "WORSE" if usual == wanted else "WRONG"
    return verdicts


def value_of(shown: Any, part: str) -> Any:
    names = {"architecture": "model", "channel order": "channels"}
    return getattr(shown, names.get(part, part))


def same_network(label: str, wanted: str, sources: list[ModelSource], weights: dict[str, Tensor]) -> str:
    """`wanted` where both compute the same: `timm/resnet18` and `torchvision/resnet18`, say."""
    if label == wanted:
        return wanted
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    outputs = []
    for name in (label, wanted):
        source = next((each for each in sources if each.label == name), None)
        network = (source or resolve_model(name, weights)).restore(weights, CPU).eval()
        with torch.inference_mode():
            outputs.append(network(images))
    return wanted if torch.allclose(*outputs, rtol=1e-3, atol=1e-4) else label


def print_table(options: argparse.Namespace) -> None:
    """The network in its true presentation, and in others that differ from it in one or two parts."""
    weights = load_weights(options.weights, options.model)
    probe = load_probe(options.photos, limit=options.limit, cache_dir=options.cache)
    sources = [resolve_model(name, weights) for name in (options.model, options.other) if name]
    mean, std = NORMALISATIONS[options.normalisation]
    own = target_preprocessing(sources[0]).geometry.size
    true = partial(target_preprocessing, sources[0], mean=mean, std=std)
    imagenet = dict(zip(("mean", "std"), NORMALISATIONS["ImageNet"], strict=True))
    ways = [
        ("right", true()),
        (f"{own} -> {own}", true(input_size=own, crop=1.0)),
        ("blue and red swapped", true(channels="bgr")),
        ("other architecture", partial(target_preprocessing, sources[-1], mean=mean, std=std)()),
        ("not normalised", true(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))),
        ("160 pixels", true(input_size=160)),
        ("ImageNet's mean and std", true(**imagenet)),
        ("other architecture, ImageNet's", target_preprocessing(sources[-1], **imagenet)),
        ("64 pixels", true(input_size=64)),
        ("0..255", true(mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255))),
    ]
    eye = Eye(weights, Photos(probe), CPU)
    every = load_probe(options.photos, cache_dir=options.cache)  # the classes of all, not of those chosen
    classes = sorted({Path(each).stem.partition("_")[0] for each in every.ids})
    labels = torch.tensor([classes.index(Path(each).stem.partition("_")[0]) for each in probe.ids])
    print("| shown as | divergence | accuracy |\n| --- | --- | --- |")
    for name, preprocessing in ways:
        source = sources[-1] if name.startswith("other") else sources[0]
        shown = Presentation(source, preprocessing)
        measured = eye.look(shown, len(eye.photos))
        right = accuracy(source.restore(weights, CPU), shown, probe, labels)
        figure = "-" if measured is None else f"{measured.divergence:.3f}"
        print(f"| {name} | {figure} | {right:.3f} |", flush=True)
    found, _ = look(weights, probe)
    print(f"{found.status}: {found.sentence}")
    for shown_as in filter(None, (found.chosen, *found.others[:6])):
        print(f"    {shown_as}: {shown_as.divergence:.3f} [{shown_as.low:.3f}, {shown_as.high:.3f}]")


def print_cost(options: argparse.Namespace) -> None:
    """Where the usual normalisation is the true one, and where another is."""
    probe = load_probe(options.photos, cache_dir=options.cache)
    maker = constructor(*options.model.split("/"))
    if maker is None:
        raise SystemExit(f"there is no {options.model}: give it as library/name")
    for normalisation in ("ImageNet", "mean and std 0.5"):
        torch.manual_seed(0)
        network = maker.factory()
        weights = network.state_dict()
        source = resolve_model(options.model, weights)
        mean, std = NORMALISATIONS[normalisation]
        shown = target_preprocessing(source, mean=mean, std=std)
        for module in network.modules():
            if hasattr(module, "momentum"):
                module.momentum = None  # plain averages over the batches
        normalise = Normaliser(shown, 8, CPU, torch.float32)
        photos = Photos(probe).pixels(shown.geometry, 16)
        with torch.no_grad():
            for start in (0, 8):
                network.train()(normalise(photos[start : start + 8]))
        begin = time.process_time()
        found, sources = look(weights, probe)
        seconds = time.process_time() - begin
        begin = time.process_time()
        with torch.inference_mode(), evaluation(network):
            network.to(memory_format=torch.channels_last)(normalise(photos[:8]))
        each = (time.process_time() - begin) / 8
        share = seconds / (10_000 * each)
        print(
            f"{options.model}, statistics of {normalisation}: {found.status} in {seconds:.1f} s of processor "
            f"time ({len(sources)} architectures fit), {share:.1%} of a visit of 10,000 images",
            flush=True,
        )


def load_weights(path: Path, model: str) -> dict[str, Tensor]:
    """A state dict of the architecture; one under other names in the same order is translated."""
    found = torch.load(path, map_location="cpu", weights_only=True)
    found = found.get("state_dict", found)
    maker = constructor(*model.split("/"))
    if maker is None:
        raise SystemExit(f"there is no {model}: give it as library/name")
    own = maker.factory().state_dict()
    if own.keys() == found.keys():
        return own | found
    names, values = ([n for n in each if not n.endswith("num_batches_tracked")] for each in (own, found))
    for name, value in zip(names, values, strict=True):
        if own[name].shape != found[value].shape:
            raise SystemExit(f"{value} {tuple(found[value].shape)} is not {name} {tuple(own[name].shape)}")
        own[name] = found[value]
    return own


def accuracy(network: nn.Module, shown: Presentation, probe: ProbeSet, labels: Tensor) -> float:
    """Top-1 accuracy over the photos."""
    geometry = shown.preprocessing.geometry
    normalise = Normaliser(shown.preprocessing, 25, CPU, torch.float32)
    right = 0
    with torch.inference_mode(), evaluation(network):
        for start in range(0, len(probe), 25):
            rows = range(start, min(start + 25, len(probe)))
            pixels = np.stack([shape_image(probe.image(row), geometry) for row in rows])
            output = network(normalise(torch.from_numpy(pixels)))
            right += int((output.argmax(1) == labels[start : start + 25]).sum())
    return right / len(probe)


if __name__ == "__main__":
    main()

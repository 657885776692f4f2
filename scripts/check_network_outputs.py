"""Does every network that is read compute what the true network computes?

    python scripts/check_network_outputs.py --smallest 2

Takes every bundled CIFAR network, every torchvision classifier and the smallest members of each family of
timm (a file of its `models/`), gives each random weights and running statistics, saves its state dict alone
to a file, and reads that as `cmon` does: no name is given, so the network is recognised by its weights. The
same random images go through both. Nothing that a library has as a fresh value (layer scales near zero, zeros
in a classifier) survives, so what is read wrongly shows in the outputs.

Verdicts: `same` where the outputs agree to 1e-5 of their largest value; `as told` where another network with
the same names and shapes was taken and computes something else, while the true one is among the alternatives
and computes the same where it is named by `--model`; `wrong`; `not read`.
"""

from __future__ import annotations

import argparse
import logging
import random
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from concept_monitor_cli.checkpoints import load_checkpoint
from concept_monitor_cli.checkpoints.architectures import is_volatile
from concept_monitor_cli.checkpoints.recognition import shipped_index
from concept_monitor_cli.errors import CmonError
from concept_monitor_cli.models.build import constructor, list_architectures, resolve_model
from concept_monitor_cli.models.constructors import LeaveOut

CLASSES = 7
TOLERANCE = 1e-5
# Beyond this many parameters a network takes too long on a processor.
MOST_PARAMETERS = 120_000_000


@dataclass(frozen=True)
class Outcome:
    """What came of one network.

    Attributes:
        verdict: "same", "as told", "wrong", "not read" or "not tried" (it does not run here at all).
        answer: the network that was recognised, or why there is none.
        difference: largest difference of the outputs, as a share of the largest output.
    """

    verdict: str
    answer: str
    difference: float | None = None


def with_random_weights(model: nn.Module, seed: int) -> nn.Module:
    """The network with its floating-point parameters and buffers drawn anew, in evaluation mode.

    Tables that are computed when a network is built (of relative coordinates, say) stay as they are.
    Matrices are scaled by their inputs, so that signals neither vanish nor explode.
    """
    generator = torch.Generator().manual_seed(seed)
    persistent = model.state_dict().keys()
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if not value.is_floating_point() or name not in persistent or is_volatile(name):
            continue
        noise = torch.randn(value.shape, generator=generator)
        if "var" in name.rpartition(".")[2]:
            noise = torch.rand(value.shape, generator=generator) + 0.5
        elif value.ndim > 1:
            noise *= max(value[0].numel(), 1) ** -0.5
        else:
            noise = noise * 0.1 + (0.0 if name.endswith(("bias", "mean")) else 1.0)
        value.data.copy_(noise)
    return model.eval()


def outputs(model: nn.Module, images: Tensor) -> Tensor:
    """What a network says of images; the first of several outputs."""
    with torch.inference_mode():
        found = model(images)
    while isinstance(found, (tuple, list)):
        found = found[0]
    assert isinstance(found, Tensor)
    return found


def images_for(model: nn.Module) -> Tensor:
    """Random images of a size that the network takes: 64 pixels, else as its configuration says."""
    config = getattr(model, "pretrained_cfg", None) or {}
    size = tuple(config.get("input_size") or (3, 224, 224))
    generator = torch.Generator().manual_seed(1)
    for shape in ((size[0], 64, 64), size, (3, 32, 32), (3, 299, 299)):
        images = torch.randn(2, *shape, generator=generator)
        try:
            outputs(model, images)
        except Exception:
            continue
        return images
    raise ValueError("it takes none of the sizes that were tried")


def difference(found: Tensor, true: Tensor) -> float:
    """Largest difference, as a share of the largest true value; infinite where the shapes differ."""
    if found.shape != true.shape or not true.isfinite().all():
        return float("inf")
    return float((found - true).abs().max() / true.abs().max().clamp_min(1e-30))


def compared(library: str, name: str, folder: Path) -> Outcome:
    """Save a network's weights, read them without a word on what they are, and compare."""
    maker = constructor(library, name)
    assert maker is not None
    arguments = {"num_classes": CLASSES} if "num_classes" in maker.arguments else {}
    try:
        with LeaveOut(parameters=True):
            true_model = with_random_weights(maker.factory(**arguments), seed=0)
        images = images_for(true_model)
        true = outputs(true_model, images)
    except Exception as error:
        return Outcome("not tried", f"{type(error).__name__}: {' '.join(str(error).split())[:100]}")
    if float((true[0] - true[1]).abs().max()) <= 1e-6 * float(true.abs().max()):
        return Outcome("not tried", "the same output for all images")
    path = folder / "weights.pt"
    torch.save({f"module.{key}": value for key, value in true_model.state_dict().items()}, path)
    label = f"{library}/{name}"
    try:
        loaded = load_checkpoint(path)
        source = resolve_model(None, loaded.state_dict, family=loaded.family, config=loaded.config)
        network = source.restore(loaded.state_dict)
        try:
            apart = difference(outputs(network, images), true)
        except Exception:
            apart = float("inf")  # the one of several that was taken wants images of another size
        if apart <= TOLERANCE:
            return Outcome("same", source.label, apart)
        if label not in source.alternatives:
            return Outcome("wrong", source.label, apart)
        named = resolve_model(label, loaded.state_dict)
        apart = difference(outputs(named.restore(loaded.state_dict), images), true)
        return Outcome("as told" if apart <= TOLERANCE else "wrong", source.label, apart)
    except CmonError as error:
        return Outcome("not read", error.what)


def families(smallest: int, seed: int) -> Iterator[tuple[str, str, list[str]]]:
    """Library, family and members to try, smallest first; of equally large ones by chance."""
    sizes = {(entry.library, entry.name): entry.numel for entry in shipped_index().architectures}
    draw = random.Random(seed)
    for library in ("cmon", "torchvision", "timm"):
        groups: dict[str, list[str]] = defaultdict(list)
        for name in list_architectures(library):
            if sizes.get((library, name), 2**60) <= MOST_PARAMETERS:
                groups[_family(library, name)].append(name)
        for family, names in sorted(groups.items()):
            draw.shuffle(names)
            names.sort(key=lambda name: sizes[library, name])
            yield library, family, names[:smallest] if library == "timm" else names


def _family(library: str, name: str) -> str:
    if library != "timm":
        return library
    import timm

    return str(timm.model_entrypoint(name).__module__.rpartition(".")[2])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--smallest", type=int, default=2, help="members of each family of timm")
    parser.add_argument("--library", help="only this one: cmon, torchvision or timm")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)

    counts: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for library, family, names in families(options.smallest, options.seed):
            if options.library not in (None, library):
                continue
            for name in names:
                start = time.process_time()
                outcome = compared(library, name, Path(folder))
                counts[library, outcome.verdict] += 1
                apart = "" if outcome.difference is None else f"{outcome.difference:.1e}"
                print(
                    f"{family:24} {library}/{name:42} {outcome.verdict:10} {apart:8} {outcome.answer[:110]}  "
                    f"{time.process_time() - start:.1f} s",
                    flush=True,
                )
    for library in ("cmon", "torchvision", "timm"):
        found = {verdict: count for (where, verdict), count in counts.items() if where == library}
        parts = ", ".join(
            f"{count} {verdict}" for verdict, count in sorted(found.items(), key=lambda i: -i[1])
        )
        print(f"{library}: {sum(found.values())} networks: {parts or 'none'}")
    if any(verdict in ("wrong", "not read") for _, verdict in counts):
        raise SystemExit(1)


if __name__ == "__main__":
    main()

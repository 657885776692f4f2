"""One checkpoint, dissected as public code for CLIP-Dissect does it (Oikarinen & Weng 2023), for comparison.

`python -m scripts.benchmarks.chain` is a process for each checkpoint. Embeddings of images and words and each
layer's pooled activations are kept as `.pt` files, and used again where they are there. As in the published
code (`describe_neurons.py`), the encoder and the network are built and the words cut into tokens before it is
asked what is there; images are decoded for the encoder and again for every network; a hook on each layer
takes means over positions; the cosines of images and words are made for each layer, and its labels come from
the loop over units. `--kind` leaves out what is built although all is known.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import concept_monitor_cli._torchvision  # noqa: F401  isort: skip
import open_clip
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.models import resnet18

from tests.functional.twins import literal_soft_wpmi_fp32

BATCH = 200
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Photos(Dataset[Tensor]):
    """The images of a folder, in the order of their names."""

    def __init__(self, folder: Path, transform: Callable[[Image.Image], Tensor]) -> None:
        self.paths, self.transform = sorted(folder.iterdir()), transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        with Image.open(self.paths[index]) as image:
            return self.transform(image.convert("RGB"))


def timed(spent: dict[str, float], name: str, network: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
    """What a network says, and how long it took."""
    begin = time.perf_counter()
    found = network(batch)
    spent[name] = spent.get(name, 0.0) + time.perf_counter() - begin
    return found


def embed(given: argparse.Namespace, words: list[str], spent: dict[str, float]) -> tuple[Tensor, Tensor]:
    """Images and words as the encoder sees them, rows of length one."""
    places = given.saved / "images.pt", given.saved / "words.pt"
    known = all(place.exists() for place in places)
    if known and given.kind:
        return _loaded(places)
    open_clip.add_model_config(given.encoder.with_suffix(".json"))
    network, _, transform = open_clip.create_model_and_transforms(
        given.encoder.stem, pretrained=str(given.encoder.with_suffix(".pt"))
    )
    network.eval()
    tokens = open_clip.get_tokenizer(given.encoder.stem)(words)
    if known:
        return _loaded(places)
    read = DataLoader(Photos(given.photos, transform), BATCH)
    images = torch.cat([timed(spent, "images", network.encode_image, batch) for batch in read])
    texts = torch.cat([timed(spent, "words", network.encode_text, block) for block in tokens.split(BATCH)])
    images, texts = (each / each.norm(dim=-1, keepdim=True) for each in (images, texts))
    for place, made in zip(places, (images, texts), strict=True):
        torch.save(made, place)
    return images, texts


def _loaded(places: tuple[Path, Path]) -> tuple[Tensor, Tensor]:
    images, texts = (torch.load(place) for place in places)
    return images, texts


def activations(given: argparse.Namespace, spent: dict[str, float]) -> dict[str, Tensor]:
    """`(N, C)` of each layer: means over positions."""
    places = {name: given.saved / f"{given.checkpoint.stem}-{name}.pt" for name in given.layers}
    known = all(place.exists() for place in places.values())
    if not (known and given.kind):
        network = resnet18()
        network.load_state_dict(torch.load(given.checkpoint)["state_dict"])
        network.eval()
    if known:
        return {name: torch.load(place) for name, place in places.items()}
    kept: dict[str, list[Tensor]] = {name: [] for name in given.layers}

    def hook(name: str) -> Callable[..., None]:
        def keep(_module: Any, _inputs: Any, output: Tensor) -> None:
            kept[name].append(output.mean((2, 3)))

        return keep

    for name in given.layers:
        network.get_submodule(name).register_forward_hook(hook(name))
    steps = [transforms.Resize(given.side), transforms.CenterCrop(given.side), transforms.ToTensor()]
    read = DataLoader(
        Photos(given.photos, transforms.Compose([*steps, transforms.Normalize(MEAN, STD)])), BATCH
    )
    for batch in read:
        timed(spent, "forward", network, batch)
    found = {name: torch.cat(parts) for name, parts in kept.items()}
    for name, place in places.items():
        torch.save(found[name], place)
    return found


def main() -> None:
    """Dissect one checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("checkpoint", "photos", "words", "encoder", "saved", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--layers", type=lambda text: text.split(","), required=True)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--kind", action="store_true")
    given = parser.parse_args()
    given.saved.mkdir(parents=True, exist_ok=True)
    words, spent = given.words.read_text().split("\n"), dict[str, float]()
    with torch.no_grad():
        images, texts = embed(given, words, spent)
        units = activations(given, spent)
        with given.out.open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(("layer", "unit", "concept", "similarity"))
            for layer, Q in units.items():
                scores = literal_soft_wpmi_fp32(images @ texts.T, Q)
                best = scores.max(1)
                table.writerows(
                    (layer, unit, words[index], value)
                    for unit, (value, index) in enumerate(
                        zip(best.values.tolist(), best.indices.tolist(), strict=True)
                    )
                )
    print({name: round(seconds, 2) for name, seconds in spent.items()})


if __name__ == "__main__":
    main()

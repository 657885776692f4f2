"""Train small networks, each on images presented in its own way, to check that the way is found out again.

    python scripts/train_presentations.py --cifar cifar10/train --photos imagenet_samples --out presented

Each network is trained with one normalisation, channel order, size and architecture, and written to
`OUT/NAME/epoch_01.pth` as `{"state_dict": ..., "epoch": 1, "presented": {...}}`. Those of the set `tuned`
were looked at when the margins of `evidence/decide.py` were chosen; those of the set `fresh` were not, and
count as a check of them. Networks are trained on photos of CIFAR-10 or on the folder of photos, whose classes
are eight equal parts of the sorted file names (of ImageNet samples, these are parts of WordNet).
`check_input_evidence.py` reads the folder.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from concept_monitor_cli.models.build import constructor
from concept_monitor_cli.models.geometry import Geometry
from concept_monitor_cli.probe.decode import shape_image

NORMALISATIONS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "cifar": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "unit": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "bytes": ((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)),
}
CLASSES = 8
SETTLE = 40  # steps


@dataclass(frozen=True)
class Presented:
    """How a network's images were presented.

    Attributes:
        architecture: "library/name".
        size: side in pixels.
        normalisation: a name of `NORMALISATIONS`.
        channels: "rgb" or "bgr".
        photos: "cifar" or "photos": what it was trained on; "x-rays" for images of another kind.
        augmented: crops of 20 % to 100 % of the area, and colours that vary by a third.
        budget: images shown to it in training.
        seed: of its weights and batches.
    """

    architecture: str
    size: int
    normalisation: str
    channels: str = "rgb"
    photos: str = ""
    augmented: bool = False
    budget: int = 3_000
    seed: int = 0

    @property
    def source(self) -> str:
        """The photos: small ones for small networks, where nothing else is said."""
        return self.photos or ("cifar" if self.size == 32 else "photos")

    @property
    def name(self) -> str:
        """For its folder."""
        short = self.architecture.partition("/")[2]
        more = [self.photos, "augmented" if self.augmented else "", f"seed{self.seed}" if self.seed else ""]
        return "-".join([short, str(self.size), self.normalisation, self.channels, *filter(None, more)])


TUNED = [
    *(Presented("cmon/cifar_resnet20", 32, each) for each in NORMALISATIONS),
    *(Presented("cmon/cifar_resnet20", 32, each, "bgr") for each in ("imagenet", "half", "unit", "bytes")),
    *(Presented("timm/mobilenetv3_small_075", 64, each) for each in ("imagenet", "half", "unit")),
    *(Presented("timm/tf_mobilenetv3_small_075", 64, each) for each in ("imagenet", "half", "unit")),
    Presented("timm/mobilenetv3_small_075", 64, "half", "bgr"),
    Presented("timm/tf_mobilenetv3_small_075", 64, "half", "bgr"),
    Presented("timm/efficientnet_lite0", 64, "imagenet"),
    Presented("timm/tf_efficientnet_lite0", 64, "imagenet"),
    Presented("torchvision/resnet18", 32, "cifar"),
    Presented("torchvision/resnet18", 64, "half"),
    Presented("torchvision/resnet18", 64, "imagenet", "bgr"),
    Presented("timm/resnetblur18", 64, "imagenet"),
    Presented("timm/mobilenetv3_small_075", 128, "clip"),
    Presented("timm/tf_mobilenetv3_small_075", 128, "imagenet"),
    Presented("timm/test_resnet", 64, "unit"),
    Presented("timm/test_resnet", 96, "unit", "bgr"),
    Presented("timm/test_resnet", 160, "half"),
    Presented("timm/lcnet_050", 96, "imagenet"),
    Presented("timm/regnetx_002", 64, "bytes"),
]
"""Architectures, sizes, normalisations and channel orders, several of each with several of the others."""

_SMALL = "cmon/cifar_resnet20"
FRESH = [
    Presented(_SMALL, 32, "imagenet", budget=15_000, seed=1),
    Presented(_SMALL, 32, "half", "bgr", budget=15_000, seed=2),
    Presented(_SMALL, 32, "unit", augmented=True, budget=6_000, seed=3),
    Presented(_SMALL, 32, "clip", "bgr", budget=6_000, seed=4),
    Presented(_SMALL, 32, "bytes", budget=6_000, seed=5),
    Presented(_SMALL, 32, "cifar", "bgr", budget=6_000, seed=6),
    Presented(_SMALL, 32, "cifar", augmented=True, budget=6_000, seed=7),
    Presented(_SMALL, 48, "half", "rgb", "cifar", budget=4_000, seed=8),
    Presented("timm/resnet10t", 64, "half", seed=9),
    Presented("timm/mobilenetv2_035", 64, "half", budget=1_200, seed=12),
    Presented("timm/mobilenetv2_035", 64, "imagenet", augmented=True, budget=1_200, seed=13),
    Presented("timm/mobilenetv2_035", 96, "half", "rgb", "cifar", budget=1_200, seed=14),
    Presented("timm/mobilenetv3_small_050", 64, "imagenet", budget=1_200, seed=15),
    Presented("timm/tf_mobilenetv3_small_100", 64, "half", budget=1_200, seed=16),
    Presented("timm/mobilenetv3_small_100", 96, "half", "bgr", budget=1_200, seed=17),
    Presented("timm/tf_mobilenetv3_small_minimal_100", 96, "imagenet", budget=1_200, seed=18),
    Presented("torchvision/shufflenet_v2_x0_5", 64, "unit", budget=1_200, seed=20),
    Presented("torchvision/mnasnet0_5", 64, "half", "bgr", budget=1_200, seed=21),
    Presented("timm/lcnet_050", 64, "unit", augmented=True, budget=1_200, seed=23),
    Presented("timm/regnetx_002", 64, "bytes", "bgr", budget=1_200, seed=24),
    Presented(_SMALL, 32, "half", "rgb", "x-rays", budget=1_200, seed=25),
    Presented("timm/test_resnet", 64, "imagenet", "rgb", "x-rays", budget=1_200, seed=26),
]
"""Others: architectures, seeds, augmented images, small photos enlarged, and images of another kind."""

VARIANTS = [
    Presented("timm/tf_mobilenetv3_large_075", 64, "half", budget=1_500, seed=31),
    Presented("timm/mobilenetv3_large_075", 64, "imagenet", budget=1_500, seed=32),
    Presented("timm/mobilenetv4_conv_blur_medium", 64, "imagenet", budget=1_000, seed=36),
    Presented("timm/mobilenetv4_conv_aa_medium", 64, "half", budget=1_000, seed=37),
    Presented("timm/mobilenetv4_conv_medium", 96, "imagenet", budget=1_000, seed=38),
    Presented("timm/efficientnet_blur_b0", 64, "imagenet", budget=1_500, seed=39),
    Presented("timm/tf_efficientnet_b0", 64, "imagenet", budget=1_500, seed=40),
    Presented("timm/efficientnet_b0", 64, "half", budget=1_500, seed=41),
    Presented("timm/tf_mobilenetv3_small_100", 128, "unit", "rgb", "photos", augmented=True, seed=46),
    Presented("timm/mobilenetv3_small_100", 64, "imagenet", "rgb", "cifar", seed=47),
    Presented("timm/tf_mobilenetv3_small_100", 64, "imagenet", "rgb", "x-rays", budget=1_500, seed=48),
    Presented("timm/tf_mixnet_s", 96, "imagenet", budget=1_500, seed=34),
    Presented("timm/mixnet_s", 64, "half", budget=1_500, seed=35),
    Presented("timm/resnetaa34d", 64, "imagenet", budget=1_000, seed=42),
    Presented("timm/resnet34d", 64, "half", budget=1_000, seed=43),
    Presented("timm/tf_efficientnet_es", 64, "half", budget=1_000, seed=49),
    Presented("timm/efficientnet_es", 64, "imagenet", budget=1_000, seed=50),
]
"""Each has the names and shapes of others that compute something else: other padding, blurred strides."""

SETS = {"tuned": TUNED, "fresh": FRESH, "variants": VARIANTS}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cifar", type=Path, required=True, help="a folder of photos per class, 32 pixels")
    parser.add_argument("--photos", type=Path, required=True, help="a folder of larger photos")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--x-rays", type=Path, help="PneumoniaMNIST's .npz; without it these are left out")
    parser.add_argument("--set", choices=SETS, default="tuned", help="which networks")
    parser.add_argument("--only", help="networks with this text in their name")
    options = parser.parse_args()
    for presented in SETS[options.set]:
        target = options.out / presented.name / "epoch_01.pth"
        if target.exists() or (options.only and options.only not in presented.name):
            continue
        begin = time.time()
        if presented.source == "x-rays":
            if options.x_rays is None:
                continue
            images, labels = read_x_rays(options.x_rays, presented.size)
        else:
            small = presented.source == "cifar"
            images, labels = read_photos(options.cifar if small else options.photos, presented.size, small)
        network, accuracy = train(presented, images, labels)
        target.parent.mkdir(parents=True, exist_ok=True)
        torch.save(
            {"state_dict": network.state_dict(), "epoch": 1, "presented": asdict(presented)},
            target.with_suffix(".part"),
        )
        target.with_suffix(".part").rename(target)
        print(f"{presented.name}: accuracy {accuracy:.3f}, {time.time() - begin:.0f} s", flush=True)


def read_photos(folder: Path, size: int, by_folder: bool, limit: int = 5000) -> tuple[Tensor, Tensor]:
    """Photos as `(N, S, S, 3)` uint8 and their classes; `S` is a seventh larger than `size` where cropped."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    chosen = paths[:: max(1, len(paths) // limit)][:limit]
    names = sorted({path.parent.name for path in paths})
    side = size if by_folder else size * 8 // 7
    images, labels = [], []
    for path in chosen:
        with Image.open(path) as image:
            images.append(shape_image(image.convert("RGB"), Geometry(side, side)))
        labels.append(
            names.index(path.parent.name) if by_folder else paths.index(path) * CLASSES // len(paths)
        )
    return torch.from_numpy(np.stack(images)), torch.tensor(labels)


def read_x_rays(path: Path, size: int, limit: int = 1000) -> tuple[Tensor, Tensor]:
    """Grey images of chests as colours, `(N, S, S, 3)` uint8, and their classes."""
    with np.load(path) as file:
        grey, labels = file["train_images"][:limit], file["train_labels"][:limit, 0].astype(np.int64)
    images = [shape_image(Image.fromarray(each).convert("RGB"), Geometry(size, size)) for each in grey]
    return torch.from_numpy(np.stack(images)), torch.from_numpy(labels)


def augment(pixels: Tensor) -> Tensor:
    """A crop of each image of 20 % to 100 % of its area, at its size, with other brightness and colours."""
    size = pixels.shape[1]
    cropped = []
    for image in pixels.permute(0, 3, 1, 2).float():
        side = max(4, round(size * float(torch.empty(()).uniform_(0.2, 1)) ** 0.5))
        top, left = (int(torch.randint(size - side + 1, ())) for _ in range(2))
        part = image[None, :, top : top + side, left : left + side]
        larger = nn.functional.interpolate(part, (size, size), mode="bilinear", antialias=True)[0]
        colours = torch.empty(3, 1, 1).uniform_(0.8, 1.2) * torch.empty(()).uniform_(0.67, 1.33)
        cropped.append(larger * colours)
    return torch.stack(cropped).permute(0, 2, 3, 1).clamp(0, 255)


def present(pixels: Tensor, presented: Presented) -> Tensor:
    """uint8 `(B, S, S, 3)` as the network sees it, `(B, 3, S, S)`."""
    mean, std = (torch.tensor(each) for each in NORMALISATIONS[presented.normalisation])
    images = ((pixels.float() / 255 - mean) / std).permute(0, 3, 1, 2)
    return images.flip(1) if presented.channels == "bgr" else images


def train(presented: Presented, images: Tensor, labels: Tensor, batch: int = 48) -> tuple[nn.Module, float]:
    """Train with random crops and flips, then let the running statistics settle on the final weights.

    Long trainings do that by themselves, as their learning rate ends near 0.

    Returns:
        The network, and its accuracy over the steps of settling, in training mode.
    """
    torch.manual_seed(presented.seed)
    library, _, name = presented.architecture.partition("/")
    maker = constructor(library, name)
    if maker is None:
        raise SystemExit(f"there is no {presented.architecture}")
    network = maker.factory(num_classes=int(labels.max()) + 1).train()
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    steps = presented.budget // batch
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=steps)
    right = seen = 0
    slack = images.shape[1] - presented.size
    for step in range(steps + SETTLE):
        rows = torch.randint(len(images), (batch,))
        top, left = (int(torch.randint(slack + 1, ())) for _ in range(2))
        pixels = images[rows, top : top + presented.size, left : left + presented.size]
        if torch.rand(()) < 0.5:
            pixels = pixels.flip(2)
        if presented.augmented:
            pixels = augment(pixels)
        if step >= steps:
            with torch.no_grad():
                output = network(present(pixels, presented))
            right += int((output.argmax(1) == labels[rows]).sum())
            seen += batch
            continue
        output = network(present(pixels, presented))
        loss = nn.functional.cross_entropy(output, labels[rows])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        schedule.step()
    return network, right / seen


if __name__ == "__main__":
    main()

"""Where in a tree of names is a known network?

Training code keeps its network somewhere: `encoder_q.`, `backbone.bottom_up.`, `module.attacker.model.`, as
the children of a Sequential, or beside the decoder that it was trained with. The names are a tree; at each of
its nodes the architectures are looked for among the names below, with some of the branches left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from math import prod

from concept_monitor_cli.checkpoints.architectures import MASK, Shape, Shapes, is_volatile, name_hash, numel
from concept_monitor_cli.checkpoints.contents import is_averaged
from concept_monitor_cli.checkpoints.prefixes import strip_prefixes
from concept_monitor_cli.checkpoints.recognition import Recognition, shipped_index

# A network has at least this many names; below, a node is a layer of it.
_FEWEST_NAMES = 6
_MOST_NODES = 200
# All subsets of up to this many branches are tried; of more, those that lack up to three of them.
_MOST_SUBSETS = 14
_MOST_LEFT_OUT = 3

# Children of networks whose forward pass is that of their children, one after the other: the numbers that
# `nn.Sequential(*network.children())` gives them, and their own names. "" has no weights.
_CHILDREN: tuple[tuple[str, ...], ...] = tuple(
    tuple("" if child == "-" else child for child in children.split())
    for children in (
        "conv1 bn1 - - layer1 layer2 layer3 layer4 - fc",  # torchvision's, timm's ResNets
        "conv1 bn1 - layer1 layer2 layer3 layer4 - fc",  # with a small stem
        "conv1 bn1 - layer1 layer2 layer3 - fc",  # of CIFAR
        "conv1 layer1 layer2 layer3 layer4 - linear",  # with pre-activation
        "features classifier",
        "features - classifier",
        "conv1 - stage2 stage3 stage4 conv5 fc",  # ShuffleNet
        "stem trunk_output - fc",  # RegNet
        "layers classifier",  # MNASNet
        "features norm - - - head",  # Swin
        "conv1 - conv2 conv3 - inception3a inception3b - inception4a inception4b inception4c inception4d "
        "inception4e - inception5a inception5b - - fc",  # GoogLeNet
        "Conv2d_1a_3x3 Conv2d_2a_3x3 Conv2d_2b_3x3 - Conv2d_3b_1x1 Conv2d_4a_3x3 - Mixed_5b Mixed_5c "
        "Mixed_5d Mixed_6a Mixed_6b Mixed_6c Mixed_6d Mixed_6e Mixed_7a Mixed_7b Mixed_7c - - fc",
        # timm's
        "features - - classifier",  # DenseNet
        "features pre_logits head",  # VGG
        "conv_stem bn1 blocks conv_head bn2 - classifier",  # EfficientNet
        "conv_stem bn1 blocks - conv_head - - - classifier",  # MobileNetV3
        "conv_stem bn1 blocks - conv_head norm_head - - classifier",  # MobileNetV4
        "conv_stem bn1 - blocks - conv_head - - classifier",  # GhostNet
        "stem stages - head",  # ConvNeXt, RepVGG
        "stem stages head",  # Darknet, VoVNet, PoolFormer
        "stem stages norm head",  # ResNetV2
        "stem stages final_conv - head",  # NFNet
        "stem s1 s2 s3 s4 - head",  # RegNet
        "stem blocks - - head",  # ConvMixer
        "base_layer level0 level1 level2 level3 level4 level5 - - fc",  # DLA
    )
)
# Networks saved by their `features` alone.
_PARTS = ("features.",)


@dataclass(frozen=True)
class Located:
    """A known network within a state dict.

    Attributes:
        names: name in the state dict -> name in the network, without what is set aside.
        prefix: what stands in front of its names.
        size: elements of its parameters and buffers.
        sequential: whether its names are those of a Sequential of its children.
        recognition: what it is.
        rivals: prefixes of other networks that are as large.
    """

    names: Mapping[str, str]
    prefix: str
    size: int
    sequential: bool
    recognition: Recognition
    rivals: tuple[str, ...] = ()


def known_size(shapes: Shapes) -> int:
    """Elements of the known network within a state dict; 0 where there is none."""
    found = locate(shapes)
    return 0 if found is None else found.size


def locate(shapes: Shapes) -> Located | None:
    """The largest known network within a state dict.

    Of several that are as large, one whose prefix calls it a running average comes last, and the one with the
    shortest prefix first. A network whose prefix does not comes before an average of it, even a larger one:
    `encoder_q` with a head of its own before `encoder_k`.

    Args:
        shapes: name -> shape of every tensor, as the file has them or with some prefixes taken off.

    Returns:
        The network; None where no architecture fits anywhere.
    """
    return _located(tuple((name, tuple(shape)) for name, shape in shapes.items()))


@lru_cache(maxsize=32)
def _located(items: tuple[tuple[str, Shape], ...]) -> Located | None:
    shapes = dict(items)
    found: list[Located] = []
    for prefix, size in _nodes(shapes):
        if found and size < found[0].size:
            break
        # A part of a network that was found is as large only where nothing stands beside it.
        if any(prefix.startswith(other.prefix) and prefix != other.prefix for other in found):
            continue
        below = {name: name.removeprefix(prefix) for name in shapes if name.startswith(prefix)}
        here = _at(shapes, below, prefix)
        if here is not None:
            found.append(here)
            found.sort(key=lambda located: -located.size)
    if not found:
        return None
    trained = [located for located in found if not is_average(located.prefix)]
    if is_average(found[0].prefix) and trained and _is_same(trained[0], found[0]):
        found = [trained[0], *(located for located in found if located is not trained[0])]
    best = [located for located in found if located.size == found[0].size]
    best.sort(key=lambda located: (is_average(located.prefix), located.prefix.count("."), located.prefix))
    rivals = tuple(located.prefix for located in best[1:])
    first = best[0]
    return Located(first.names, first.prefix, first.size, first.sequential, first.recognition, rivals)


def _is_same(one: Located, other: Located) -> bool:
    """Whether both are the same network, apart from their classifiers."""
    return one.recognition.architecture == other.recognition.architecture


def is_average(prefix: str) -> bool:
    """Whether a prefix says that what follows is a running average of another network."""
    parts = prefix.lower().split(".")
    return any(is_averaged(part) or part == "target" for part in parts)


def _nodes(shapes: Shapes) -> Iterator[tuple[str, int]]:
    """Prefixes with the elements below them, largest first; the whole first of all."""
    sizes: dict[str, int] = defaultdict(int)
    counts: dict[str, int] = defaultdict(int)
    for name, shape in shapes.items():
        parts = name.split(".")
        elements = numel(shape)
        for depth in range(len(parts)):
            prefix = "".join(f"{part}." for part in parts[:depth])
            sizes[prefix] += elements
            counts[prefix] += 1
    nodes = [prefix for prefix in sizes if counts[prefix] >= _FEWEST_NAMES]
    nodes.sort(key=lambda prefix: (-sizes[prefix], prefix.count("."), prefix))
    for prefix in nodes[:_MOST_NODES]:
        yield prefix, sizes[prefix]


def _at(shapes: Shapes, below: Mapping[str, str], prefix: str) -> Located | None:
    """The known network directly at a node: with all names, some branches left out, or numbered children."""
    stripped = strip_prefixes(below.values()).names
    # Wrappers within ("layer1._orig_mod.0"), not in front: those are nodes of their own.
    if len(stripped) == len(below) and all(
        len(old) == len(new) or not old.endswith(new) for old, new in stripped.items()
    ):
        below = {old: stripped[new] for old, new in below.items()}
    for renames, sequential in _renamings(below):
        new_shapes = {renames[old]: shapes[old] for old in renames}
        found = _largest(new_shapes)
        if found is None:
            continue
        recognition, kept = found
        used = {old: new for old, new in renames.items() if new in kept}
        size = sum(prod(shapes[old]) for old, new in used.items() if new not in recognition.unused)
        return Located(used, prefix, size, sequential, recognition)
    return None


def _renamings(below: Mapping[str, str]) -> Iterator[tuple[dict[str, str], bool]]:
    """The names as they are; then, where they are numbered, by the networks whose children they may be."""
    yield dict(below), False
    if not all(name.partition(".")[0].isdecimal() for name in below.values()):
        return
    for children in _CHILDREN:
        renamed = {}
        for old, name in below.items():
            number, _, rest = name.partition(".")
            child = children[int(number)] if len(number) < 4 and int(number) < len(children) else ""
            if not child or not rest:
                break
            renamed[old] = f"{child}.{rest}"
        else:
            yield renamed, True
    for part in _PARTS:
        yield {old: part + name for old, name in below.items()}, True


def _largest(shapes: Shapes) -> tuple[Recognition, set[str]] | None:
    """The largest known network of these names with some first components left out, and the names kept."""
    index = shipped_index()
    whole = index.fitting(shapes)
    if whole is not None:
        return whole, set(shapes)
    groups: dict[str, list[str]] = defaultdict(list)
    for key in shapes:
        groups[key.partition(".")[0]].append(key)
    settled = {key: name_hash(key) for key in shapes if not is_volatile(key)}
    sums = {group: sum(settled.get(key, 0) for key in keys) & MASK for group, keys in groups.items()}
    sizes = {group: sum(numel(shapes[key]) for key in keys) for group, keys in groups.items()}
    total = sum(sums.values())
    fitting: list[tuple[int, tuple[str, ...]]] = [
        (sum(sizes[group] for group in left_out), left_out)
        for left_out in _left_out(list(groups))
        if (total - sum(sums[group] for group in left_out)) & MASK in index.name_sums
    ]
    for _, left_out in sorted(fitting):
        kept = {key for group, keys in groups.items() if group not in left_out for key in keys}
        found = index.fitting({key: shapes[key] for key in shapes if key in kept})
        if found is not None and found.head != "replaced":
            return found, kept
    return None


def _left_out(groups: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Sets of branches to do without, small ones first."""
    most = len(groups) - 1 if len(groups) <= _MOST_SUBSETS else min(_MOST_LEFT_OUT, len(groups) - 1)
    if len(groups) > 60:
        most = min(most, 1)
    for count in range(1, most + 1):
        yield from combinations(groups, count)

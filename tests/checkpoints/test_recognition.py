from __future__ import annotations

import random
import subprocess
import sys
import time
from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from concept_monitor_cli.checkpoints import UnrecognisedError, recognise, strip_prefixes
from concept_monitor_cli.checkpoints.architectures import (
    Architecture,
    PositionTable,
    item_hash,
    resemblance,
    sketch,
    solve,
    vary,
)
from concept_monitor_cli.checkpoints.recognition import (
    ArchitectureIndex,
    dump_index,
    load_index,
    shipped_index,
)
from concept_monitor_cli.models.build import Constructor, constructor, list_architectures

Shape = tuple[int, ...]


SAMPLED = 11  # networks of each library: all of the package's own


def shapes_of(library: str, name: str, **kwargs: object) -> dict[str, Shape]:
    maker = constructor(library, name)
    assert maker is not None
    return maker.shapes(**kwargs)


@cache
def sample(library: str) -> list[str]:
    """Some of a library; scripts/check_recognition.py asks for all."""
    names = list_architectures(library)
    return sorted(random.Random(0).sample(names, SAMPLED))


@pytest.mark.parametrize("place", range(SAMPLED))
@pytest.mark.parametrize("library", ["cmon", "timm", "torchvision"])
def test_other_classes_and_a_prefix_do_not_hide_a_network(library: str, place: int) -> None:
    name = sample(library)[place]
    wrapped = {f"module.{key}": shape for key, shape in shapes_of(library, name, num_classes=17).items()}
    found = recognise({new: wrapped[old] for old, new in strip_prefixes(wrapped).names.items()})
    fitting = [(entry.library, entry.name) for entry in (found.architecture, *found.alternatives)]
    assert (library, name) in fitting
    assert found.num_classes == 17
    assert found.head == "present"
    assert found.in_chans == 3


# -- what weights can hide -----------------------------------------------------------------------------


def test_counters_and_computed_tables_do_not_count() -> None:
    shapes = shapes_of("torchvision", "resnet18", num_classes=10)
    without = {key: shape for key, shape in shapes.items() if not key.endswith("num_batches_tracked")}
    assert len(without) < len(shapes)
    assert recognise(without).name == recognise(shapes).name == "resnet18"
    swin = shapes_of("torchvision", "swin_t", num_classes=10)
    swin["features.1.0.attn_mask"] = (64, 49, 49)
    swin["total_ops"] = (1,)
    assert recognise(swin).name == "swin_t"


@pytest.mark.parametrize(
    ("library", "name", "key"),
    [
        ("torchvision", "resnet18", "fc."),
        ("torchvision", "vgg16", "classifier."),
        ("torchvision", "densenet121", "classifier."),
        ("timm", "vit_tiny_patch16_224", "head."),
        ("timm", "convnext_nano", "head.fc."),
        ("timm", "deit_tiny_distilled_patch16_224", "head"),
        ("cmon", "preact_resnet18", "linear."),
    ],
)
def test_a_network_without_its_classifier(library: str, name: str, key: str) -> None:
    shapes = {k: s for k, s in shapes_of(library, name, num_classes=10).items() if not k.startswith(key)}
    found = recognise(shapes)
    fitting = [entry.name for entry in (found.architecture, *found.alternatives)]
    assert name in fitting
    assert (found.num_classes, found.head, found.unused) == (None, "absent", ())
    assert found.notes


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("resnet18", "fc.", {"fc.1.weight": (4, 512), "fc.1.bias": (4,)}),
        ("resnet18", "fc.", {"projector.0.weight": (128, 512), "projector.2.weight": (64, 128)}),
        ("efficientnet_b0", "classifier.", {"classifier.0.weight": (4, 1280)}),
        ("vgg11", "classifier.", {"classifier.weight": (4, 25088), "classifier.bias": (4,)}),
        ("vgg16", "classifier.", {"classifier.0.weight": (4096, 512), "classifier.0.bias": (4096,)}),
    ],
)
def test_a_network_with_another_classifier(name: str, old: str, new: dict[str, Shape]) -> None:
    shapes = {key: shape for key, shape in shapes_of("torchvision", name).items() if not key.startswith(old)}
    found = recognise({**shapes, **new})
    assert (found.library, found.name) == ("torchvision", name)
    assert (found.head, found.num_classes) == ("replaced", None)
    assert set(found.unused) == set(new)


@pytest.mark.parametrize(
    ("library", "name"),
    [("timm", "resnet18d"), ("torchvision", "mobilenet_v2"), ("timm", "swin_tiny_patch4_window7_224")],
)
def test_other_input_channels(library: str, name: str) -> None:
    shapes = shapes_of(library, name, num_classes=5)
    stem = next(key for key, shape in shapes.items() if len(shape) == 4 and shape[1] == 3)
    shapes[stem] = (shapes[stem][0], 1, *shapes[stem][2:])
    found = recognise(shapes)
    assert (found.library, found.name, found.in_chans, found.num_classes) == (library, name, 1, 5)


@pytest.mark.parametrize(
    ("library", "name", "argument", "size"),
    [("torchvision", "vit_b_32", "image_size", 384), ("timm", "vit_tiny_patch16_224", "img_size", 96)],
)
def test_other_image_sizes(library: str, name: str, argument: str, size: int) -> None:
    found = recognise(shapes_of(library, name, num_classes=5, **{argument: size}))
    fitting = [entry.name for entry in (found.architecture, *found.alternatives)]
    assert name in fitting
    assert found.kwargs.get(argument, size) == size  # or an architecture made for that size


def test_several_that_share_names_and_shapes_are_all_named() -> None:
    found = recognise(shapes_of("timm", "resnet50", num_classes=10))
    assert (found.library, found.name) == ("torchvision", "resnet50")  # the plainest
    assert ("timm", "resnet50") in [(entry.library, entry.name) for entry in found.alternatives]
    plainness = [entry.plainness for entry in found.alternatives]
    assert plainness == sorted(plainness)


def test_googlenet_with_and_without_its_helpers() -> None:
    assert recognise(shapes_of("torchvision", "googlenet", num_classes=4)).kwargs == {}
    without = shapes_of("torchvision", "googlenet", num_classes=4, aux_logits=False)
    assert recognise(without).kwargs == {"aux_logits": False}


# -- what does not fit ---------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["width", "name", "missing"])
def test_near_misses_are_not_taken_and_the_nearest_is_named(change: str) -> None:
    shapes = shapes_of("torchvision", "resnet18", num_classes=10)
    if change == "width":
        shapes["layer1.0.conv1.weight"] = (65, 64, 3, 3)
    elif change == "name":
        shapes["layer1.0.conv9.weight"] = shapes.pop("layer1.0.conv1.weight")
    else:
        del shapes["layer1.0.conv1.weight"]
    with pytest.raises(UnrecognisedError) as error:
        recognise(shapes)
    assert error.value.nearest[0].architecture.label == "torchvision/resnet18"
    assert "torchvision/resnet18" in error.value.what
    assert "--model" in str(error.value.hint)


def test_something_quite_different() -> None:
    with pytest.raises(UnrecognisedError) as error:
        recognise({"lstm.weight_ih_l0": (40, 10), "lstm.weight_hh_l0": (40, 10)})
    assert error.value.nearest == ()
    assert "lstm.weight_ih_l0" in error.value.what


@pytest.mark.parametrize("shapes", [{}, {"x": ()}, {"num_batches_tracked": ()}])
def test_hardly_anything(shapes: dict[str, Shape]) -> None:
    with pytest.raises(UnrecognisedError):
        recognise(shapes)


# -- the table -----------------------------------------------------------------------------------------


def test_the_shipped_table_knows_every_network_installed() -> None:
    index = shipped_index()
    known = {(entry.library, entry.name) for entry in index.architectures}
    from importlib.metadata import version

    for library in ("torchvision", "timm", "cmon"):
        if library != "cmon" and version(library) != index.made_with[library]:
            pytest.skip(f"the table was made with {library} {index.made_with[library]}: rebuild it")
        missing = [name for name in list_architectures(library) if (library, name) not in known]
        assert not missing


def test_the_table_survives_writing() -> None:
    index = ArchitectureIndex(shipped_index().architectures[:60], {"timm": "1"})
    data = dump_index(index)
    assert data == dump_index(load_index(data))
    assert load_index(data).architectures == index.architectures
    assert load_index(data).made_with == {"timm": "1"}


def test_a_bundled_network_in_the_table_is_the_one_in_the_code() -> None:
    shipped = [entry for entry in shipped_index().architectures if entry.library == "cmon"]
    for name in list_architectures("cmon"):
        maker = constructor("cmon", name)
        assert maker is not None
        known = [entry for entry in shipped if entry.name == name]
        assert sorted(map(str, maker.describe())) == sorted(map(str, known)), "rebuild architectures.json.gz"


def test_naming_takes_no_library_and_little_time() -> None:
    """Within 2 s, in a fresh process, and without torchvision or timm."""
    program = """
import sys, time
from concept_monitor_cli.checkpoints import recognise
shapes = eval(sys.stdin.read())
start = time.perf_counter()
found = recognise(shapes)
assert not {"torchvision", "timm"} & set(sys.modules)
print(found.name, time.perf_counter() - start)
"""
    shapes = shapes_of("timm", "convnext_tiny", num_classes=3)
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, input=repr(shapes), capture_output=True, text=True, check=True)
    name, seconds = done.stdout.split()
    assert name == "convnext_tiny"
    assert float(seconds) < 2


def test_hopeless_look_ups_are_quick_too() -> None:
    shapes = {f"blocks.{i}.weight": (i + 1, 3) for i in range(3000)}
    shipped_index()
    start = time.perf_counter()
    with pytest.raises(UnrecognisedError):
        recognise(shapes)
    assert time.perf_counter() - start < 2


# -- pieces --------------------------------------------------------------------------------------------

dims = st.one_of(st.integers(1, 50), st.tuples(st.sampled_from(["n", "c"]), st.integers(1, 4)))


@given(st.lists(dims, max_size=5), st.integers(1, 500), st.integers(1, 12))
def test_solving_a_pattern_gives_back_its_values(pattern: list[object], classes: int, channels: int) -> None:
    values = {"n": classes, "c": channels}
    shape = tuple(dim if isinstance(dim, int) else values[dim[0]] * dim[1] for dim in pattern)  # type: ignore[index]
    solved = solve(tuple(pattern), shape)  # type: ignore[arg-type]
    assert solved == {dim[0]: values[dim[0]] for dim in pattern if isinstance(dim, tuple)}
    assert solve(tuple(pattern), (*shape, 1)) is None  # type: ignore[arg-type]


def test_patterns_from_two_shapes() -> None:
    assert vary((11, 512), (13, 512)) == (("n", 1), 512)
    assert vary((64, 3, 7, 7), (64, 4, 7, 7)) == (64, ("c", 1), 7, 7)
    assert vary((64, 48), (64, 64)) == (64, ("c", 16))
    assert vary((12, 5), (14, 5)) is None
    assert vary((11,), (13, 1)) is None


def test_a_table_of_positions() -> None:
    table = PositionTable.between("pos", (224, 448), ((1, 197, 192), (1, 785, 192)), "img_size")
    assert table is not None
    assert (table.patch, table.extra, table.dim) == (16, 1, 1)
    assert table.image_size((1, 37, 192)) == 96
    assert table.image_size((1, 38, 192)) is None  # no square
    assert table.image_size((1, 37, 193)) is None
    assert table.image_size((37, 192)) is None
    assert PositionTable.between("t", (224, 448), ((1, 14, 14), (1, 28, 28)), "img_size") is None
    assert PositionTable.between("t", (224, 448), ((1, 49, 3), (1, 50, 3)), "img_size") is None


def test_hashes_are_of_names_and_shapes() -> None:
    assert item_hash("a", (1, 12)) != item_hash("a", (11, 2))
    assert item_hash("a", (1,)) != item_hash("b", (1,))


def test_resemblance_of_sketches() -> None:
    names = [f"layer{i}.weight" for i in range(400)]
    assert resemblance(sketch(names), sketch(reversed(names))) == 1
    assert resemblance(sketch(names), sketch(f"other{i}" for i in range(400))) == 0
    half = resemblance(sketch(names), sketch(names[:200]))
    assert 0.25 < half < 0.75
    assert resemblance(sketch([]), sketch(names)) == 0


def test_an_entry_of_a_network_made_up_here() -> None:
    def factory(num_classes: int = 2, in_chans: int = 3) -> torch.nn.Module:
        return torch.nn.Sequential(
            torch.nn.Conv2d(in_chans, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 2 * num_classes)
        )

    maker = Constructor("user", "mine", factory, arguments=frozenset({"num_classes", "in_chans"}))
    (entry,) = maker.describe()
    assert entry.class_keys == ("2.bias", "2.weight")
    assert entry.stem_keys == ("0.weight",)
    assert entry.roots == ("2",)
    found = ArchitectureIndex([entry]).recognise(maker.shapes(num_classes=9, in_chans=1))
    assert (found.num_classes, found.in_chans) == (9, 1)
    assert Architecture.from_json(entry.to_json()) == entry

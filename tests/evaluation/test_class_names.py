"""Which layer is the classifier, and what its classes are called."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from concept_monitor_cli.concepts.class_names import (
    ClassNames,
    find_class_names,
    image_classes,
    load_class_names,
    spelling,
)
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.evaluation.classifier import Classifier, find_classifier
from concept_monitor_cli.models import cifar

IDS = ("Cat/0.png", "polar_bear/1.png", "Cat/2.png", "dog/3.png")


# -- names ---------------------------------------------------------------------------------------


def test_known_names() -> None:
    assert load_class_names("cifar10").names[:3] == ("airplane", "automobile", "bird")
    hundred = load_class_names("cifar100").names
    assert len(set(hundred)) == 100
    assert list(hundred) == sorted(hundred)
    imagenet = load_class_names("imagenet").names
    assert len(imagenet) == 1000
    assert imagenet[0] == "tench"


def test_names_of_a_file_keep_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_text("\ufeffcrane\n  crane \nhot  dog\n\n", encoding="utf-8")
    assert load_class_names(str(file)).names == ("crane", "crane", "hot dog")
    file.write_text("cat\n\ndog\n")
    with pytest.raises(InputError, match="line 2 has no class name"):
        load_class_names(str(file))
    file.write_text("\n")
    with pytest.raises(InputError, match="no class names in the file"):
        load_class_names(str(file))
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="UTF-8"):
        load_class_names(str(file))
    with pytest.raises(InputError, match="no such class names") as error:
        load_class_names("cifar")
    assert "cifar10" in str(error.value)


def test_names_of_folders() -> None:
    found = load_class_names("folders", IDS)
    assert found.names == ("Cat", "dog", "polar bear")
    assert load_class_names("folders", ("n01440764_tench/a.jpg", "012.Blue_jay/b.jpg")).names == (
        "Blue jay",
        "tench",
    )
    with pytest.raises(InputError, match="folders of classes"):
        load_class_names("folders", ("a.png", "Cat/b.png"))


def test_names_that_nobody_gave() -> None:
    names = ["x", "y", "z"]
    assert find_class_names(3, {"classes": names}, "photos", IDS) == ClassNames(
        tuple(names), "the checkpoint"
    )
    said = find_class_names(3, {"args": {"class_to_idx": {"b": 1, "a": 0, "c": 2}}}, "photos", IDS)
    assert isinstance(said, ClassNames)
    assert said.names == ("a", "b", "c")
    said = find_class_names(2, {"names": {"0": "a", "1": "b"}}, "photos", ())
    assert isinstance(said, ClassNames)
    assert said.names == ("a", "b")
    # Names for another number of classes are none; nor is a table that leaves numbers out.
    folders = find_class_names(3, {"classes": ["x"], "names": {"a": 0, "b": 1, "c": 5}}, "photos", IDS)
    assert isinstance(folders, ClassNames)
    assert folders.assumed
    assert folders.names == ("Cat", "dog", "polar bear")
    cifar10 = find_class_names(10, {}, "cifar10:/data", ("test/0",))
    assert isinstance(cifar10, ClassNames)
    assert cifar10.assumed
    thousand = find_class_names(1000, {}, "photos", ())
    assert isinstance(thousand, ClassNames)
    assert "1,000" in thousand.source
    unknown = find_class_names(7, {}, "photos", IDS)
    assert isinstance(unknown, InputError)
    assert "--class-names" in str(unknown)


def test_classes_of_images() -> None:
    assert image_classes(IDS, ("dog", "cat", "Polar bear")).tolist() == [1, 2, 1, 0]
    assert image_classes(("cat/a", "b", "x/cat/c"), ("cat",)).tolist() == [0, -1, 0]
    assert spelling("Polar_bear") == spelling(" polar  bear")


# -- the classifier ------------------------------------------------------------------------------


def test_the_last_linear_layer() -> None:
    network = cifar.create_model("cifar_resnet20", num_classes=7)
    found = find_classifier(network.state_dict())
    assert isinstance(found, Classifier)
    assert (found.classes, found.inputs) == (7, 64)
    head = network.get_submodule(found.layer)
    torch.testing.assert_close(found.weights, head.weight)
    torch.testing.assert_close(found.bias, head.bias)
    assert found.is_layer(found.layer, 7)
    assert found.is_layer(f"model.{found.layer}", 7)
    assert not found.is_layer(found.layer, 8)
    assert not found.is_layer("layer3", 7)
    assert found.follows("layer3", 64)
    assert not found.follows("layer2", 32)


def test_a_container_is_its_last_layer() -> None:
    found = Classifier("heads.head", torch.zeros(5, 8), torch.zeros(5))
    assert found.is_layer("heads", 5)
    assert not found.is_layer("head", 5)
    square = Classifier("fc", torch.zeros(5, 5), torch.zeros(5))
    assert square.follows("layer4", 5)
    assert not square.follows("fc", 5)


def test_a_classifier_by_name_and_without_bias() -> None:
    weights = {
        "conv.weight": torch.zeros(4, 3, 3, 3),
        "squeeze.weight": torch.ones(9, 4, 1, 1, dtype=torch.float16),
        "emb.weight": torch.zeros(3, 4),
    }
    found = find_classifier(weights, "model.squeeze")
    assert isinstance(found, Classifier)
    assert found.weights.shape == (9, 4)
    assert found.weights.dtype == torch.float32
    assert found.bias.tolist() == [0.0] * 9
    missing = find_classifier(weights, "fc")
    assert isinstance(missing, InputError)
    assert "squeeze, emb" in str(missing)
    assert isinstance(find_classifier({"conv.weight": weights["conv.weight"]}), InputError)

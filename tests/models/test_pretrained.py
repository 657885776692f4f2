"""`torchvision/NAME` and `timm/NAME` in the place of a checkpoint: from the libraries' caches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from late import Late

import concept_monitor_cli._torchvision  # noqa: F401
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.models.pretrained import pretrained_files

from huggingface_hub import constants  # isort: skip

timm = Late("timm")
models = Late("torchvision.models")


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Caches of torch.hub and of Hugging Face with nothing in them."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    return tmp_path


def test_weights_of_torchvision_come_from_the_cache_of_torch_hub(caches: Path) -> None:
    name = Path(models.ResNet18_Weights.DEFAULT.url).name
    file = caches / "torch" / "hub" / "checkpoints" / name
    file.parent.mkdir(parents=True)
    file.touch()
    assert pretrained_files(["torchvision/resnet18"], None) == ([file], "torchvision/resnet18")
    assert pretrained_files(["torchvision/resnet18"], "timm/resnet18") == ([file], "timm/resnet18")
    assert pretrained_files(["torchvision/resnet18", "ckpts"], None) == ([file, "ckpts"], None)


def test_older_weights_do_where_the_default_is_not_there(caches: Path) -> None:
    older = models.ResNet50_Weights.IMAGENET1K_V1
    assert older is not models.ResNet50_Weights.DEFAULT
    file = caches / "torch" / "hub" / "checkpoints" / Path(older.url).name
    file.parent.mkdir(parents=True)
    file.touch()
    assert pretrained_files(["torchvision/resnet50"], None)[0] == [file]


def test_weights_of_timm_come_from_the_cache_of_hugging_face(caches: Path) -> None:
    config = timm.get_pretrained_cfg("resnet18.a1_in1k")
    assert config is not None
    repository = caches / "hf" / f"models--{config.hf_hub_id.replace('/', '--')}"
    revision = "0" * 40
    file = repository / "snapshots" / revision / "model.safetensors"
    file.parent.mkdir(parents=True)
    file.touch()
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    assert pretrained_files(["timm/resnet18.a1_in1k"], None) == ([file], "timm/resnet18.a1_in1k")


@pytest.mark.parametrize(
    ("spec", "command"),
    [
        ("torchvision/resnet18", "torchvision.models.get_model('resnet18', weights='IMAGENET1K_V1')"),
        ("timm/resnet18.a1_in1k", "timm.create_model('resnet18.a1_in1k', pretrained=True)"),
    ],
)
def test_what_is_not_there_says_how_to_fetch_it(spec: str, command: str) -> None:
    with pytest.raises(InputError, match="not downloaded yet") as error:
        pretrained_files([spec], None)
    assert command in str(error.value.hint)
    assert error.value.where == spec


def test_a_name_that_no_library_knows() -> None:
    for library in ("timm", "torchvision"):
        with pytest.raises(InputError, match=f"{library} has no network of that name"):
            pretrained_files([f"{library}/resnet19"], None)
    with pytest.raises(InputError) as error:
        pretrained_files(["torchvision/ResNet50"], None)
    assert "torchvision/resnet50" in str(error.value.hint)


def test_a_folder_of_that_name_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "timm" / "resnet18").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert pretrained_files(["timm/resnet18", "a/b"], None) == (["timm/resnet18", "a/b"], None)

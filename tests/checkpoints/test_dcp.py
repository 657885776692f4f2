"""Folders of torch.distributed.checkpoint, read without a process group and without its pickles' rights."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from checkpoint_help import Marker, same, small_network, small_weights
from late import Late

from concept_monitor_cli.checkpoints import find_checkpoints, load_checkpoint, weights_digest
from concept_monitor_cli.errors import InputError

dcp = Late("torch.distributed.checkpoint")

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def save(folder: Path, content: dict[str, object]) -> Path:
    dcp.save(content, checkpoint_id=str(folder))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    network = small_network()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    network(torch.ones(2, 3, 4, 4)).sum().backward()
    optimizer.step()
    content = {"model": network.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 4}
    torch.save(network.state_dict(), tmp_path / "expected.pth")
    return save(tmp_path / "runs" / "step-100", content)


@pytest.mark.parametrize("lazy", [False, True])
def test_weights_and_epoch(folder: Path, tmp_path: Path, lazy: bool) -> None:
    loaded = load_checkpoint(folder, lazy=lazy)
    expected = load_checkpoint(tmp_path / "expected.pth").state_dict
    assert {name: tuple(value.shape) for name, value in loaded.state_dict.items()} == {
        name: tuple(value.shape) for name, value in expected.items()
    }
    assert (loaded.where, loaded.epoch) == ("model", 4)
    if not lazy:
        assert same(loaded.state_dict, expected)
        assert weights_digest(loaded.state_dict) == weights_digest(expected)
        assert loaded.nonfinite == ()


def test_a_lazy_tensor_is_not_taken_for_values(folder: Path) -> None:
    lazy = load_checkpoint(folder, lazy=True).state_dict
    assert all(value.is_meta for value in lazy.values())
    with pytest.raises(NotImplementedError):  # no data, rather than wrong data
        weights_digest(lazy)


def test_the_optimizers_state_is_never_read(folder: Path) -> None:
    """Its bytes may be gone, as long as the weights' are there."""
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    path = next(folder.glob("*.distcp"))
    data = bytearray(path.read_bytes())
    for index, info in metadata.storage_data.items():
        if index.fqn.startswith("optimizer."):
            data[info.offset : info.offset + info.length] = bytes(info.length)
    path.write_bytes(data)
    assert len(load_checkpoint(folder).state_dict) == len(small_weights())


def test_found_as_one_checkpoint_each(folder: Path) -> None:
    save(folder.with_name("step-20"), {"model": small_weights()})
    assert [file.name for file in find_checkpoints(folder.parent)] == ["step-20", "step-100"]
    assert [file.path for file in find_checkpoints(folder)] == [folder]


def test_a_flat_state_dict(tmp_path: Path) -> None:
    weights = small_weights()
    weights["0.weight"] = weights["0.weight"].bfloat16()
    loaded = load_checkpoint(save(tmp_path / "c", dict(weights)))
    assert same(loaded.state_dict, weights)


def test_parts_of_a_tensor_are_put_together(tmp_path: Path) -> None:
    """As two processes write them, some rows each; made by hand, since DTensor takes long to import."""
    weights = {"conv.weight": torch.arange(30.0).reshape(5, 3, 2), "conv.bias": torch.ones(5)}
    folder = save(tmp_path / "c", dict(weights))
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    del metadata.storage_data[dcp.metadata.MetadataIndex("conv.weight", (0, 0, 0))]
    chunks = []
    for process, (start, stop) in enumerate([(0, 3), (3, 5)]):
        offset = torch.Size((start, 0, 0))
        part = weights["conv.weight"][start:stop].clone()
        chunks.append(dcp.metadata.ChunkStorageMetadata(offset, part.shape))
        name = f"__{process + 1}_0.distcp"
        torch.save(part, folder / name)
        size = (folder / name).stat().st_size
        metadata.storage_data[dcp.metadata.MetadataIndex("conv.weight", offset)] = (
            dcp.filesystem._StorageInfo(name, 0, size)
        )
    metadata.state_dict_metadata["conv.weight"].chunks = chunks
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    assert same(load_checkpoint(folder).state_dict, weights)

    metadata.state_dict_metadata["conv.weight"].chunks = chunks[:1]
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(InputError, match=r"parts of conv\.weight are missing"):
        load_checkpoint(folder)


_TWO_PROCESSES = """
import sys, torch, torch.distributed as dist, torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}.rendezvous", rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2,))
weights = torch.load(folder + ".pth")
rows = lambda value: distribute_tensor(value, mesh, [Shard(0)]) if value.ndim else value
sharded = {name: rows(value) for name, value in weights.items()}
dcp.save({"model": {f"module.{name}": value for name, value in sharded.items()}}, checkpoint_id=folder)
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_parts_of_two_real_processes_are_put_together(tmp_path: Path) -> None:
    weights = small_weights()
    torch.save(weights, tmp_path / "c.pth")
    command = [sys.executable, "-W", "ignore", "-c", _TWO_PROCESSES]
    processes = [subprocess.Popen([*command, str(rank), str(tmp_path / "c")]) for rank in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    assert len(list((tmp_path / "c").glob("*.distcp"))) == 2
    loaded = load_checkpoint(tmp_path / "c")
    assert same(loaded.state_dict, weights)
    assert loaded.stripped == ("module.",)
    next((tmp_path / "c").glob("__1_*.distcp")).unlink()
    with pytest.raises(InputError, match="missing or cut off"):
        load_checkpoint(tmp_path / "c")


# -- bad input -----------------------------------------------------------------------------------------


def test_metadata_that_wants_to_run_code_runs_none(folder: Path, tmp_path: Path) -> None:
    marker = tmp_path / "it-ran"
    (folder / ".metadata").write_bytes(pickle.dumps(Marker(marker)))
    with pytest.raises(InputError, match=r"posix\.system") as error:
        load_checkpoint(folder)
    assert not marker.exists()
    assert error.value.where == str(folder / ".metadata")
    with pytest.raises(InputError):
        load_checkpoint(folder, trust_pickle=True)
    assert not marker.exists()  # no such folder needs code
    pickle.loads((folder / ".metadata").read_bytes())
    assert marker.exists()  # or the test could not fail
    (folder / ".metadata").write_bytes(pickle.dumps({"epoch": 3}))
    with pytest.raises(InputError, match="not the metadata"):
        load_checkpoint(folder)


def test_an_entry_that_wants_to_run_code_runs_none(tmp_path: Path) -> None:
    marker = tmp_path / "it-ran"
    folder = save(tmp_path / "c", {"model": small_weights(), "epoch": Marker(marker)})
    loaded = load_checkpoint(folder)
    assert not marker.exists()
    assert loaded.epoch is None


@pytest.mark.parametrize("part", [".metadata", "__0_0.distcp"])
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_a_cut_off_folder(folder: Path, part: str, kept: float) -> None:
    data = (folder / part).read_bytes()
    (folder / part).write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(InputError) as error:
        load_checkpoint(folder)
    assert str(folder) in str(error.value.where)
    assert error.value.hint


def test_an_optimizer_alone(tmp_path: Path) -> None:
    folder = save(
        tmp_path / "c", {"optimizer": {"state": {"w": torch.ones(3)}, "param_groups": [{"lr": 0.1}]}}
    )
    with pytest.raises(InputError, match="optimizer"):
        load_checkpoint(folder)

"""Bases: what is read off the channels, from where a saved one is read, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from concept_monitor_cli.bases import Basis, fit_basis
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.options import BasisSpec, basis_name, split_name


def spec(text: str) -> BasisSpec:
    found = BasisSpec.parse(text)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("text", "name"),
    [("random:32", "random32"), ("random:32:7", "random32s7"), ("pca:8", "pca8"), ("nmf:20", "nmf20")],
)
def test_a_basis_has_a_name_of_its_own(text: str, name: str) -> None:
    assert spec(text).name == name
    assert split_name(basis_name("layer4.1", spec(text))) == ("layer4.1", name)


def test_channels_are_no_basis_of_their_own() -> None:
    assert BasisSpec.parse("channels") is None
    assert split_name("layer4") == ("layer4", "channels")


@pytest.mark.parametrize(
    "text", ["", "pca", "pca:0", "pca:-1", "nmf:x", "random:8:x", "saved:", "channel", "ica:3"]
)
def test_what_is_no_basis_is_refused_with_the_forms(text: str) -> None:
    with pytest.raises(InputError, match="no basis") as caught:
        BasisSpec.parse(text)
    assert "pca:R" in str(caught.value.hint)


def test_random_directions_do_not_depend_on_how_many_are_drawn() -> None:
    few, many = fit_basis(spec("random:3"), 16), fit_basis(spec("random:8"), 16)
    assert np.array_equal(few.matrix, many.matrix[:, :3])
    assert np.allclose(np.linalg.norm(many.matrix, axis=0), 1, atol=1e-6)
    assert not np.array_equal(few.matrix, fit_basis(spec("random:3:1"), 16).matrix)


def test_maps_and_vectors_are_encoded_alike() -> None:
    basis = fit_basis(spec("random:5"), 6)
    values = torch.randn(4, 3, 2, 6)
    encoded = basis.encode(values)
    assert encoded.shape == (4, 3, 2, 5)
    assert torch.allclose(encoded[1, 2, 1], basis.encode(values[1, 2, 1]), atol=1e-6)


def test_nonnegative_coefficients_of_an_image_do_not_depend_on_the_others() -> None:
    activations = torch.rand(30, 6, generator=torch.Generator().manual_seed(0))
    basis = fit_basis(spec("nmf:3"), 6, activations)
    assert basis.encoding == "nonnegative"
    together = basis.encode(activations)
    assert torch.equal(together[7:8], basis.encode(activations[7:8]))
    assert bool((together >= 0).all())


def test_negative_activations_have_no_factors() -> None:
    with pytest.raises(InputError, match="negative") as caught:
        fit_basis(spec("nmf:2"), 4, torch.randn(10, 4), where="layer4")
    assert "pca" in str(caught.value.hint)


def test_more_members_than_there_is_room_for_are_refused() -> None:
    with pytest.raises(InputError, match="5 members of 4 channels"):
        fit_basis(spec("pca:5"), 4, torch.randn(10, 4))


def test_a_saved_matrix_is_read_whichever_way_round_it_lies(tmp_path: Path) -> None:
    matrix = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    np.save(tmp_path / "a.npy", matrix)
    np.savez(tmp_path / "b.npz", directions=matrix.T)
    save_file({"encoder.weight": torch.from_numpy(matrix.T.copy())}, tmp_path / "c.safetensors")
    for name in ("a.npy", "b.npz", "c.safetensors"):
        basis = fit_basis(spec(f"saved:{tmp_path / name}"), 6)
        assert np.array_equal(basis.matrix, matrix), name
        assert basis.encoding == "linear"


def test_the_encoder_of_a_sparse_autoencoder_is_rectified_and_centred(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    W, b, c = (rng.normal(size=shape).astype(np.float32) for shape in ((6, 12), (12,), (6,)))
    save_file(
        {k: torch.from_numpy(v) for k, v in (("W_enc", W), ("b_enc", b), ("b_dec", c))},
        tmp_path / "s.safetensors",
    )
    values = rng.normal(size=(5, 6)).astype(np.float32)
    found = fit_basis(spec(f"saved:{tmp_path / 's.safetensors'}"), 6).encode(torch.from_numpy(values))
    assert np.allclose(found.numpy(), np.maximum((values - c) @ W + b, 0), atol=1e-5)


@pytest.mark.parametrize("damage", ["missing", "text", "other channels", "no name", "not finite"])
def test_a_saved_file_that_is_no_basis_is_refused(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "basis.npz"
    arrays = {"matrix": np.ones((6, 2), dtype=np.float32)}
    if damage == "other channels":
        arrays["matrix"] = np.ones((7, 2), dtype=np.float32)
    if damage == "no name":
        arrays = {"x": np.ones((6, 2)), "y": np.ones((6, 2))}
    if damage == "not finite":
        arrays["matrix"][0, 0] = np.nan
    if damage == "text":
        file.write_text("matrix")
    elif damage != "missing":
        np.savez(file, **arrays)
    with pytest.raises(InputError):
        fit_basis(spec(f"saved:{file}"), 6)


def test_equal_content_has_an_equal_digest_and_comes_back_whole() -> None:
    basis = fit_basis(spec("pca:2"), 4, torch.randn(10, 4, generator=torch.Generator().manual_seed(3)))
    again = Basis.from_arrays(basis.to_arrays())
    assert again.digest == basis.digest
    assert Basis.of(basis.matrix * 2).digest != Basis.of(basis.matrix).digest

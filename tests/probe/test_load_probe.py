"""Probing sets without masks: folders, arrays, CIFAR."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import tarfile
import zipfile

import h5py
import numpy as np
import pytest
from natural_order import load_probe
from PIL import Image
from probe_help import Told, picture, png, save

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.probe.files import natural_key


def _folder(tmp_path, names):
    for number, name in enumerate(names):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(picture(seed=number)))
    return tmp_path


# -- folders -------------------------------------------------------------------------------------------------


def test_a_folder_in_natural_order_without_hidden_files(tmp_path):
    names = [
        "b/2.png",
        "b/10.png",
        "a.png",
        "img10.png",
        "img9.PNG",
        ".hidden.png",
        ".cache/x.png",
        "B2/1.jpeg",
    ]
    folder = _folder(tmp_path, names)
    (folder / "labels.csv").write_text("x")
    probe = load_probe(str(folder))
    assert probe.ids == ("a.png", "b/2.png", "b/10.png", "B2/1.jpeg", "img9.PNG", "img10.png")
    assert probe.name == tmp_path.name
    assert (probe.concepts, probe.annotations, probe.has_masks, probe.skipped) == (None, None, False, ())
    np.testing.assert_array_equal(np.asarray(probe.image(0)), picture(seed=2))


@pytest.mark.parametrize("name", ["x²", "٣.png", "1" * 200, "", "a//b", "00012", "é"])
def test_any_name_can_be_sorted(name):
    assert sorted([name, "a1"], key=natural_key)


def test_digests_are_of_the_content_in_order(tmp_path):
    folder = _folder(tmp_path, ["1.png", "2.png"])
    probe = load_probe(str(folder))
    assert probe.digests == tuple(
        hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in probe.ids
    )
    (folder / "1.png").rename(folder / "0.png")
    renamed = load_probe(str(folder))
    assert renamed.digest == probe.digest
    (folder / "0.png").rename(folder / "3.png")
    assert load_probe(str(folder)).digest != probe.digest


def test_limit_draws_with_a_seed_and_keeps_the_order(tmp_path):
    folder = _folder(tmp_path, [f"{number}.png" for number in range(40)])
    everything = load_probe(str(folder))
    some = load_probe(str(folder), limit=10, seed=3)
    assert len(some) == 10
    assert some.ids == load_probe(str(folder), limit=10, seed=3).ids
    assert list(some.ids) == [name for name in everything.ids if name in some.ids]
    assert some.ids != load_probe(str(folder), limit=10, seed=4).ids
    assert some.ids != everything.ids[:10]
    assert load_probe(str(folder), limit=400).ids == everything.ids


def test_empty_and_unopenable_files_are_named_and_skipped(tmp_path):
    folder = _folder(tmp_path, ["1.png", "2.png"])
    (folder / "3.png").touch()
    told = Told()
    probe = load_probe(str(folder), progress=told)
    assert probe.ids == ("1.png", "2.png")
    assert [(each.id, each.reason) for each in probe.skipped] == [("3.png", "empty file")]
    assert "1 image left out" in told.warnings[0]


def test_symbolic_links_are_followed_and_circles_end(tmp_path):
    folder = _folder(tmp_path / "set", ["a/1.png"])
    _folder(tmp_path / "elsewhere", ["2.png"])
    (folder / "a" / "circle").symlink_to(folder)
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "one.png").symlink_to(tmp_path / "elsewhere" / "2.png")
    (folder / "dangling.png").symlink_to(tmp_path / "nothing")
    assert load_probe(str(folder)).ids == ("a/1.png", "link/2.png", "one.png")


@pytest.mark.parametrize(
    "name", ["two\nlines.png", "<script>.png", 'quote".png', "日本.png", os.fsdecode(b"\xff.png")]
)
def test_odd_names(tmp_path, name):
    probe = load_probe(str(_folder(tmp_path, [name])))
    assert probe.ids == (name,)
    assert probe.image(0).size == (20, 16)


def test_nothing_to_probe_with(tmp_path):
    (tmp_path / "readme.txt").touch()
    for spec, message in [
        (tmp_path, "no images in the folder"),
        (tmp_path / "missing", "no such probing set"),
        (tmp_path / "readme.txt", "not a probing set"),
    ]:
        with pytest.raises(InputError, match=message):
            load_probe(str(spec))
    (tmp_path / "a.png").touch()
    with pytest.raises(InputError, match="no image can be read"):
        load_probe(str(tmp_path))
    with pytest.raises(InputError, match="0 probing images"):
        load_probe(str(tmp_path), limit=0)


def test_an_image_that_went_away_is_an_input_error(tmp_path):
    probe = load_probe(str(_folder(tmp_path, ["1.png"])))
    (tmp_path / "1.png").unlink()
    with pytest.raises(InputError, match="cannot be read"):
        probe.image(0)


def test_real_photos(imagenet_samples):
    probe = load_probe(str(imagenet_samples))
    assert len(probe) == len(set(probe.digests)) == 1000
    assert probe.ids[0] == "n01440764_tench.jpg"


# -- arrays --------------------------------------------------------------------------------------------------

IMAGES = np.stack([picture(seed=seed) for seed in range(5)])


def _npz(path, compressed, **arrays):
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    return path


def _h5(path, **arrays):
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return path


@pytest.fixture(params=["npz", "npz compressed", "h5"])
def write_arrays(request, tmp_path):
    if request.param == "h5":
        return lambda **arrays: _h5(tmp_path / "set.h5", **arrays)
    return lambda **arrays: _npz(tmp_path / "set.npz", "compressed" in request.param, **arrays)


def test_arrays(write_arrays):
    path = write_arrays(images=IMAGES, labels=np.arange(5))
    probe = load_probe(str(path))
    assert (probe.name, probe.ids) == ("set", ("00000", "00001", "00002", "00003", "00004"))
    for index in (4, 0, 2, 2):  # in any order
        np.testing.assert_array_equal(np.asarray(probe.image(index)), IMAGES[index])


def test_the_content_counts_and_not_the_kind_of_file(tmp_path):
    stored = _npz(tmp_path / "a.npz", False, x=IMAGES)
    packed = _npz(tmp_path / "b.npz", True, y=IMAGES)
    hdf5 = _h5(tmp_path / "c.h5", z=IMAGES)
    digests = {load_probe(str(path)).digest for path in (stored, packed, hdf5)}
    assert len(digests) == 1


def test_grey_arrays(write_arrays):
    path = write_arrays(a=IMAGES[..., 0], b=IMAGES[..., :1])
    three, four = load_probe(f"{path}:a"), load_probe(f"{path}:b")
    assert three.digests == four.digests
    np.testing.assert_array_equal(np.asarray(three.image(1)), np.repeat(IMAGES[1][..., :1], 3, axis=2))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (IMAGES.astype(np.float32), "float32"),
        (IMAGES.transpose(0, 3, 1, 2), "not uint8 images"),
        (IMAGES[0, 0], "not uint8 images"),
        (IMAGES[:0], "holds no images"),
        (np.zeros((0, 4, 4), np.uint8), "holds no images"),
    ],
)
def test_arrays_that_are_no_images(write_arrays, array, message):
    with pytest.raises(InputError, match=message):
        load_probe(str(write_arrays(images=array)))


def test_which_array(write_arrays):
    path = write_arrays(first=IMAGES, second=IMAGES[:2])
    with pytest.raises(InputError, match="several arrays") as caught:
        load_probe(str(path))
    assert f"{path.name}:first" in str(caught.value.hint)
    assert len(load_probe(f"{path}:second")) == 2
    with pytest.raises(InputError, match="no array 'third'"):
        load_probe(f"{path}:third")


def test_pickles_in_npz_are_not_touched(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "ran"),))

    path = _npz(tmp_path / "x.npz", False, images=np.array([Bomb()], dtype=object))
    with pytest.raises(InputError):
        load_probe(str(path))
    assert not (tmp_path / "ran").exists()


def test_array_files_that_are_damaged(tmp_path):
    path = _npz(tmp_path / "x.npz", True, images=IMAGES)
    data = path.read_bytes()
    for broken in (b"", b"PK", data[: len(data) // 2], b"\0" * 500):
        path.write_bytes(broken)
        with pytest.raises(InputError):
            load_probe(str(path))
    path = _h5(tmp_path / "x.h5", images=IMAGES)
    for broken in (b"", b"\x89HDF\r\n\x1a\n", path.read_bytes()[:700]):
        path.write_bytes(broken)
        with pytest.raises(InputError):
            load_probe(str(path))


def test_an_npz_that_promises_more_than_it_holds(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (10**9, 1000, 1000, 3)}
    )
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("images.npy", header.getvalue() + bytes(100))
    with pytest.raises(InputError, match="cut off"):
        load_probe(str(tmp_path / "x.npz"))


def test_hdf5_links_to_other_files_are_not_followed(tmp_path):
    _h5(tmp_path / "secret.h5", images=IMAGES)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["images"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "/images")
    with pytest.raises(InputError):
        load_probe(str(tmp_path / "x.h5"))
    (tmp_path / "raw").write_bytes(IMAGES.tobytes())
    with h5py.File(tmp_path / "y.h5", "w") as file:
        file.create_dataset(
            "images", IMAGES.shape, "u1", external=[(str(tmp_path / "raw"), 0, IMAGES.nbytes)]
        )
    with pytest.raises(InputError, match="other files"):
        load_probe(str(tmp_path / "y.h5"))


def test_hdf5_that_promises_more_than_it_holds(tmp_path):
    for name, more in (("plain", {}), ("packed", {"chunks": (1, 100, 100, 3), "compression": "gzip"})):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file.create_dataset("images", (10**9, 1000, 1000, 3), "u1", **more)
        assert (tmp_path / f"{name}.h5").stat().st_size < 10_000
        with pytest.raises(InputError, match="never written"):
            load_probe(str(tmp_path / f"{name}.h5"))


@pytest.mark.parametrize("name", ["x.h5", "x.npz"])
def test_an_array_of_image_bombs(tmp_path, monkeypatch, name):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", IMAGES.shape[1] * IMAGES.shape[2] - 1)
    _h5(tmp_path / "x.h5", images=IMAGES)
    np.savez(tmp_path / "x.npz", images=IMAGES)
    with pytest.raises(InputError, match="safety limit"):
        load_probe(str(tmp_path / name))


def test_real_medical_images(shared_data):
    probe = load_probe(f"{shared_data / 'pneumoniamnist.npz'}:test_images", limit=50)
    assert len(probe) == 50
    assert probe.image(0).size == (28, 28)


# -- CIFAR ---------------------------------------------------------------------------------------------------


def _cifar_arrays(classes):
    generator = np.random.default_rng(classes)
    batches = 5 if classes == 10 else 1
    return [generator.integers(0, 256, (4, 3072), dtype=np.uint8) for _ in range(batches + 1)]


def _cifar_names(classes, kind):
    names = [f"data_batch_{n}" for n in range(1, 6)] + ["test_batch"] if classes == 10 else ["train", "test"]
    return [name + (".bin" if kind == "binary" else "") for name in names]


def _write_cifar(folder, classes, kind, protocol=2):
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in zip(_cifar_names(classes, kind), _cifar_arrays(classes), strict=True):
        if kind == "binary":
            labels = np.ones((4, 1 if classes == 10 else 2), dtype=np.uint8)
            (folder / name).write_bytes(np.hstack([labels, data]).tobytes())
        else:
            batch = {b"data": data, b"labels": [1, 2, 3, 4], b"filenames": [b"x"] * 4, b"batch_label": b"y"}
            (folder / name).write_bytes(pickle.dumps(batch, protocol))
    return folder


@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize(("kind", "protocol"), [("python", 2), ("python", 4), ("binary", 0)])
def test_cifar_as_handed_out(tmp_path, classes, kind, protocol):
    inner = {10: "cifar-10-batches-", 100: "cifar-100-"}[classes] + {"python": "python", "binary": "binary"}[
        kind
    ]
    inner = inner.replace("batches-python", "batches-py").replace("batches-binary", "batches-bin")
    _write_cifar(tmp_path / inner, classes, kind, protocol)
    *train, test = _cifar_arrays(classes)
    for spec in (f"cifar{classes}:{tmp_path}", f"cifar{classes}:{tmp_path / inner}"):
        probe = load_probe(spec)
        assert probe.name == f"cifar{classes}-train"
        assert len(probe) == 4 * len(train)
        assert probe.ids[3] == "train/00003"
        expected = train[-1][2].reshape(3, 32, 32).transpose(1, 2, 0)
        np.testing.assert_array_equal(np.asarray(probe.image(len(probe) - 2)), expected)
        held_out = load_probe(f"{spec}/test")
        assert (held_out.name, len(held_out)) == (f"cifar{classes}-test", 4)
        np.testing.assert_array_equal(
            np.asarray(held_out.image(0)), test[0].reshape(3, 32, 32).transpose(1, 2, 0)
        )


def test_both_versions_of_cifar_have_one_digest(tmp_path):
    specs = [_write_cifar(tmp_path / kind, 10, kind) for kind in ("python", "binary")]
    assert len({load_probe(f"cifar10:{spec}").digest for spec in specs}) == 1


def test_cifar_pickled_by_python_2(tmp_path):
    """The form that is really handed out: protocol 2, byte strings, old NumPy."""
    data = _cifar_arrays(100)[0]
    raw = data.tobytes()
    pickled = (
        b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85"
        b"U\x01b\x87Rq\x05(K\x01K\x04M\x00\x0c\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87Rq\x07(K\x03U\x01|NNN"
        b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T" + len(raw).to_bytes(4, "little") + raw + b"tbu."
    )
    for name in ("train", "test"):
        (tmp_path / name).write_bytes(pickled)
    probe = load_probe(f"cifar100:{tmp_path}")
    np.testing.assert_array_equal(np.asarray(probe.image(3)), data[3].reshape(3, 32, 32).transpose(1, 2, 0))


def _bomb(target):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(target),))

    return Bomb()


def test_a_cifar_pickle_runs_no_code(tmp_path):
    folder = _write_cifar(tmp_path, 100, "python")
    hostile = [
        pickle.dumps({b"data": _bomb(tmp_path / "ran")}),
        pickle.dumps({b"data": np.array([_bomb(tmp_path / "ran")], dtype=object)}),
        b"cos\nsystem\n(S'mkdir ran'\ntR.",
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"\x80\x04" + b"(" * 5000 + b"t." * 10,
        pickle.dumps([1, 2]),
        pickle.dumps({b"data": np.zeros((2, 3072), np.float32)}),
        pickle.dumps({b"data": np.zeros((2, 3000), np.uint8)}),
        pickle.dumps({b"data": np.zeros((0, 3072), np.uint8)}),
        b"",
        b"\x80",
        b"\x80\x02]r\xff\xff\xff\x7f.",  # a memory slot far out: gigabytes, in C
        b"\x80\x05\x96" + (1 << 36).to_bytes(8, "little") + b"x.",  # a buffer of 64 GB
        b"\x80\x02)q\x00" + b"h\x00h\x00\x86q\x00" * 60 + b"}q\x01h\x00K\x01s.",  # hashed for ages
        b"\x80\x02c_codecs\nencode\n}U\x01aK\x01sb.",
        b"\x80\x02cnumpy\nndarray\n)\x81.",
    ]
    for data in hostile:
        (folder / "train").write_bytes(data)
        with pytest.raises(InputError, match="not a CIFAR batch file"):
            load_probe(f"cifar100:{folder}")
    assert not (tmp_path / "ran").exists()


def test_a_binary_cifar_that_is_cut_off(tmp_path):
    folder = _write_cifar(tmp_path, 100, "binary")
    (folder / "train.bin").write_bytes((folder / "train.bin").read_bytes()[:-1])
    with pytest.raises(InputError, match="no whole number"):
        load_probe(f"cifar100:{folder}")


def test_cifar_as_a_tree_of_files(tmp_path):
    for split in ("train", "test"):
        for name in ("cat/1.png", "dog/1.png"):
            save(tmp_path / split / name, picture(32, 32, len(split)))
    assert load_probe(f"cifar10:{tmp_path}").ids == ("cat/1.png", "dog/1.png")
    assert load_probe(f"cifar10:{tmp_path}").name == "cifar10-train"
    held_out = load_probe(f"cifar10:{tmp_path}/test")
    assert (held_out.name, held_out.ids) == ("cifar10-test", ("cat/1.png", "dog/1.png"))
    assert held_out.concepts is None
    assert load_probe(f"cifar10:{tmp_path / 'test'}").digest == held_out.digest
    with pytest.raises(InputError, match="no CIFAR-10 train images"):
        load_probe(f"cifar10:{tmp_path / 'missing'}")


def test_real_cifar_photos(shared_data, tmp_path):
    with tarfile.open(shared_data / "cifar10_images.tar.xz") as tar:
        members = []
        for member in tar:
            if member.isfile() and member.name.startswith("test/"):
                members.append(member)
            if len(members) == 30:
                break
        tar.extractall(tmp_path, members=members, filter="data")
    probe = load_probe(f"cifar10:{tmp_path}/test")
    assert len(probe) == 30
    assert probe.image(0).size == (32, 32)

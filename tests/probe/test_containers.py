"""Images in the files in which data sets are handed out."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import tarfile
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
import scipy.io
from natural_order import load_probe
from PIL import Image
from probe_help import Told, picture, png, save

from concept_monitor_cli.errors import InputError

IMAGES = np.stack([picture(32, 32, seed) for seed in range(6)])


def _jpeg(seed):
    stream = io.BytesIO()
    Image.fromarray(picture(seed=seed)).save(stream, "JPEG")
    return stream.getvalue()


FILES = {f"{number}.jpg": _jpeg(number) for number in (10, 9, 2)}


def _idx(images, head=b"\0\0\x08\x03"):
    return head + struct.pack(">III", *images.shape) + images.tobytes()


def _load(path):
    told = Told()
    return load_probe(str(path), progress=told), told


def _pixels(probe):
    return np.stack([np.asarray(probe.image(index)) for index in range(len(probe))])


# -- arrays --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("place", ["", "raw", "MNIST/raw"])
def test_mnist(tmp_path, place, packed):
    folder = tmp_path / place
    folder.mkdir(parents=True, exist_ok=True)
    greys = IMAGES[..., 0]
    for name, images in (("t10k", greys[:2]), ("train", greys)):
        data = _idx(images)
        if packed:
            (folder / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(data))
        else:
            (folder / f"{name}-images-idx3-ubyte").write_bytes(data)
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\1\0")
    probe, told = _load(tmp_path)
    np.testing.assert_array_equal(_pixels(probe)[..., 1], greys)
    assert "t10k" in told.notices[0]
    (test,) = folder.glob("t10k-images*")
    assert len(_load(test)[0]) == 2


def test_emnist_is_turned_upright(tmp_path):
    path = tmp_path / "emnist-letters-train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(_idx(IMAGES[..., 0].transpose(0, 2, 1))))
    np.testing.assert_array_equal(_pixels(_load(path)[0])[..., 0], IMAGES[..., 0])


@pytest.mark.parametrize("above", [False, True])
def test_stl10(tmp_path, above):
    images = np.stack([picture(96, 96, seed) for seed in range(3)])
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    images.transpose(0, 3, 2, 1).tofile(folder / "train_X.bin")
    (folder / "class_names.txt").write_text("airplane\n")
    np.testing.assert_array_equal(_pixels(_load(tmp_path if above else folder)[0]), images)


def test_svhn(tmp_path):
    scipy.io.savemat(tmp_path / "train_32x32.mat", {"X": IMAGES.transpose(1, 2, 3, 0), "y": [[1]]})
    for spec in (tmp_path, tmp_path / "train_32x32.mat"):
        np.testing.assert_array_equal(_pixels(_load(spec)[0]), IMAGES)
    scipy.io.savemat(tmp_path / "other.mat", {"Y": IMAGES})
    with pytest.raises(InputError, match="no array X"):
        load_probe(str(tmp_path / "other.mat"))
    (tmp_path / "new.mat").write_bytes(b"MATLAB 7.3 MAT-file" + b" " * 200)
    with pytest.raises(InputError, match=r"MATLAB 7\.3"):
        load_probe(str(tmp_path / "new.mat"))


def test_npy(tmp_path):
    np.save(tmp_path / "x.npy", IMAGES)
    np.testing.assert_array_equal(_pixels(_load(tmp_path / "x.npy")[0]), IMAGES)
    np.save(tmp_path / "by_column.npy", np.asfortranarray(IMAGES))
    np.testing.assert_array_equal(_pixels(_load(tmp_path / "by_column.npy")[0]), IMAGES)
    for array, message in ((IMAGES / 255, "not uint8"), (IMAGES.transpose(0, 3, 1, 2), "not uint8 images")):
        np.save(tmp_path / "other.npy", array)
        with pytest.raises(InputError, match=message) as error:
            load_probe(str(tmp_path / "other.npy"))
        assert "convert it first" in error.value.hint
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"not a readable \.npy"):
        load_probe(str(tmp_path / "objects.npy"))


@pytest.mark.parametrize("above", [False, True])
def test_cifar_without_its_prefix(tmp_path, above):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    rows = IMAGES.transpose(0, 3, 1, 2).reshape(6, -1)
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        (folder / name).write_bytes(pickle.dumps({b"data": rows}, 2))
    spec = tmp_path if above else folder
    probe, told = _load(spec)
    assert probe.digest == load_probe(f"cifar10:{spec}").digest
    assert "is taken for cifar10:" in told.notices[0]


# -- archives ------------------------------------------------------------------------------------------------


def _zip(path, files=FILES, **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def _tar(path, files=FILES, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


MORE = {
    **FILES,
    "__MACOSX/._2.jpg": b"x",
    "._9.jpg": b"x",
    "labels.json": b"{}",
    "sub/4.png": png(picture(seed=4)),
}


@pytest.mark.parametrize("above", [False, True])
@pytest.mark.parametrize(
    "name", ["a.zip", "packed.zip", "a.tar", "a.tar.gz", "a.tgz", "a.tar.bz2", "a.tar.xz"]
)
def test_archives(tmp_path, name, above):
    path = tmp_path / name
    if name.endswith(".zip"):
        _zip(path, MORE, **({"compression": zipfile.ZIP_DEFLATED} if "packed" in name else {}))
    else:
        _tar(
            path,
            MORE,
            {"tar": "w", "gz": "w:gz", "tgz": "w:gz", "bz2": "w:bz2", "xz": "w:xz"}[name.split(".")[-1]],
        )
    probe, told = _load(tmp_path if above else path)
    assert probe.ids == ("2.jpg", "9.jpg", "10.jpg", "sub/4.png")
    assert told.warnings == []
    np.testing.assert_array_equal(np.asarray(probe.image(3)), picture(seed=4))
    assert [probe.source.read(row) for row in (2, 0, 1)] == [FILES["10.jpg"], FILES["2.jpg"], FILES["9.jpg"]]


def test_an_archive_and_its_folder_have_one_digest(tmp_path):
    for name, data in FILES.items():
        (tmp_path / "photos").mkdir(exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(data)
    digests = {_load(path)[0].digest for path in (_zip(tmp_path / "a.zip"), _tar(tmp_path / "a.tar"))}
    assert digests == {_load(tmp_path / "photos")[0].digest}


def test_webdataset_shards(tmp_path):
    for shard in range(2):
        _tar(tmp_path / f"shard-{shard:06d}.tar", {**FILES, "2.cls": b"1"})
    for spec in (tmp_path, tmp_path / "shard-*.tar"):
        probe, _ = _load(spec)
        assert len(set(probe.ids)) == 6
        assert probe.ids[0] == "shard-000000.tar/2.jpg"


def test_archives_that_are_not_read(tmp_path):
    with pytest.raises(InputError, match="no images in the file") as error:
        load_probe(str(_zip(tmp_path / "outer.zip", {"inner.zip": _zip(tmp_path / "in.zip").read_bytes()})))
    assert "unpack the outer file" in error.value.hint
    with pytest.raises(InputError, match="no images in the file") as error:
        load_probe(str(_zip(tmp_path / "heic.zip", {"a.HEIC": b"x"})))
    assert "a.HEIC, which is not read" in error.value.hint
    for name, data in (
        ("a.zip", b"PK\3\4"),
        ("a.tar", b"x" * 600),
        ("a.tar.gz", b"\x1f\x8b"),
        ("b.tar", b""),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=r"not a readable file of images|no images"):
            load_probe(str(tmp_path / name))
    cut = _tar(tmp_path / "cut.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(cut[:1500])
    with pytest.raises(InputError):
        load_probe(str(tmp_path / "cut.tar"))


def test_nothing_is_written_where_an_archive_says(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    files = {"../../out.jpg": _jpeg(1), "/tmp/out.jpg": _jpeg(2)}
    assert len(_load(_zip(inside / "a.zip", files))[0]) == 2
    assert len(_load(_tar(inside / "a.tar.gz", files, "w:gz"))[0]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["inside"]


def test_links_in_a_tar_are_no_images(tmp_path):
    secret = save(tmp_path / "secret.png", picture())
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        member = tarfile.TarInfo("link.png")
        member.type, member.linkname = tarfile.SYMTYPE, str(secret)
        archive.addfile(member)
    with pytest.raises(InputError, match="no images"):
        load_probe(str(tmp_path / "a.tar"))


def test_masks_in_an_archive_are_not_probed(tmp_path):
    flat = np.zeros((32, 32), np.uint8)
    flat[:16] = 1
    files = {f"images/{k}.jpg": _jpeg(k) for k in range(3)} | {f"masks/{k}.png": png(flat) for k in range(3)}
    probe, told = _load(_zip(tmp_path / "a.zip", files))
    assert probe.ids == ("images/0.jpg", "images/1.jpg", "images/2.jpg")
    assert "3 files are not probed" in told.warnings[0]
    assert "unpack it" in probe.masks_problem.hint


# -- tables --------------------------------------------------------------------------------------------------


def _table(count=4):
    images = [{"bytes": _jpeg(k), "path": f"{k}.jpg"} for k in range(count)]
    return pa.table({"image": images, "label": list(range(count))})


def _arrow(path, table):
    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return path


def test_parquet_of_hugging_face(tmp_path):
    (tmp_path / "data").mkdir()
    for split in ("train", "test"):
        pq.write_table(_table(), tmp_path / "data" / f"{split}-00000-of-00001.parquet", row_group_size=2)
    probe, told = _load(tmp_path)
    assert probe.ids == ("000000-0.jpg", "000001-1.jpg", "000002-2.jpg", "000003-3.jpg")
    assert probe.source.read(2) == _jpeg(2)
    assert "also there: test-00000-of-00001.parquet" in told.notices[0]
    assert len(_load(tmp_path / "data" / "test-00000-of-00001.parquet")[0]) == 4


def test_tables_with_bytes_alone_or_paths_alone(tmp_path):
    pq.write_table(pa.table({"img": [_jpeg(1), _jpeg(2), None]}), tmp_path / "bytes.parquet")
    assert len(_load(tmp_path / "bytes.parquet")[0]) == 2
    paths = pa.table({"image": [{"bytes": None, "path": "a.jpg"}]}, schema=_table().select(["image"]).schema)
    pq.write_table(paths, tmp_path / "paths.parquet")
    with pytest.raises(InputError, match="paths of images, not the images"):
        load_probe(str(tmp_path / "paths.parquet"))
    pq.write_table(pa.table({"x": [1]}), tmp_path / "none.parquet")
    with pytest.raises(InputError, match="no column of images") as error:
        load_probe(str(tmp_path / "none.parquet"))
    assert "it has x" in error.value.hint
    (tmp_path / "bad.parquet").write_bytes(b"PAR1xxxx")
    with pytest.raises(InputError, match="not a readable file of images"):
        load_probe(str(tmp_path / "bad.parquet"))


@pytest.mark.parametrize("split", ["", "train"])
def test_save_to_disk_of_hugging_face(tmp_path, split):
    for name in ("data-00000-of-00002.arrow", "data-00001-of-00002.arrow"):
        _arrow(tmp_path / split / name, _table(3))
    for name in ("dataset_info.json", "state.json"):
        (tmp_path / split / name).write_text("{}")
    probe, _ = _load(tmp_path)
    assert len(set(probe.ids)) == 6
    assert probe.source.read(4) == _jpeg(1)


def test_labels_may_follow_the_seed_of_a_limit(tmp_path):
    pq.write_table(_table(), tmp_path / "a.parquet")
    probe = load_probe(str(tmp_path / "a.parquet"), limit=2)
    assert len(probe) == 2
    assert [probe.source.read(row) for row in probe.rows] == [_jpeg(row) for row in probe.rows]


# -- loose files ---------------------------------------------------------------------------------------------


def test_one_image_and_a_pattern(tmp_path, monkeypatch):
    for name in ("2.jpg", "10.jpg", "x.txt", "sub/3.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(FILES["2.jpg"])
    assert _load(tmp_path / "2.jpg")[0].ids == ("2.jpg",)
    assert _load(tmp_path / "*.jpg")[0].ids == ("2.jpg", "10.jpg")
    assert len(_load(tmp_path / "**" / "*.jpg")[0]) == 3
    monkeypatch.chdir(tmp_path)
    assert load_probe("*.jpg").ids == ("2.jpg", "10.jpg")
    for pattern, message in (("*.gif", "no such files"), ("*.txt", "no images among")):
        with pytest.raises(InputError, match=message):
            load_probe(str(tmp_path / pattern))


def test_a_folder_with_signs_of_patterns_in_its_name(tmp_path):
    folder = tmp_path / "what [1]*?"
    folder.mkdir()
    (folder / "1.jpg").write_bytes(FILES["2.jpg"])
    assert len(_load(folder)[0]) == 1
    assert len(_load(folder / "1.jpg")[0]) == 1


def test_files_without_an_ending(tmp_path):
    for number in range(3):
        (tmp_path / f"{number:06d}").write_bytes(_jpeg(number))
    (tmp_path / "README").write_text("x")
    probe, told = _load(tmp_path)
    assert len(probe) == 3
    assert "3 files without an ending are images" in told.notices[0]
    (tmp_path / "more.jpg").write_bytes(_jpeg(7))
    probe, told = _load(tmp_path)
    assert probe.ids == ("more.jpg",)
    assert "files without an ending are left out" in told.warnings[0]


def test_files_that_look_like_images_are_counted(tmp_path):
    for name in ("1.jpg", "a.HEIC", "b.heif", "c.dng", "notes.txt"):
        (tmp_path / name).write_bytes(_jpeg(1))
    probe, told = _load(tmp_path)
    assert probe.ids == ("1.jpg",)
    assert [each.id for each in probe.skipped] == ["a.HEIC", "b.heif", "c.dng"]
    assert (
        "3 files that look like images are left out, the first: a.HEIC (.heic is not read" in told.warnings[0]
    )


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("a.HEIC", "magick mogrify"),
        ("a.dcm", "16-bit PNG"),
        ("a.tfrecord", "TFRecord"),
        ("a.mp4", "a video"),
        ("data.mdb", "LMDB"),
        ("a.psd", "convert the images"),
        ("a.txt", "an array (.npy, .npz, .h5)"),
    ],
)
def test_advice_for_what_is_not_read(tmp_path, name, advice):
    (tmp_path / name).write_bytes(b"x")
    for spec, message in ((tmp_path, "no images in the folder"), (tmp_path / name, "not a probing set")):
        with pytest.raises(InputError, match=message) as error:
            load_probe(str(spec))
        assert advice in error.value.hint

"""`cmon fetch` against a server on this machine that breaks off, lies, refuses and goes away."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import shutil
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from concept_monitor_cli.cli.app import run
from concept_monitor_cli.errors import CmonError, InputError
from concept_monitor_cli.options import FetchOptions
from concept_monitor_cli.stories import fetch as story
from concept_monitor_cli.stories.downloading import download
from concept_monitor_cli.stories.fetch import PUBLISHED, Archive, fetch


@dataclass
class Publisher:
    """A server with files.

    Attributes:
        files: by path.
        breaks_after: the connection ends after so many bytes of an answer.
        ranges: whether it can send the rest of a file.
        says_length: whether it says how long a file is.
        asked: the `Range` of every request.
    """

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    breaks_after: int | None = None
    ranges: bool = True
    says_length: bool = True
    asked: list[str | None] = field(default_factory=list)

    def url(self, name: str) -> str:
        return f"{self.address}/{name}"


@pytest.fixture
def publisher(monkeypatch: pytest.MonkeyPatch) -> Iterator[Publisher]:
    published = Publisher()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            published.asked.append(self.headers.get("Range"))
            content = published.files.get(self.path.removeprefix("/"))
            if content is None:
                self.send_error(404)
                return
            start = 0
            if published.ranges and (wanted := self.headers.get("Range")):
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
                if start >= len(content):
                    self.send_error(416)
                    return
            self.send_response(206 if start else 200)
            if published.says_length:
                self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start:][: published.breaks_after])

        def log_message(self, *_: Any) -> None:
            pass

    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        published.address = f"http://127.0.0.1:{server.server_address[1]}"
        yield published
        server.shutdown()


CONTENT = np.random.default_rng(0).bytes(5000)


def digest(content: bytes, kind: str = "sha256") -> str:
    return f"{kind}:{hashlib.new(kind, content).hexdigest()}"


class Said:
    """A `Progress` that remembers."""

    def __init__(self) -> None:
        self.notices: list[str] = []

    def notice(self, message: str) -> None:
        self.notices.append(message)

    def warning(self, message: str) -> None:
        raise AssertionError(message)

    def detail(self, message: str) -> None:
        pass

    def task(self, *_: Any, **__: Any) -> Any:
        from contextlib import nullcontext

        return nullcontext(lambda n: None)


def get(publisher: Publisher, path: Path, content: bytes = CONTENT, kind: str = "sha256") -> list[str]:
    said = Said()
    download(publisher.url("file.bin"), path, digest(content, kind), said)
    return said.notices


@pytest.mark.parametrize("kind", ["sha256", "sha1", "md5"])
def test_a_whole_file_arrives_and_nothing_else_stays(publisher: Publisher, tmp_path: Path, kind: str) -> None:
    publisher.files["file.bin"] = CONTENT
    path = tmp_path / "new" / "file.bin"
    get(publisher, path, kind=kind)
    assert path.read_bytes() == CONTENT
    assert [each.name for each in path.parent.iterdir()] == ["file.bin"]
    get(publisher, path)
    assert len(publisher.asked) == 1  # what is there is only verified


def test_a_broken_download_goes_on_where_it_ended(publisher: Publisher, tmp_path: Path) -> None:
    publisher.files["file.bin"] = CONTENT
    publisher.breaks_after = 2000
    path = tmp_path / "file.bin"
    with pytest.raises(CmonError, match="broke after 2,000 of 5,000 bytes") as error:
        get(publisher, path)
    assert "the same command goes on" in str(error.value)
    assert not path.exists()
    with pytest.raises(CmonError, match="broke after 4,000 of 5,000 bytes"):
        get(publisher, path)
    assert get(publisher, path) == ["going on after 4,000 bytes"]
    assert publisher.asked == [None, "bytes=2000-", "bytes=4000-"]
    assert path.read_bytes() == CONTENT


def test_a_server_that_cannot_go_on_sends_the_whole(publisher: Publisher, tmp_path: Path) -> None:
    publisher.files["file.bin"] = CONTENT
    publisher.ranges = False
    path = tmp_path / "file.bin"
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:1234])
    assert "sends the whole file" in get(publisher, path)[0]
    assert path.read_bytes() == CONTENT


def test_a_download_that_was_killed_before_its_end_was_verified(publisher: Publisher, tmp_path: Path) -> None:
    publisher.files["file.bin"] = CONTENT
    (tmp_path / "file.bin.part").write_bytes(CONTENT)
    get(publisher, tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("begun", [b"", b"another file's beginning", CONTENT + b"more"])
def test_another_file_is_refused_and_removed(publisher: Publisher, tmp_path: Path, begun: bytes) -> None:
    publisher.files["file.bin"] = CONTENT if begun else CONTENT[:-1] + b"!"
    path = tmp_path / "file.bin"
    if begun:
        (tmp_path / "file.bin.part").write_bytes(begun)
    with pytest.raises(CmonError, match="not the published file") as error:
        get(publisher, path)
    assert "it was removed" in str(error.value)
    assert digest(CONTENT).partition(":")[2] in str(error.value)
    assert list(tmp_path.iterdir()) == []
    if begun:  # the next time it begins anew
        get(publisher, path)
        assert path.read_bytes() == CONTENT


def test_a_file_carried_here_is_its_owners(publisher: Publisher, tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"something else")
    with pytest.raises(CmonError, match="not the published file") as error:
        get(publisher, path)
    assert path.read_bytes() == b"something else"
    assert str(path) in str(error.value)
    assert publisher.asked == []


def test_a_full_disk_is_found_before_the_download(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher.files["file.bin"] = CONTENT
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=4999))
    with pytest.raises(CmonError, match="disk is full") as error:
        get(publisher, tmp_path / "file.bin")
    assert "--to" in str(error.value)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=5000))
    get(publisher, tmp_path / "file.bin")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_disk_that_fills_up_on_the_way(publisher: Publisher, tmp_path: Path) -> None:
    publisher.files["file.bin"] = CONTENT
    publisher.says_length = False
    (tmp_path / "file.bin.part").symlink_to("/dev/full")
    with pytest.raises(CmonError, match="disk is full") as error:
        get(publisher, tmp_path / "file.bin")
    assert isinstance(error.value.__cause__, OSError)
    assert error.value.__cause__.errno == errno.ENOSPC


def test_no_network_and_no_such_file(publisher: Publisher, tmp_path: Path) -> None:
    with pytest.raises(CmonError, match="404") as error:
        get(publisher, tmp_path / "file.bin")
    assert publisher.url("file.bin") in str(error.value)
    for url in ("http://127.0.0.1:9/file.bin", "http://no-such-host.invalid/file.bin"):
        with pytest.raises(CmonError, match="cannot be reached") as error:
            download(url, tmp_path / "file.bin", digest(CONTENT), Said())
        assert url in str(error.value)
        assert "on a machine with network" in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_two_at_once(publisher: Publisher, tmp_path: Path) -> None:
    publisher.files["file.bin"] = CONTENT
    with FileLock(tmp_path / "file.bin.lock"), pytest.raises(CmonError, match="another process"):
        get(publisher, tmp_path / "file.bin")
    get(publisher, tmp_path / "file.bin")


# -- what is published -----------------------------------------------------------------------------------


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def png(value: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def publish(publisher: Publisher, monkeypatch: pytest.MonkeyPatch, name: str, contents: list[bytes]) -> None:
    """Put small files under the names of the real ones."""
    archives = []
    for archive, content in zip(PUBLISHED[name].archives, contents, strict=True):
        publisher.files[archive.name] = content
        archives.append(replace(archive, url=publisher.url(archive.name), digest=digest(content)))
    small = replace(PUBLISHED[name], archives=tuple(archives))
    monkeypatch.setattr(story, "PUBLISHED", {**PUBLISHED, name: small})


def coco() -> list[bytes]:
    """Two photos with masks of one thing each, packed as COCO packs them: masks in their own archive."""
    ids = (1, 2)
    segments = [{"id": 1, "category_id": 1, "bbox": [0, 0, 8, 8], "area": 64, "iscrowd": 0}]
    table = {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 8, "width": 8} for i in ids],
        "annotations": [{"image_id": i, "file_name": f"{i}.png", "segments_info": segments} for i in ids],
        "categories": [{"id": 1, "name": "person", "supercategory": "person", "isthing": 1}],
    }
    mask = np.zeros((8, 8, 3), np.uint8)
    mask[..., 0] = 1
    masks = zipped(
        {**{f"panoptic_val2017/{i}.png": png(mask) for i in ids}, "__MACOSX/panoptic_val2017/._1.png": b"x"}
    )
    annotations = {
        "annotations/panoptic_val2017.json": json.dumps(table).encode(),
        "annotations/panoptic_val2017.zip": masks,
        "annotations/panoptic_train2017.json": b"{}",
    }
    rng = np.random.default_rng(0)
    return [
        zipped(annotations),
        zipped({f"val2017/{i}.png": png(rng.integers(0, 255, (8, 8, 3))) for i in ids}),
    ]


def test_coco_is_a_probing_set_afterwards(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from concept_monitor_cli.probe.load import load_probe

    publish(publisher, monkeypatch, "coco-panoptic", coco())
    assert run(["fetch", "coco-panoptic", "--to", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert "CC BY 4.0" in said.err + said.out
    assert "--probe" in said.out
    assert [each.name for each in tmp_path.iterdir()] == ["coco-panoptic"]
    there = sorted(str(each.relative_to(tmp_path / "coco-panoptic")) for each in tmp_path.rglob("*.*"))
    assert there == [
        "annotations/panoptic_val2017.json",
        *(f"annotations/panoptic_val2017/{i}.png" for i in (1, 2)),
        *(f"val2017/{i}.png" for i in (1, 2)),
    ]
    found = load_probe(str(tmp_path / "coco-panoptic"))
    assert len(found) == 2
    assert found.concepts is not None
    assert list(found.concepts.concepts) == ["person"]
    # A second time there is nothing to do.
    asked = len(publisher.asked)
    assert run(["fetch", "coco-panoptic", "--to", str(tmp_path)]) == 0
    assert "there already" in capsys.readouterr().out
    assert len(publisher.asked) == asked


def test_an_archive_cannot_write_elsewhere(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name in ("dtd/images/dotted/1.jpg", "dtd/images/../../../outside.txt", "dtd/labels/all.txt"):
            member = tarfile.TarInfo(name)
            member.size = 3
            tar.addfile(member, io.BytesIO(b"abc"))
    publish(publisher, monkeypatch, "dtd", [buffer.getvalue()])
    result = fetch(FetchOptions(name="dtd", to=tmp_path / "data"))
    assert result.state == "fetched"
    assert result.place == tmp_path / "data" / "dtd" / "images"
    files = [str(each.relative_to(tmp_path)) for each in tmp_path.rglob("*") if each.is_file()]
    assert files == ["data/dtd/images/dotted/1.jpg"]


def test_what_is_killed_while_it_unpacks_is_not_taken_for_whole(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(publisher, monkeypatch, "ade20k", [zipped({"ADEChallengeData2016/images/1.jpg": b"x"})])

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(story, "unpack", killed)
        with pytest.raises(KeyboardInterrupt):
            fetch(FetchOptions(name="ade20k", to=tmp_path))
    assert [each.name for each in tmp_path.iterdir()] == ["ADEChallengeData2016.zip"]
    assert fetch(FetchOptions(name="ade20k", to=tmp_path)).state == "fetched"
    assert len(publisher.asked) == 1
    assert (tmp_path / "ADEChallengeData2016" / "images" / "1.jpg").read_bytes() == b"x"


def test_an_archive_that_holds_something_else(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(publisher, monkeypatch, "broden", [zipped({"other/index.csv": b"x"})])
    with pytest.raises(CmonError, match="no broden1_224 in the archive"):
        fetch(FetchOptions(name="broden", to=tmp_path))
    publish(publisher, monkeypatch, "ade20k", [b"not packed at all"])
    with pytest.raises(CmonError, match="cannot be unpacked"):
        fetch(FetchOptions(name="ade20k", to=tmp_path))


def test_the_list_names_and_a_slip(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["fetch", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert set(listed) == {"broden", "ade20k", "coco-panoptic", "dtd", "clip"}
    assert run(["fetch", "clip", "--dry-run", "--to", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert "openaipublic" in said.out
    assert "MIT" in said.err + said.out
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="nothing called 'brodn'") as error:
        fetch(FetchOptions(name="brodn"))
    assert "did you mean broden?" in str(error.value)


def test_every_address_has_a_digest_of_its_length() -> None:
    lengths = {"sha256": 64, "sha1": 40, "md5": 32}
    archives = [archive for each in PUBLISHED.values() for archive in each.archives]
    assert all(isinstance(archive, Archive) for archive in archives)
    for archive in archives:
        kind, _, figures = archive.digest.partition(":")
        assert len(figures) == lengths[kind]
        assert int(figures, 16)

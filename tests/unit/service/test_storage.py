from __future__ import annotations

import errno
import importlib.util
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from storages import KINDS, opened_storage

from cupel_service.data_folder import TEMPORARY_PREFIX, StoreFull
from cupel_service.errors import CannotServe, StoreFailed
from cupel_service.storage import (
    LocalFolder,
    Storage,
    StoreDenied,
    StoreUnreachable,
    is_temporary,
    open_storage,
    shown,
    storage_failure,
)

NAMES = st.sampled_from(["problems/a.json", "problems/b.c.json", "blobs/ab/abc", "blobs/ab/abd"])
OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["write", "delete"]), NAMES, st.binary(max_size=50)), max_size=12
)


@pytest.fixture(params=KINDS)
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    with opened_storage(request.param, tmp_path) as opened:
        yield opened


def names(storage: Storage) -> list[str]:
    return [name for top in ("blobs", "problems", "released") for name in storage.names(top)]


def test_what_is_written_is_read(storage: Storage) -> None:
    content = bytes(range(256)) * 4096
    storage.write("blobs/ab/abc", content)
    assert storage.read("blobs/ab/abc") == content
    assert storage.exists("blobs/ab/abc")


def test_what_is_written_again_is_replaced_as_a_whole(storage: Storage) -> None:
    storage.write("problems/a.json", b"long" * 1000)
    storage.write("problems/a.json", b"short")
    assert storage.read("problems/a.json") == b"short"
    assert storage.names("problems") == ["problems/a.json"]


def test_what_is_not_there_is_no_failure(storage: Storage) -> None:
    assert storage.read("problems/a.json") is None
    assert not storage.exists("problems/a.json")
    assert storage.names("problems") == []
    storage.delete("problems/a.json")


def test_what_is_deleted_is_gone(storage: Storage) -> None:
    storage.write("problems/a.json", b"{}")
    storage.delete("problems/a.json")
    assert storage.read("problems/a.json") is None
    assert storage.names("problems") == []


def test_names_are_those_below_one_folder(storage: Storage) -> None:
    for name in ("blobs/cd/x", "blobs/ab/y", "blobs/ab/x", "problems/z.json"):
        storage.write(name, b"1")
    assert storage.names("blobs") == ["blobs/ab/x", "blobs/ab/y", "blobs/cd/x"]
    assert storage.names("problems") == ["problems/z.json"]
    assert storage.names("blob") == []


def test_a_storage_says_where_it_is(storage: Storage) -> None:
    assert re.search(r"fake|/", str(storage))


@given(operations=OPERATIONS)
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_storage_is_a_dictionary_of_files(
    storage: Storage, operations: list[tuple[str, str, bytes]]
) -> None:
    for name in names(storage):
        storage.delete(name)
    model: dict[str, bytes] = {}
    for operation, name, content in operations:
        if operation == "write":
            storage.write(name, content)
            model[name] = content
        else:
            storage.delete(name)
            model.pop(name, None)
    assert {name: storage.read(name) for name in names(storage)} == model


def test_a_reader_sees_one_write_or_another_never_a_mixture(storage: Storage) -> None:
    contents = [bytes([letter]) * 300_000 for letter in b"ab"]
    storage.write("problems/a.json", contents[0])

    def write(content: bytes) -> None:
        for _ in range(15):
            storage.write("problems/a.json", content)

    writers = [threading.Thread(target=write, args=(content,)) for content in contents]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert storage.read("problems/a.json") in contents
    assert storage.names("problems") == ["problems/a.json"]


@pytest.mark.parametrize("kind", ["LocalFolder(Path(path))", "FsspecStorage('file://' + path)"])
def test_a_writer_killed_at_any_moment_leaves_whole_files(kind: str, tmp_path: Path) -> None:
    script = f"""
import sys
from pathlib import Path
from cupel_service.storage import FsspecStorage, LocalFolder
path = sys.argv[1]
storage = {kind}
print("ready", flush=True)
while True:
    for letter in b"ab":
        storage.write("problems/a.json", bytes([letter]) * 1_000_000)
"""
    folder = LocalFolder(tmp_path)
    for round_ in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE
        ) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(0.013 * (round_ + 1))
            writer.kill()
        content = folder.read("problems/a.json")
        assert content is None or content in (b"a" * 1_000_000, b"b" * 1_000_000)
    others = [name for name in folder.names("problems") if name != "problems/a.json"]
    assert all(is_temporary(name) for name in others)


@pytest.mark.parametrize("kind", ["LocalFolder(Path(path))", "FsspecStorage('file://' + path)"])
def test_a_full_disk_is_said_and_changes_nothing(kind: str, tmp_path: Path) -> None:
    script = f"""
import resource, sys
from pathlib import Path
from cupel_service.data_folder import StoreFull
from cupel_service.storage import FsspecStorage, LocalFolder
path = sys.argv[1]
storage = {kind}
storage.write("problems/a.json", b"small")
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    storage.write("problems/a.json", b"x" * 100_000)
except StoreFull as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "Free space there" in done.stdout
    assert LocalFolder(tmp_path).read("problems/a.json") == b"small"
    assert LocalFolder(tmp_path).names("problems") == ["problems/a.json"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
@pytest.mark.parametrize("kind", ["LocalFolder(Path(path))", "FsspecStorage('file://' + path)"])
@pytest.mark.parametrize(
    "call", ["read('blobs/ab/x')", "write('blobs/ab/y', b'1')", "names('blobs')"]
)
def test_a_folder_of_somebody_else_is_said_and_never_taken_for_empty(
    kind: str, call: str, tmp_path: Path
) -> None:
    LocalFolder(tmp_path).write("blobs/ab/x", b"1")
    script = f"""
import os, sys
from pathlib import Path
from cupel_service.storage import FsspecStorage, LocalFolder, StoreDenied
path = sys.argv[1]
storage = {kind}
storage.{call}
os.setuid(65534)
try:
    storage.{call}
except StoreDenied as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "denies access" in done.stdout


def test_a_folder_that_is_a_file_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    storage = LocalFolder(tmp_path / "file")
    for call in (
        lambda: storage.read("problems/a.json"),
        lambda: storage.write("problems/a.json", b""),
    ):
        with pytest.raises(StoreFailed, match=re.escape(str(tmp_path))) as caught:
            call()
        assert not isinstance(caught.value, StoreUnreachable)


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_a_folder_is_private_to_its_user(form: str, tmp_path: Path) -> None:
    storage = open_storage(form.format(tmp_path / "new"))
    storage.write("blobs/ab/abc", b"hidden")
    assert isinstance(storage, LocalFolder)
    for path in (tmp_path / "new", *(tmp_path / "new").rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_url_that_nobody_knows_is_said() -> None:
    with pytest.raises(CannotServe, match="nowhere") as caught:
        open_storage("nowhere://bucket/folder")
    assert "CUPEL_STORE" in caught.value.remedy


@pytest.mark.skipif(importlib.util.find_spec("s3fs") is not None, reason="s3fs is installed")
def test_a_missing_package_is_named() -> None:
    with pytest.raises(CannotServe, match="Install s3fs"):
        open_storage("s3://bucket/folder")


def test_a_cache_in_front_of_the_store_is_refused() -> None:
    with pytest.raises(CannotServe, match="chain of file systems"):
        open_storage("simplecache::memory://folder")


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("sftp://user:secret@host:22/folder", "sftp://host:22/folder"),
        ("s3://bucket/folder?versionId=secret", "s3://bucket/folder"),
        ("/srv/cupel", "/srv/cupel"),
    ],
)
def test_a_password_is_never_shown(url: str, seen: str) -> None:
    assert shown(url) == seen


class NoCredentialsError(Exception):
    """As botocore's: no OSError, and only its name says what it is."""


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), StoreFull),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), StoreFull),
        (OSError(errno.EIO, "An error occurred (XMinioStorageFull)"), StoreFull),
        (PermissionError("Access Denied"), StoreDenied),
        (OSError(errno.EROFS, "Read-only file system"), StoreDenied),
        (NoCredentialsError("Unable to locate credentials"), StoreDenied),
        (FileNotFoundError("The specified bucket does not exist"), StoreUnreachable),
        (TimeoutError(), StoreUnreachable),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), StoreUnreachable),
        (RuntimeError("any other library's"), StoreUnreachable),
    ],
)
def test_a_failure_says_what_can_be_done(error: Exception, kind: type[StoreFailed]) -> None:
    failure = storage_failure("s3://bucket", error)
    assert type(failure) is kind
    assert "s3://bucket" in str(failure)
    assert "()" not in str(failure)
    assert re.search(r"Free space|Check", str(failure))


def test_temporary_files_are_known_by_name() -> None:
    assert is_temporary(f"problems/{TEMPORARY_PREFIX}abc")
    assert not is_temporary("problems/abc.json")

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_boxes import echo_problem

from cupel.schema import Problem
from cupel_service.data_folder import TEMPORARY_PREFIX, DataFolder, StoreFull
from cupel_service.errors import CannotServe, ProblemUnknown
from cupel_service.storage import LocalFolder
from cupel_service.store import ProblemStore
from cupel_service.stored_suite import ProblemDamaged

CACHE_BYTES = 1024 * 1024


def problem(tests: int = 2, **fields: object) -> Problem:
    return Problem.model_validate(echo_problem(tests, **fields))


def opened(folder: Path, cache_bytes: int = CACHE_BYTES) -> ProblemStore:
    return ProblemStore(LocalFolder(folder), cache_bytes)


def files(folder: Path, pattern: str = "*") -> list[Path]:
    return sorted(path for path in folder.rglob(pattern) if path.is_file())


def test_what_was_put_is_there_after_a_restart(tmp_path: Path) -> None:
    stored = opened(tmp_path).put("two-sum", problem(3, title="Two sum"))
    again = opened(tmp_path)
    assert stored.created
    assert again.summary("two-sum") == stored.summary
    assert stored.summary.tests_per_tier == (1, 1, 1)
    assert [test.input for test in again.suite("two-sum").tests] == [b"1\n", b"2\n", b"3\n"]


def test_the_same_content_twice_changes_nothing(tmp_path: Path) -> None:
    store = opened(tmp_path)
    first = store.put("p", problem())
    before = {path: path.stat() for path in files(tmp_path)}
    second = store.put("p", problem())
    assert (first.created, second.created) == (True, False)
    assert {path: path.stat() for path in files(tmp_path)} == before


def test_other_content_replaces_the_whole_problem(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.put("p", problem(2))
    assert not store.put("p", problem(5)).created
    assert len(store.suite("p").tests) == 5
    assert len(files(tmp_path / "blobs")) == 1


def test_equal_problems_share_their_content_until_the_last_is_deleted(tmp_path: Path) -> None:
    store = opened(tmp_path, cache_bytes=0)
    store.put("a", problem())
    store.put("b", problem())
    assert len(files(tmp_path / "blobs")) == 1
    store.delete("a")
    assert len(store.suite("b").tests) == 2
    store.delete("b")
    assert files(tmp_path / "blobs") == []


def test_problems_are_listed_by_id(tmp_path: Path) -> None:
    store = opened(tmp_path)
    for name in ("b", "c", "a"):
        store.put(name, problem())
    assert [summary.id for summary in store.summaries()] == ["a", "b", "c"]


def test_an_unknown_problem_is_named(tmp_path: Path) -> None:
    store = opened(tmp_path)
    calls: list[Callable[[str], object]] = [store.summary, store.suite, store.delete]
    for call in calls:
        with pytest.raises(ProblemUnknown, match="'nowhere'"):
            call("nowhere")


def test_suites_leave_memory_when_their_bytes_exceed_the_bound(tmp_path: Path) -> None:
    tests = [{"name": str(n), "input": "x" * 5000, "output": "y" * 5000} for n in range(10)]
    large = Problem.model_validate({"tests": tests})  # 100,000 bytes of test data
    store = opened(tmp_path, cache_bytes=150_000)
    store.put("first", large)
    store.put("second", large.model_copy(update={"title": "another"}))
    assert store.cached_suite("first") is None
    assert store.cached_suite("second") is not None
    assert len(store.suite("first").tests) == 10


def test_a_crash_before_the_rename_leaves_no_half_problem(tmp_path: Path) -> None:
    opened(tmp_path).put("p", problem(2))
    script = """
import os, sys
from pathlib import Path
from cupel.schema import Problem
from cupel_service.storage import LocalFolder
from cupel_service.store import ProblemStore
store = ProblemStore(LocalFolder(Path(sys.argv[1])), 0)
Path.rename = lambda self, target: os._exit(9)  # the process dies between the write and the rename
store.put("p", Problem.model_validate_json(sys.argv[2]))
"""
    died = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), problem(5).model_dump_json()], check=False
    )
    assert died.returncode == 9
    assert files(tmp_path, f"{TEMPORARY_PREFIX}*")
    store = opened(tmp_path)
    assert len(store.suite("p").tests) == 2
    assert files(tmp_path, f"{TEMPORARY_PREFIX}*") == []
    assert len(files(tmp_path / "blobs")) == 1


def test_a_crash_between_content_and_manifest_leaves_the_old_problem(tmp_path: Path) -> None:
    opened(tmp_path).put("p", problem(2))
    orphan = tmp_path / "blobs" / "ab" / ("ab" + "0" * 62)
    orphan.parent.mkdir()
    orphan.write_text("{}")
    assert len(opened(tmp_path).suite("p").tests) == 2
    assert not orphan.exists()


def test_a_full_disk_is_said_and_leaves_everything_as_it_was(tmp_path: Path) -> None:
    opened(tmp_path).put("p", problem(2))
    before = files(tmp_path)
    script = """
import resource, sys
from pathlib import Path
from cupel.schema import Problem
from cupel_service.data_folder import StoreFull
from cupel_service.storage import LocalFolder
from cupel_service.store import ProblemStore
store = ProblemStore(LocalFolder(Path(sys.argv[1])), 0)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
large = Problem.model_validate({"tests": [{"name": "t", "input": "x" * 100000, "output": ""}]})
for name in ("p", "new"):
    try:
        store.put(name, large)
    except StoreFull as error:
        print(error)
assert len(store.suite("p").tests) == 2
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.count("Free space there") == 2
    assert files(tmp_path) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a tiny file system")
def test_a_file_system_without_room_is_said(tmp_path: Path) -> None:
    tiny = tmp_path / "tiny"
    tiny.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tiny)],
        check=False,
        capture_output=True,
    )
    if mounted.returncode != 0:
        pytest.skip("mounting is not allowed here")
    try:
        store = opened(tiny)
        store.put("small", problem(2))
        test = {"name": "t", "input": "x" * 200_000, "output": ""}
        large = Problem.model_validate({"tests": [test]})
        with pytest.raises(StoreFull, match="No space left"):
            store.put("large", large)
        assert [summary.id for summary in store.summaries()] == ["small"]
        assert len(files(tiny)) == 2
    finally:
        subprocess.run(["umount", str(tiny)], check=True)


def test_altered_content_is_never_judged_by(tmp_path: Path) -> None:
    opened(tmp_path).put("p", problem(2))
    (blob,) = files(tmp_path / "blobs")
    blob.write_bytes(blob.read_bytes().replace(b'"2\\n"', b'"3\\n"'))
    with pytest.raises(ProblemDamaged, match="'p'"):
        opened(tmp_path).suite("p")
    blob.write_bytes(b"{")
    with pytest.raises(ProblemDamaged):
        opened(tmp_path).suite("p")


def test_an_unreadable_manifest_costs_no_content(tmp_path: Path) -> None:
    opened(tmp_path).put("p", problem(2))
    (tmp_path / "problems" / "p.json").write_text("{}")
    store = opened(tmp_path)
    assert store.summaries() == ()
    assert len(files(tmp_path / "blobs")) == 1
    store.put("p", problem(2))
    assert len(store.suite("p").tests) == 2


def test_a_second_service_on_the_folder_is_told_who_holds_it(tmp_path: Path) -> None:
    with (
        DataFolder(tmp_path),
        pytest.raises(CannotServe, match=rf"\(process {os.getpid()}\)") as caught,
    ):
        DataFolder(tmp_path)
    assert "--data-dir" in caught.value.remedy
    DataFolder(tmp_path).close()


def test_a_killed_service_leaves_no_lock(tmp_path: Path) -> None:
    script = """
import os, sys
from pathlib import Path
from cupel_service.data_folder import DataFolder
folder = DataFolder(Path(sys.argv[1]))
os.kill(os.getpid(), 9)
"""
    died = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert died.returncode == -9
    DataFolder(tmp_path).close()


def test_a_data_folder_that_is_a_file_is_said(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(CannotServe, match=re.escape(str(path))):
        DataFolder(path)


def test_hidden_tests_are_private_to_the_services_user(tmp_path: Path) -> None:
    DataFolder(tmp_path / "data").close()
    opened(tmp_path / "data").put("p", problem())
    for path in ((tmp_path / "data"), *files(tmp_path / "data" / "blobs")):
        assert path.stat().st_mode & 0o077 == 0, path

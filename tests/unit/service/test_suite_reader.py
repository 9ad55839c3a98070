from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_boxes import echo_problem
from storages import FakeStorage

from cupel.schema import Problem
from cupel_service.data_folder import StoreFull
from cupel_service.errors import StoreFailed
from cupel_service.storage import LocalFolder, Storage, StoreDenied, StoreUnreachable
from cupel_service.store import ProblemStore
from cupel_service.stored_suite import ProblemDamaged, blob_name
from cupel_service.suite import Suite
from cupel_service.suite_reader import SuiteReader

MEBIBYTE = 1024 * 1024
DOWN = StoreUnreachable("the cable is out")


def problem(tests: int = 2, **fields: object) -> Problem:
    return Problem.model_validate(echo_problem(tests, **fields))


def filled(storage: Storage, *problems: Problem) -> list[str]:
    """A store with these problems; their digests."""
    store = ProblemStore(storage, 0, shared=True)
    return [store.put(f"p{number}", each).summary.digest for number, each in enumerate(problems)]


def reader(
    storage: Storage, cache_dir: Path, *, memory_bytes: int = 0, patience_s: float = 30.0
) -> SuiteReader:
    return SuiteReader(
        storage,
        cache_dir=cache_dir,
        cache_bytes=MEBIBYTE,
        memory_bytes=memory_bytes,
        patience_s=patience_s,
    )


def test_a_suite_comes_from_the_store_then_from_memory(tmp_path: Path) -> None:
    fake = FakeStorage()
    (digest,) = filled(fake, problem(3))
    suites = reader(fake, tmp_path, memory_bytes=MEBIBYTE)
    suite = suites.suite_of(digest, "p0", None)
    assert [test.input for test in suite.tests] == [b"1\n", b"2\n", b"3\n"]
    fake.failures = [DOWN]
    (tmp_path / "suites" / digest).unlink()
    assert suites.suite_of(digest, "p0", None) is suite


def test_a_suite_comes_from_the_disk_once_a_worker_of_this_machine_had_it(tmp_path: Path) -> None:
    fake = FakeStorage()
    (digest,) = filled(fake, problem())
    suite = reader(fake, tmp_path).suite_of(digest, "p0", None)
    reads = fake.calls["read"]
    assert reader(fake, tmp_path).suite_of(digest, "p0", None) == suite
    assert fake.calls["read"] == reads


@pytest.mark.parametrize("damage", [b"", b"{", b"replaced", b"\xff\xfe"])
def test_a_damaged_copy_is_never_judged_by_and_fetched_again(damage: bytes, tmp_path: Path) -> None:
    fake = FakeStorage()
    (digest,) = filled(fake, problem())
    suite = reader(fake, tmp_path).suite_of(digest, "p0", None)
    copy = tmp_path / "suites" / digest
    whole = copy.read_bytes()
    copy.write_bytes(whole.replace(b'"2\\n"', b'"3\\n"') if damage == b"replaced" else damage)
    assert reader(fake, tmp_path).suite_of(digest, "p0", None) == suite
    assert copy.read_bytes() == whole


def test_damaged_content_of_the_store_is_never_judged_by(tmp_path: Path) -> None:
    fake = FakeStorage()
    (digest,) = filled(fake, problem())
    fake.files[blob_name(digest)] = fake.files[blob_name(digest)].replace(b'"2\\n"', b'"3\\n"')
    with pytest.raises(ProblemDamaged, match="'p0'"):
        reader(fake, tmp_path).suite_of(digest, "p0", None)
    assert not (tmp_path / "suites").exists()


def test_content_that_the_store_lacks_is_said(tmp_path: Path) -> None:
    fake = FakeStorage()
    filled(fake, problem())
    with pytest.raises(ProblemDamaged, match="'gone'"):
        reader(fake, tmp_path).suite_of("0" * 64, "gone", None)


def test_a_problem_that_came_along_needs_no_store(tmp_path: Path) -> None:
    fake = FakeStorage()
    (digest,) = filled(FakeStorage(), problem())
    suites = reader(fake, tmp_path, memory_bytes=MEBIBYTE)
    suite = suites.suite_of(digest, None, problem().model_dump_json().encode())
    assert suite.digest == digest
    assert suites.suite_of(digest, None, None) is suite
    assert not fake.calls
    assert list(tmp_path.iterdir()) == []


def test_a_problem_that_is_not_what_its_digest_says_is_refused(tmp_path: Path) -> None:
    (digest,) = filled(FakeStorage(), problem())
    suites = reader(FakeStorage(), tmp_path)
    for inline in (problem(5).model_dump_json().encode(), b"{", b""):
        with pytest.raises(ProblemDamaged):
            suites.suite_of(digest, None, inline)


def outcomes(suites: SuiteReader, digest: str, threads: int, fake: FakeStorage) -> list[object]:
    """What many threads get that ask at one time, while the store is slow to answer."""
    got: list[object] = []
    arrived = threading.Barrier(threads + 1)

    def ask() -> None:
        arrived.wait(60)
        try:
            got.append(suites.suite_of(digest, "p0", None))
        except StoreFailed as error:
            got.append(error)

    fake.gate.clear()
    asking = [threading.Thread(target=ask) for _ in range(threads)]
    for thread in asking:
        thread.start()
    arrived.wait(60)
    while not fake.calls["read"]:
        time.sleep(0.001)  # until the one that fetches is at the store
    fake.gate.set()
    for thread in asking:
        thread.join()
    return got


def test_threads_that_want_one_suite_fetch_it_once(tmp_path: Path) -> None:
    fake = FakeStorage()
    (digest,) = filled(fake, problem())
    fake.calls.clear()
    got = outcomes(reader(fake, tmp_path, memory_bytes=MEBIBYTE), digest, 12, fake)
    assert fake.calls["read"] == 1
    assert len(got) == 12
    assert isinstance(got[0], Suite)
    assert all(suite is got[0] for suite in got)


def test_a_failure_reaches_all_who_wait_and_the_next_tries_again(tmp_path: Path) -> None:
    fake = FakeStorage()
    (digest,) = filled(fake, problem())
    whole = fake.files.pop(blob_name(digest))
    fake.calls.clear()
    suites = reader(fake, tmp_path)
    got = outcomes(suites, digest, 6, fake)
    assert [type(each) for each in got] == [ProblemDamaged] * 6
    fake.files[blob_name(digest)] = whole
    assert suites.suite_of(digest, "p0", None).digest == digest


def test_an_unreachable_store_is_tried_again_until_it_is_back(tmp_path: Path) -> None:
    fake = FakeStorage()
    (digest,) = filled(fake, problem())
    fake.failures = [DOWN, DOWN, DOWN]
    assert reader(fake, tmp_path).suite_of(digest, "p0", None).digest == digest


def test_a_volume_that_is_not_mounted_yet_is_waited_for(tmp_path: Path) -> None:
    (digest,) = filled(LocalFolder(tmp_path / "unmounted"), problem())
    timer = threading.Timer(0.3, (tmp_path / "unmounted").rename, args=[tmp_path / "mount"])
    timer.start()
    suites = reader(LocalFolder(tmp_path / "mount"), tmp_path / "cache")
    assert suites.suite_of(digest, "p0", None).digest == digest
    timer.join()


def test_a_store_that_stays_unreachable_fails_in_the_end(tmp_path: Path) -> None:
    fake = FakeStorage()
    (digest,) = filled(fake, problem())
    fake.calls.clear()
    fake.failures = [DOWN] * 1000
    with pytest.raises(StoreUnreachable, match="cable"):
        reader(fake, tmp_path, patience_s=0.3).suite_of(digest, "p0", None)
    assert 1 <= fake.calls["read"] < 10


@pytest.mark.parametrize("failure", [StoreDenied("not for you"), StoreFull("no room")])
def test_what_waiting_cannot_mend_fails_at_once(failure: StoreFailed, tmp_path: Path) -> None:
    fake = FakeStorage([failure])
    with pytest.raises(type(failure)):
        reader(fake, tmp_path).suite_of("0" * 64, "p", None)
    assert fake.calls["read"] == 1


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for almost nothing."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a tiny file system")
    folder = tmp_path / "tiny"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if subprocess.run(["mount", *options], check=False, capture_output=True).returncode != 0:
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_costs_the_copy_and_nothing_else(
    tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    test = {"name": "t", "output": ""}
    larges = [
        Problem.model_validate({"tests": [{**test, "input": letter * 200_000}]}) for letter in "abc"
    ]
    storage = LocalFolder(tmp_path / "store")
    digests = filled(storage, *larges, problem())
    suites = reader(storage, tiny)
    with caplog.at_level(logging.WARNING):
        for digest in digests * 2:
            assert suites.suite_of(digest, "p", None).digest == digest
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "No space left" in caplog.text
    assert [path.name for path in (tiny / "suites").glob("[!.]*")] == [digests[-1]]


def test_a_disk_that_takes_no_more_is_survived_without_root(tmp_path: Path) -> None:
    storage = LocalFolder(tmp_path / "store")
    tests = [{"name": "t", "input": "x" * 100_000, "output": ""}]
    (digest,) = filled(storage, Problem.model_validate({"tests": tests}))
    script = """
import resource, sys
from pathlib import Path
from cupel_service.storage import LocalFolder
from cupel_service.suite_reader import SuiteReader
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
suites = SuiteReader(
    LocalFolder(Path(sys.argv[1])), cache_dir=Path(sys.argv[2]), cache_bytes=2**30, memory_bytes=0
)
print([suites.suite_of(sys.argv[3], "p", None).digest for _ in range(2)])
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "store"), str(tmp_path / "cache"), digest],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.count(digest) == 2
    assert [path.name for path in (tmp_path / "cache" / "suites").iterdir()] == [".lock"]

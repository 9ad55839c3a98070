from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_boxes import echo_problem
from storages import KINDS, FakeStorage, opened_storage

from cupel.schema import Problem
from cupel_service.data_folder import TEMPORARY_PREFIX, DataFolder, StoreFull
from cupel_service.errors import CannotServe, ProblemUnknown
from cupel_service.problem_details import service_error_response
from cupel_service.storage import LocalFolder, Storage, StoreUnreachable
from cupel_service.store import UNUSED_KEPT_S, ProblemStore, shared_store

DAY_S = UNUSED_KEPT_S


def problem(tests: int = 2, **fields: object) -> Problem:
    return Problem.model_validate(echo_problem(tests, **fields))


@pytest.fixture(params=KINDS)
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    with opened_storage(request.param, tmp_path) as opened:
        yield opened


def opened(storage: Storage, at_s: float = 0.0) -> ProblemStore:
    return ProblemStore(storage, 1024 * 1024, shared=True, now_s=lambda: at_s)


def ids(store: ProblemStore) -> list[str]:
    return [summary.id for summary in store.summaries()]


def wait_until(condition: object) -> None:
    assert callable(condition)
    until_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until_s
        time.sleep(0.02)


def is_unknown(store: ProblemStore, problem_id: str) -> bool:
    try:
        store.summary(problem_id)
    except ProblemUnknown:
        return True
    return False


def test_what_one_service_puts_another_judges_by(storage: Storage) -> None:
    one, other = opened(storage), opened(storage)
    assert is_unknown(other, "p")
    stored = one.put("p", problem(3))
    assert stored.created
    assert other.cached_suite("p") is None
    assert other.summary("p") == stored.summary
    assert other.suite("p") == one.suite("p")
    assert other.cached_suite("p") is other.suite("p")
    assert ids(other) == ["p"]
    assert not other.put("p", problem(3)).created


def test_what_one_service_replaces_another_sees_soon(storage: Storage) -> None:
    one, other = opened(storage), opened(storage)
    one.put("p", problem(2))
    assert len(other.suite("p").tests) == 2
    assert not one.put("p", problem(5)).created
    assert len(one.suite("p").tests) == 5
    wait_until(lambda: len(other.suite("p").tests) == 5)


def test_what_one_service_deletes_another_forgets_soon(storage: Storage) -> None:
    one, other = opened(storage), opened(storage)
    one.put("p", problem())
    other.suite("p")
    one.delete("p")
    assert is_unknown(one, "p")
    assert ids(other) == []
    wait_until(lambda: is_unknown(other, "p"))
    with pytest.raises(ProblemUnknown):
        other.delete("p")


def test_content_stays_for_a_day_after_its_problem_went(storage: Storage) -> None:
    store = opened(storage)
    store.put("replaced", problem(2))
    store.put("deleted", problem(3))
    month = opened(storage, at_s=30 * DAY_S)  # used for long: only then it is let go
    assert len(storage.names("blobs")) == 2
    month.put("replaced", problem(4))
    month.delete("deleted")
    opened(storage, at_s=30.9 * DAY_S)
    assert len(storage.names("blobs")) == 3
    later = opened(storage, at_s=31.1 * DAY_S)
    assert len(storage.names("blobs")) == 1
    assert len(later.suite("replaced").tests) == 4
    assert storage.names("released") == []


def test_content_that_is_put_again_is_kept(storage: Storage) -> None:
    store = opened(storage)
    store.put("p", problem())
    store.delete("p")
    again = opened(storage, at_s=0.9 * DAY_S)
    again.put("q", problem())
    opened(storage, at_s=2 * DAY_S)
    again.delete("q")  # its clock says 0.9 days: let go a second time
    opened(storage, at_s=1.8 * DAY_S)
    assert len(storage.names("blobs")) == 1


class SweptStorage(FakeStorage):
    """Another service starts at the worst moment and removes content that was unused for long."""

    def write(self, name: str, content: bytes) -> None:
        super().write(name, content)
        if name.startswith("problems/"):
            for blob in self.names("blobs"):
                self.delete(blob)


def test_content_that_was_removed_in_mid_put_is_written_again() -> None:
    fake = SweptStorage()
    opened(fake).put("p", problem(3))
    assert len(opened(fake).suite("p").tests) == 3


def test_content_that_nothing_ever_named_is_kept_for_a_day(storage: Storage) -> None:
    opened(storage)
    storage.write("blobs/ab/ab0", b"{}")  # its writer is about to write the manifest
    opened(storage, at_s=5 * DAY_S)
    opened(storage, at_s=5.5 * DAY_S)
    assert storage.exists("blobs/ab/ab0")
    opened(storage, at_s=6.1 * DAY_S)
    assert not storage.exists("blobs/ab/ab0")


def test_equal_problems_share_their_content(storage: Storage) -> None:
    store = opened(storage)
    store.put("a", problem())
    store.put("b", problem())
    store.delete("a")
    assert len(storage.names("blobs")) == 1
    assert len(opened(storage, at_s=2 * DAY_S).suite("b").tests) == 2


def test_an_unreadable_manifest_costs_no_content(storage: Storage) -> None:
    opened(storage).put("p", problem())
    storage.write("problems/p.json", b"{}")
    for day in range(3):
        assert is_unknown(opened(storage, at_s=day * DAY_S * 1.5), "p")
    assert len(storage.names("blobs")) == 1


def test_concurrent_puts_of_one_id_end_with_one_whole_problem(storage: Storage) -> None:
    stores = [opened(storage) for _ in range(4)]

    def put(store: ProblemStore, tests: int) -> None:
        for _ in range(5):
            store.put("p", problem(tests))

    threads = [
        threading.Thread(target=put, args=(store, index + 2)) for index, store in enumerate(stores)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    fresh = opened(storage)
    assert ids(fresh) == ["p"]
    suite = fresh.suite("p")
    assert suite.digest == fresh.summary("p").digest
    assert len(suite.tests) in range(2, 6)
    for store in stores:
        wait_until(lambda store=store: store.suite("p") == suite)


def test_temporary_files_of_the_dead_are_removed_after_a_day(storage: Storage) -> None:
    opened(storage).put("p", problem())
    left = f"problems/{TEMPORARY_PREFIX}abc"
    storage.write(left, b"half")
    assert ids(opened(storage)) == ["p"]
    opened(storage, at_s=0.5 * DAY_S)
    assert storage.exists(left)
    opened(storage, at_s=1.5 * DAY_S)
    assert not storage.exists(left)
    assert storage.names("released") == []


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("call", range(1, 9))
def test_a_put_that_fails_anywhere_leaves_the_old_problem_or_the_new(
    call: int, shared: bool
) -> None:
    fake = FakeStorage()
    store = ProblemStore(fake, 0, shared=shared)
    store.put("p", problem(2))
    fake.failures = [None] * (call - 1) + [StoreUnreachable("the cable is out")]
    try:
        store.put("p", problem(5))
    except StoreUnreachable:
        assert fake.failures == []
    fake.failures = []
    assert len(store.suite("p").tests) in (2, 5)
    again = ProblemStore(fake, 0, shared=shared)
    assert len(again.suite("p").tests) in (2, 5)
    assert ids(again) == ["p"]


def test_a_full_store_is_said_and_the_problem_is_as_before() -> None:
    fake = FakeStorage()
    store = opened(fake)
    store.put("p", problem(2))
    fake.failures = [None, None, None, StoreFull("no room")]
    with pytest.raises(StoreFull):
        store.put("p", problem(5))
    assert len(opened(fake).suite("p").tests) == 2


def test_a_volume_that_is_gone_is_not_taken_for_an_empty_store(tmp_path: Path) -> None:
    store = opened(LocalFolder(tmp_path / "mount"))
    store.put("p", problem())
    store.put("q", problem())
    (tmp_path / "mount").rename(tmp_path / "unmounted")
    (tmp_path / "mount").mkdir()
    for call in (
        lambda: store.summary("other"),
        lambda: store.suite("other"),
        lambda: store.delete("p"),
        lambda: store.put("new", problem()),
        store.summaries,
    ):
        with pytest.raises(StoreUnreachable, match="not mounted"):
            call()
    assert list((tmp_path / "mount").iterdir()) == []
    (tmp_path / "mount").rmdir()
    (tmp_path / "unmounted").rename(tmp_path / "mount")
    assert ids(store) == ["p", "q"]


def test_an_unreachable_store_fails_the_start_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(CannotServe) as caught,
        shared_store(f"file://{tmp_path}/file/store", 0),
    ):
        pytest.fail("it was opened")
    assert "CUPEL_STORE" in caught.value.remedy


def test_a_shared_folder_is_not_held_alone_and_the_other_way_round(tmp_path: Path) -> None:
    with shared_store(str(tmp_path), 0) as one, shared_store(f"file://{tmp_path}", 0) as other:
        one.put("p", problem())
        assert ids(other) == ["p"]
        with pytest.raises(CannotServe, match="in use by another service"):
            DataFolder(tmp_path)
    with (
        DataFolder(tmp_path),
        pytest.raises(CannotServe, match="in use by another service") as caught,
        shared_store(str(tmp_path), 0),
    ):
        pytest.fail("it was opened")
    assert "CUPEL_STORE" in caught.value.remedy


def test_what_was_registered_alone_can_be_shared_later(tmp_path: Path) -> None:
    ProblemStore(LocalFolder(tmp_path), 0).put("p", problem())
    assert len(opened(LocalFolder(tmp_path)).suite("p").tests) == 2


def test_services_killed_in_mid_put_leave_whole_problems(tmp_path: Path) -> None:
    script = """
import json, sys
from cupel.schema import Problem
from cupel_service.store import shared_store
problems = [Problem.model_validate(each) for each in json.loads(sys.argv[2])]
with shared_store(sys.argv[1], 0) as store:
    print("ready", flush=True)
    while True:
        for each in problems:
            store.put("p", each)
"""
    problems = json.dumps([echo_problem(tests) for tests in (2, 50)])
    for round_ in range(3):
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", script, str(tmp_path), problems], stdout=subprocess.PIPE
            )
            for _ in range(2)
        ]
        for writer in writers:
            assert writer.stdout is not None
            writer.stdout.readline()
        time.sleep(0.02 * round_)
        for writer in writers:
            writer.kill()
            writer.communicate()
        store = opened(LocalFolder(tmp_path))
        if not is_unknown(store, "p"):
            assert len(store.suite("p").tests) in (2, 50)


def test_a_store_that_is_away_is_503_and_clients_are_told_to_come_back() -> None:
    answer = service_error_response(StoreUnreachable("the cable is out"))
    assert answer.status_code == 503
    assert answer.headers["Retry-After"].isdecimal()

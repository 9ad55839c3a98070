from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cupel_service.data_folder import TEMPORARY_PREFIX
from cupel_service.suite_folder import SuiteFolder

KEYS = st.sampled_from("abcde")
USES = st.lists(
    st.one_of(
        st.tuples(st.just("add"), KEYS, st.integers(0, 60)),
        st.tuples(st.sampled_from(["get", "drop"]), KEYS, st.just(0)),
    ),
    max_size=25,
)


def copies(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.glob("[!.]*")}


@given(uses=USES)
@settings(max_examples=60, deadline=None)
def test_the_least_recently_used_leaves_when_the_bound_is_exceeded(
    uses: list[tuple[str, str, int]],
) -> None:
    model: OrderedDict[str, bytes] = OrderedDict()
    with TemporaryDirectory() as path:
        folder = SuiteFolder(Path(path), 100)
        for use, key, size in uses:
            content = key.encode() * size
            if use == "add":
                folder.add(key, content)
                model.pop(key, None)
                while sum(map(len, model.values())) + size > 100:
                    model.popitem(last=False)
                model[key] = content
            elif use == "get":
                assert folder.get(key) == model.get(key)
                if key in model:
                    model.move_to_end(key)
            else:
                folder.drop(key)
                model.pop(key, None)
            assert copies(Path(path)) == {each: len(kept) for each, kept in model.items()}


def test_what_exceeds_the_bound_alone_is_not_kept(tmp_path: Path) -> None:
    folder = SuiteFolder(tmp_path, 100)
    folder.add("small", b"x" * 50)
    folder.add("large", b"x" * 101)
    assert copies(tmp_path) == {"small": 50}


def test_a_bound_of_nothing_keeps_nothing(tmp_path: Path) -> None:
    SuiteFolder(tmp_path / "cache", 0).add("a", b"x")
    assert not (tmp_path / "cache").exists()


def test_halves_that_a_killed_process_left_are_removed(tmp_path: Path) -> None:
    (tmp_path / f"{TEMPORARY_PREFIX}half").write_bytes(b"x" * 1000)
    SuiteFolder(tmp_path, 100).add("a", b"x")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "a"]


def test_copies_are_private_to_the_workers_user(tmp_path: Path) -> None:
    SuiteFolder(tmp_path / "new" / "cache", 100).add("a", b"x")
    assert (tmp_path / "new" / "cache").stat().st_mode & 0o077 == 0
    assert (tmp_path / "new" / "cache" / "a").stat().st_mode & 0o077 == 0


def test_processes_that_share_a_folder_keep_its_bound_together(tmp_path: Path) -> None:
    # A lock per open file holds between threads as it does between processes.
    folders = [SuiteFolder(tmp_path, 1000) for _ in range(4)]
    failed: list[str] = []

    def use(folder: SuiteFolder, seed: int) -> None:
        for step in range(60):
            key = str((seed + step * 7) % 13)
            content = key.encode() * (300 // len(key))
            folder.add(key, content)
            if sum(copies_or_nothing(tmp_path)) > 1000:
                failed.append("bound exceeded")
            if folder.get(key) not in (None, content):
                failed.append("mixed content")

    threads = [
        threading.Thread(target=use, args=(folder, seed)) for seed, folder in enumerate(folders)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(copies(tmp_path)) == 3


def copies_or_nothing(folder: Path) -> list[int]:
    try:
        return list(copies(folder).values())
    except FileNotFoundError:
        return []  # one of them left meanwhile


def test_a_folder_that_cannot_be_used_fails_nobody_and_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    folder = SuiteFolder(tmp_path / "file", 100)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            folder.add("a", b"x")
            folder.drop("a")
            assert folder.get("a") is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "CUPEL_CACHE_DIR" in caplog.text

"""Cgroup directories: where they lie, what is made for a box, and that all of it goes."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import pytest

from cupel_sandbox.cgroup import CgroupTree, _place, open_cgroups, remove_cgroup
from cupel_sandbox.errors import CannotStart

MOUNT = Path("/sys/fs/cgroup/memory")


@pytest.mark.parametrize(
    ("root", "own", "expected"),
    [
        ("/", "/", MOUNT),
        ("/", "/user.slice/session", MOUNT / "user.slice/session"),
        ("/docker/abc", "/docker/abc", MOUNT),
        ("/docker/abc", "/docker/abc/inner", MOUNT / "inner"),
        ("/docker/abc", "/elsewhere", MOUNT),
        ("/docker/abc", "/docker/abcdef/inner", MOUNT),
    ],
)
def test_a_cgroup_lies_below_its_mount(root: str, own: str, expected: Path) -> None:
    assert _place(root, MOUNT, own) == expected


def test_a_box_of_v1_gets_a_directory_per_controller(tmp_path: Path) -> None:
    bases = tuple((f"cgroup-{name}", tmp_path / name) for name in ("memory", "pids", "cpuacct"))
    for _, base in bases:
        base.mkdir()
    tree = CgroupTree(1, bases)
    options = tree.make_box(7)
    assert options == tuple(f"{key}={base}/box-7" for key, base in bases)
    assert all((base / "box-7").is_dir() for _, base in bases)
    tree.remove_box(7)
    assert not any((base / "box-7").exists() for _, base in bases)
    tree.close()
    assert not any(base.exists() for base in tree.directories)


def test_a_directory_that_cannot_be_made_says_what_to_do(tmp_path: Path) -> None:
    tree = CgroupTree(1, (("cgroup-memory", tmp_path / "missing"),))
    with pytest.raises(CannotStart, match="cannot make the cgroup") as refused:
        tree.make_box(0)
    assert "--allow-degraded=cgroup" in refused.value.remedy


def test_removing_takes_everything_below_and_nothing_beside(tmp_path: Path) -> None:
    (tmp_path / "cupel-1-2-0" / "box-0" / "run-0").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    remove_cgroup(tmp_path / "cupel-1-2-0")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_removing_what_is_not_there_is_fine(tmp_path: Path) -> None:
    remove_cgroup(tmp_path / "missing")


def test_removing_gives_up_in_the_end(tmp_path: Path) -> None:
    (tmp_path / "stuck").mkdir()
    (tmp_path / "stuck" / "file").touch()  # as no cgroup has: it cannot be removed
    remove_cgroup(tmp_path / "stuck", patience_s=0.05)
    assert (tmp_path / "stuck").is_dir()


def test_removing_never_kills_its_own_process_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, _: killed.append(pid))
    # What a worker in a container sees of a process outside of it: kill(0, ...) is no such process.
    (tmp_path / "cgroup.procs").write_text("0\n0\n4194305\n")
    remove_cgroup(tmp_path, patience_s=0.0)
    assert set(killed) == {4194305}


def test_removing_a_v2_cgroup_ends_what_no_process_id_reaches(tmp_path: Path) -> None:
    (tmp_path / "cgroup.procs").write_text("0\n")
    (tmp_path / "cgroup.kill").touch()
    remove_cgroup(tmp_path, patience_s=0.0)
    assert (tmp_path / "cgroup.kill").read_text() == "1"


def test_directories_of_dead_services_are_swept_and_those_of_living_ones_are_not() -> None:
    try:
        tree = open_cgroups()
    except CannotStart as cannot:
        pytest.skip(str(cannot))
    dead = [base.parent / f"cupel-{2**22 + 1}-{'0' * 16}" for base in tree.directories]
    for directory in dead:
        (directory / "box-0").mkdir(parents=True)
    others = tree.directories[0].parent / f"cupel-team-{uuid.uuid4().hex}"
    others.mkdir()
    second = open_cgroups()
    try:
        assert not any(directory.exists() for directory in dead)
        assert others.is_dir()
        assert all(directory.is_dir() for directory in tree.directories)
        assert str(os.getpid()) in tree.directories[0].name
        assert set(tree.directories).isdisjoint(second.directories)
    finally:
        second.close()
        tree.close()
        others.rmdir()
    assert not any(directory.exists() for directory in tree.directories)

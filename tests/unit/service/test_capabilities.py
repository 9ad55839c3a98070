from __future__ import annotations

from importlib.metadata import version
from typing import Any

from fake_boxes import FakePool

from cupel.schema import BoxLimits, Info, Language, ToolchainInfo
from cupel_service.capabilities import in_words, info_of_boxes, info_of_workers
from cupel_service.settings import Settings

CLUSTER = Settings(queue="redis://127.0.0.1:6379/0", queue_capacity=77)
PYTHON = ToolchainInfo(language=Language.PYTHON, available=True, version="Python 3.11.2")
CPP = ToolchainInfo(language=Language.CPP, available=True, version="g++ 12.2.0")
NO_CPP = ToolchainInfo(language=Language.CPP, available=False, reason="not found: apt install g++")


def worker(**fields: Any) -> Info:
    known = {
        "version": version("cupel"),
        "box": "docker",
        "runtime": "runc",
        "cgroup": "v2",
        "accounting": "cgroup",
        "seccomp": True,
        "user": "root",
        "slots": 2,
        "physical_cores": 4,
        "queue": "redis",
        "queue_capacity": 1,
        "toolchains": (PYTHON, CPP),
    }
    return Info(**known | fields)


def test_a_cluster_has_the_slots_and_cores_of_all_workers() -> None:
    info = info_of_workers(CLUSTER, [worker(), worker(slots=3, physical_cores=8)])
    assert (info.slots, info.physical_cores, info.workers) == (5, 12, 2)
    assert (info.queue, info.queue_capacity) == ("redis", 77)
    assert in_words(info) == "workers 2, slots 5, docker boxes runc, cgroup v2"
    assert info.warnings == ()


def test_a_language_that_one_worker_lacks_is_not_available_and_says_why() -> None:
    info = info_of_workers(CLUSTER, [worker(), worker(toolchains=(PYTHON, NO_CPP))])
    assert info.toolchains == (PYTHON, NO_CPP)
    assert any("different toolchains for cpp" in warning for warning in info.warnings)


def test_what_differs_between_workers_is_named_and_warned_of() -> None:
    info = info_of_workers(
        CLUSTER,
        [worker(), worker(box="native", runtime="", cgroup="v1", seccomp=False, version="0.0.1")],
    )
    assert (info.box, info.runtime, info.cgroup) == ("docker and native", "runc", "v1 and v2")
    assert not info.seccomp
    assert [text for text in info.warnings if "different kinds of boxes" in text]
    assert [text for text in info.warnings if "Cupel 0.0.1" in text]


def test_layers_given_up_anywhere_are_given_up() -> None:
    info = info_of_workers(CLUSTER, [worker(degraded=("cgroup",)), worker(degraded=("seccomp",))])
    assert info.degraded == ("cgroup", "seccomp")


def test_the_tightest_bound_of_any_box_is_the_cluster_s() -> None:
    one = worker(box_limits=BoxLimits(scratch_bytes=10, memory_bytes=0, processes=64))
    two = worker(box_limits=BoxLimits(scratch_bytes=20, memory_bytes=30, processes=32))
    info = info_of_workers(CLUSTER, [one, two])
    assert info.box_limits == BoxLimits(scratch_bytes=10, memory_bytes=30, processes=32)


def test_without_workers_nothing_is_claimed() -> None:
    info = info_of_workers(CLUSTER, [])
    assert (info.slots, info.workers, info.toolchains, info.seccomp) == (0, 0, (), False)
    assert info.box == "unknown"
    assert in_words(info) == "no workers yet"


def test_a_process_says_what_its_own_boxes_are() -> None:
    pool = FakePool(3)
    pool.start()
    info = info_of_boxes(Settings(), pool)
    assert (info.box, info.slots, info.workers, info.queue) == ("fake", 3, 1, "embedded")
    assert info.box_limits.scratch_bytes == pool.facts.scratch_bytes
    assert [each.language for each in info.toolchains if each.available] == [Language.PYTHON]
    assert info_of_boxes(CLUSTER, pool).queue == "redis"

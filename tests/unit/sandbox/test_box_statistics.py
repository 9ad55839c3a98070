"""A box counts what it has done, for its operator."""

from __future__ import annotations

from box_stage import LIMITS
from cupel_sandbox.box import Run
from cupel_sandbox.native import NativeHost


def test_statistics_count_runs_and_what_they_left(host: NativeHost) -> None:
    box = host.open_box()
    try:
        for command in ("true", "echo >/tmp/left", "/bin/sleep 60 & exit 0"):
            list(box.run([Run(("/bin/sh", "-c", command), limits=LIMITS)]))
        box.reset()
        done = box.statistics()
    finally:
        box.close()
    assert (done.runs, done.cancelled, done.resets) == (3, 0, 1)
    assert (done.left_processes, done.left_files) == (1, 1)

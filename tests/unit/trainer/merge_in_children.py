"""Merges in child processes that are killed at random moments; run by a test, as a script.

Imports everything once and forks for each try, since importing torch takes longer than the merge.
Prints one JSON object: how often a child was killed in mid-merge, and what was wrong afterwards.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

from checkpoints import content

from cupel_trainer.merge import merge
from cupel_trainer.merge.verification import verify

ALPHAS = (-0.5, 0.0, 0.3, 1.0, 1.5)


def in_child(low: str, high: str, out: Path, kill_after_s: float | None) -> bool:
    """Merges in a child; whether it came to its end."""
    child = os.fork()
    if not child:
        try:
            merge(low, high, alphas=ALPHAS, out=out)
        except BaseException:  # noqa: BLE001  # a forked child must never return to the parent's code
            os._exit(1)
        os._exit(0)
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == 0


def faults_of(out: Path) -> list[str]:
    """What of the folders that look complete is not."""
    faults = []
    for folder in sorted(out.glob("alpha_*")):
        faults += verify(str(folder), recompute=False).faults
    return faults


def main(low: str, high: str, scratch: Path, kills: int, seed: int) -> None:
    chance = random.Random(seed)
    whole = scratch / "whole"
    started = time.monotonic()
    assert in_child(low, high, whole, None)
    took_s = time.monotonic() - started
    expected = content(whole)
    killed, faults = 0, []
    for attempt in range(kills):
        out = scratch / f"killed-{attempt}"
        # Two kills before it is let to its end: the second one finds what the first one left.
        for _ in range(2):
            killed += not in_child(low, high, out, chance.uniform(0.0, 1.0) * took_s)
            faults += faults_of(out)
            if (out / "report.md").exists():
                break
        if not (out / "report.md").exists() and not in_child(low, high, out, None):
            faults.append(f"kill {attempt}: the merge could not be gone on with")
        elif content(out) != expected:
            faults.append(f"kill {attempt}: other bytes than without a kill")
        shutil.rmtree(out)
    sys.stdout.write(json.dumps({"killed": killed, "faults": faults}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))

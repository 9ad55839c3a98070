"""Do verdicts flicker on a busy machine? Judges the demo's batch while every core is kept busy.

One round on the idle machine first, then the rounds under load. Two things are counted: verdicts
that differ from the idle round, and verdicts that are not what the demo expects. Exit status 1 if
there is any.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import track

from cupel import Client
from cupel.embedded import embedded_service
from report import Figure, show

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
from demo import demo_batch, judgeable, register, reward, surprises

# Ends with its parent, however that ends.
SPIN = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    sum(range(100_000))"


@contextlib.contextmanager
def busy_cores(processes: int) -> Iterator[None]:
    """Keeps cores busy with processes of ordinary priority."""
    with contextlib.ExitStack() as stack:
        for _ in range(processes):
            process = stack.enter_context(subprocess.Popen([sys.executable, "-c", SPIN]))
            stack.callback(process.kill)
        yield


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=20, help="rounds under load")
    parser.add_argument("--json", action="store_true", help="one JSON object per figure and line")
    arguments = parser.parse_args()
    differ = unexpected = 0
    cores = len(os.sched_getaffinity(0))
    with embedded_service() as url, Client(url) as client:
        register(client)
        batch = judgeable(demo_batch(), client.info())
        idle = reward(client, batch)
        unexpected += len(surprises(batch, idle))
        with busy_cores(cores):
            rounds = range(arguments.rounds)
            for _ in track(rounds, "judging under load", console=Console(stderr=True)):
                response = reward(client, batch)
                for line in surprises(batch, response):
                    unexpected += 1
                    print(f"not as expected: {line}", file=sys.stderr)
                pairs = zip(batch, idle.judgements, response.judgements, strict=True)
                for completion, before, now in pairs:
                    if before.verdict is now.verdict:
                        continue
                    print(
                        f"differs: {completion.problem} {completion.label}: "
                        f"{before.verdict} idle, {now.verdict} under load",
                        file=sys.stderr,
                    )
                    differ += 1
    judged = arguments.rounds * len(batch)
    show(
        f"Verdicts with {cores} cores kept busy",
        (
            Figure("load_verdicts_differ", differ, "verdicts", judged),
            Figure("load_verdicts_unexpected", unexpected, "verdicts", judged + len(batch)),
        ),
        as_json=arguments.json,
    )
    return 1 if differ or unexpected else 0


if __name__ == "__main__":
    sys.exit(main())

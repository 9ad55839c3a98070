"""Many open sessions and a steady stream of commands across them: rates, latencies, cross-talk.

Every session's folder holds a secret of its own and a counter. Each command checks the secret and
counts one up, in a session chosen at random; commands are sent at a fixed rate whatever the answers
take (an open loop), so that a service that falls behind shows it in its latencies. A session is
never sent two commands at one time: a command that would be waits for the one before it, and its
latency counts from the moment when it was due.

Exit status 1 if a command failed or saw what is not its session's.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import secrets
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import psutil  # type: ignore[import-untyped]  # its stubs are a package of their own
from rich.console import Console
from rich.progress import Progress

from cupel import AsyncClient, AsyncSession, CupelError, SessionLimits
from cupel.embedded import embedded_service
from report import Figure, show

COMMAND = 'n=$(($(cat count) + 1)); echo $n > count; echo "$(cat secret) $n"'  # counts what has run


@dataclass(slots=True)
class Guest:
    """One session and what is known of it."""

    session: AsyncSession
    secret: str
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    commands: int = 0


@dataclass(slots=True)
class Tally:
    """What came of all commands."""

    latencies_s: list[float] = field(default_factory=list)
    errors: int = 0
    cross_talk: int = 0


async def open_guest(client: AsyncClient, places: asyncio.Semaphore) -> Guest:
    """Opens a session and puts its secret into its folder."""
    guest = Guest(client.session(limits=SessionLimits(idle_s=86_400)), secrets.token_hex(8))
    async with places:
        await guest.session.open()
        made = await guest.session.run(f"echo {guest.secret} > secret; echo 0 > count")
    if made.exit_code != 0:
        raise SystemExit(f"a session could not be prepared: {made.stderr}")
    return guest


async def ask(guest: Guest, due_s: float, tally: Tally) -> None:
    """Runs one command, and checks that it ran in its own folder, once."""
    async with guest.turn:
        guest.commands += 1
        try:
            result = await guest.session.run(COMMAND, timeout_s=60)
        except CupelError as error:
            tally.errors += 1
            print(f"a command failed: {error}", file=sys.stderr)
            return
    tally.latencies_s.append(time.perf_counter() - due_s)
    if result.stdout.split() != [guest.secret, str(guest.commands)]:
        tally.cross_talk += 1
        print(f"not of this session: {result.stdout!r} {result.stderr!r}", file=sys.stderr)


async def drive(guests: Sequence[Guest], rate: float, seconds: float, progress: Progress) -> Tally:
    """Sends commands at a rate for some time, and waits for all answers."""
    tally = Tally()
    count = int(rate * seconds)
    bar = progress.add_task("commands", total=count)
    choice = random.Random(1)
    running = []
    begun_s = time.perf_counter()
    for number in range(count):
        due_s = begun_s + number / rate
        await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
        running.append(asyncio.create_task(ask(choice.choice(guests), due_s, tally)))
        progress.advance(bar)
    await asyncio.gather(*running)
    return tally


async def measure(url: str, arguments: argparse.Namespace) -> tuple[list[Figure], bool]:
    """Opens the sessions, sends the commands, and computes the figures."""
    with Progress(console=Console(stderr=True)) as progress:
        async with AsyncClient(url) as client:
            places = asyncio.Semaphore(16)
            bar = progress.add_task("opening sessions", total=arguments.sessions)
            opening = [open_guest(client, places) for _ in range(arguments.sessions)]
            begun_s = time.perf_counter()
            guests = []
            for opened in asyncio.as_completed(opening):
                guests.append(await opened)
                progress.advance(bar)
            opening_s = time.perf_counter() - begun_s
            info = (await client.info()).sessions
            begun_s = time.perf_counter()
            tally = await drive(guests, arguments.rate, arguments.seconds, progress)
            driving_s = time.perf_counter() - begun_s
            resident_bytes = _resident_bytes()
            for guest in guests:
                await guest.session.close()
    latencies = sorted(tally.latencies_s)
    n = len(latencies)
    quantiles = statistics.quantiles(latencies, n=100, method="inclusive")
    figures = [
        Figure(
            "sessions_open",
            len(guests),
            "sessions",
            len(guests),
            {
                "opening_s": opening_s,
                "boxes": info.boxes,
                "live": info.live,
                "parked": info.parked,
            },
        ),
        Figure(
            "command_rate",
            n / driving_s,
            "1/s",
            n,
            {
                "asked_rate": arguments.rate,
                "seconds": driving_s,
            },
        ),
        Figure("command_latency_p50", 1000 * quantiles[49], "ms", n),
        Figure(
            "command_latency_p99",
            1000 * quantiles[98],
            "ms",
            n,
            {
                "max_ms": 1000 * latencies[-1],
            },
        ),
        Figure("errors", tally.errors, "commands", n + tally.errors),
        Figure("cross_talk", tally.cross_talk, "commands", n),
        Figure(
            "resident_memory",
            resident_bytes / 2**20,
            "MiB",
            1,
            {
                "spool_mib": info.spool_bytes / 2**20,
            },
        ),
    ]
    return figures, bool(tally.errors or tally.cross_talk)


def _resident_bytes() -> int:
    """Of the embedded service with its boxes; what they share is counted once (PSS)."""
    total = 0
    for process in psutil.Process().children(recursive=True):
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue
    return total


def main() -> int:
    """Measures, shows, and says whether all went well."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sessions", type=int, default=500, help="how many are open")
    parser.add_argument("--rate", type=float, default=50.0, help="commands per second")
    parser.add_argument("--seconds", type=float, default=30.0, help="for how long")
    parser.add_argument("--boxes", type=int, help="boxes of sessions (CUPEL_SESSION_BOXES)")
    parser.add_argument("--json", action="store_true", help="one JSON object per figure and line")
    arguments = parser.parse_args()
    if arguments.boxes is not None:
        os.environ["CUPEL_SESSION_BOXES"] = str(arguments.boxes)
    with embedded_service() as url:
        figures, bad = asyncio.run(measure(url, arguments))
    title = f"{arguments.sessions} sessions, {arguments.rate:g} commands per second across them"
    show(title, figures, as_json=arguments.json)
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())

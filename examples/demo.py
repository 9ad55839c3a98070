"""A training step in miniature: eight completions for each of seven problems, judged and rewarded.

`make demo` starts a service of its own, registers the problems of this folder, sends one batch
shaped as GRPO makes it, and shows what came back. The completions are written as a model would
write them; among them are wrong, slow, crashing, endless and hostile programs. Each says which
verdict it must get: if one gets another, the demo shows it and exits with status 1.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from cupel import Client, CupelError, RewardSpec, RewardsResponse, Verdict, load_problem
from cupel.embedded import embedded_service
from cupel.schema import MEBIBYTE, Info, Language

EXAMPLES = Path(__file__).resolve().parent
LOW_COVERAGE = 2
"""The tiers of the low-coverage reward: the small inputs, which slow programs pass too."""

RIGHT = ("right.c", "right.cpp", "right.py")
GROUPS = {
    "two-sum": (*RIGHT, "slow.py", "wrong.py", "crash.py", "flood.c", "no_code"),
    "longest-increasing-subsequence": (
        *RIGHT,
        "slow.cpp",
        "wrong.cpp",
        "memory_hog.cpp",
        "broken.cpp",
        "endless.py",
    ),
    "distinct-in-windows": (
        *RIGHT,
        "slow.py",
        "wrong.py",
        "fork_bomb.c",
        "memory_hog.py",
        "no_code",
    ),
    "shortest-path": (*RIGHT, "slow.cpp", "wrong.py", "endless.py", "crash.c", "flood.py"),
    "prime-sum": (*RIGHT, "slow.c", "wrong.c", "sleeper.py", "broken.cpp", "memory_hog.cpp"),
    "fibonacci": (*RIGHT, "slow.cpp", "wrong.cpp", "fork_bomb.py", "crash.py", "no_code"),
    "mean-and-deviation": (*RIGHT, "slow.cpp", "wrong.py", "flood.py", "crash.c", "broken.cpp"),
}
"""The group of completions of each problem, by the file of their program."""

EXPECTED = {
    "right": Verdict.AC,
    "slow": Verdict.TLE,
    "wrong": Verdict.WA,
    "memory_hog": Verdict.MLE,
    "crash": Verdict.RTE,
    "endless": Verdict.TLE,
    "sleeper": Verdict.TLE,
    "flood": Verdict.OLE,
    "fork_bomb": Verdict.RTE,  # it is ended when it goes on forking against its limit
    "broken": Verdict.CE,
    "no_code": Verdict.CE,
}
"""The verdict that a program must get, by what it does."""

LANGUAGES = {".c": Language.C, ".cpp": Language.CPP, ".py": Language.PYTHON}
DRAFTS = {
    ".c": "int main(void) { return 1; }",
    ".cpp": "int main() { return 1; }",
    ".py": "raise NotImplementedError",
}
NO_CODE = "Let me think about this problem. A hash table looks promising, but I am not sure."


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer of the policy.

    Args:
        problem: The problem's id.
        label: The file of its program, or `no_code`.
        language: The program's language, None without one.
        text: What the model wrote.
        expected: The verdict that is right for it.
    """

    problem: str
    label: str
    language: Language | None
    text: str
    expected: Verdict


def demo_batch() -> tuple[Completion, ...]:
    """Builds the batch: all completions of the first problem, then of the second, and so on."""
    return tuple(
        Completion(
            problem,
            label,
            LANGUAGES.get(Path(label).suffix),
            _answer(problem, label, place),
            EXPECTED[Path(label).stem],
        )
        for problem, labels in GROUPS.items()
        for place, label in enumerate(labels)
    )


def judgeable(batch: Sequence[Completion], info: Info) -> tuple[Completion, ...]:
    """Leaves out completions in a language that the service's host has no toolchain for."""
    missing = {each.language for each in info.toolchains if not each.available}
    return tuple(completion for completion in batch if completion.language not in missing)


def _answer(problem: str, label: str, place: int) -> str:
    """Wraps a program in the prose of a model, in three styles by turns."""
    if label == "no_code":
        return NO_CODE
    own = EXAMPLES / problem / "solutions" / label
    program = own if own.exists() else EXAMPLES / "hostile" / label
    fence = LANGUAGES[program.suffix]
    block = f"```{fence}\n{program.read_text('utf-8')}```"
    draft = f"```{fence}\n{DRAFTS[program.suffix]}\n```"
    return (
        f"Here is a solution.\n\n{block}\n\nIt reads the input once.",
        f"<think>A first try:\n{draft}\nThat is not it.</think>\n{block}\n",
        f"I would begin with a skeleton:\n\n{draft}\n\nFilled in, it becomes:\n\n{block}\n",
    )[place % 3]


def register(client: Client) -> None:
    """Registers the problems of this folder under the names of their folders."""
    for name in GROUPS:
        client.problems.add(name, load_problem(EXAMPLES / name))


def reward(client: Client, batch: Sequence[Completion]) -> RewardsResponse:
    """Rewards a batch at low and at high coverage, from one judgement of each completion."""
    return client.rewards(
        [completion.problem for completion in batch],
        [completion.text for completion in batch],
        RewardSpec(coverage=LOW_COVERAGE),
        extra_rewards={"high": RewardSpec()},
    )


def surprises(batch: Sequence[Completion], response: RewardsResponse) -> list[str]:
    """Says for each verdict that is not the expected one what it is and what it should be."""
    return [
        f"{completion.problem} {completion.label}: {judgement.verdict}, expected "
        f"{completion.expected}. {judgement.message}".rstrip()
        for completion, judgement in zip(batch, response.judgements, strict=True)
        if judgement.verdict is not completion.expected
    ]


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _table(batch: Sequence[Completion], response: RewardsResponse) -> Table:
    table = Table(title="One batch, judged")
    for heading in ("problem", "completion", "language", "verdict", "failure"):
        table.add_column(heading, no_wrap=True)
    for heading in ("first failing tier", "cpu_s", "MiB", "reward low", "reward high"):
        table.add_column(heading, justify="right")
    columns = zip(
        batch,
        response.judgements,
        response.rewards,
        response.extra_rewards["high"],
        strict=True,
    )
    colours = {"none": "green", "correctness": "red", "optimization": "yellow"}
    previous = ""
    for completion, judgement, low, high in columns:
        if completion.problem != previous:
            table.add_section()
        colour = colours.get(judgement.failure_class, "magenta")
        table.add_row(
            completion.problem if completion.problem != previous else "",
            completion.label,
            judgement.language or "-",
            f"[{colour}]{judgement.verdict}[/]",
            judgement.failure_class,
            _number(judgement.first_failing_tier, "d"),
            f"{judgement.cpu_s:.3f}",
            f"{judgement.memory_bytes / MEBIBYTE:.1f}",
            _number(low, "g"),
            _number(high, "g"),
        )
        previous = completion.problem
    return table


def run(console: Console) -> int:
    """Runs the demo.

    Args:
        console: Where it is shown.

    Returns:
        The exit status: 0 if every verdict is the expected one.

    Raises:
        CupelError: The service did not start, or did not answer.
    """
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("starting a service (the first start compiles the runner)")
        with embedded_service() as url, Client(url) as client:
            progress.update(task, description=f"registering {len(GROUPS)} problems at {url}")
            register(client)
            info = client.info()
            batch = judgeable(demo_batch(), info)
            progress.update(
                task, description=f"judging {len(batch)} completions in {info.slots} boxes"
            )
            start = time.perf_counter()
            response = reward(client, batch)
            seconds = time.perf_counter() - start
            progress.update(task, description="stopping the service")
        progress.update(task, description="done", total=1, completed=1)
    console.print(_table(batch, response))
    for toolchain in info.toolchains:
        if not toolchain.available:
            console.print(f"[yellow]left out:[/] {toolchain.language}, {escape(toolchain.reason)}")
    verdicts = Counter(judgement.verdict.value for judgement in response.judgements)
    tests = sum(len(judgement.tests) for judgement in response.judgements)
    counts = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())
    console.print(f"{counts}; {tests} tests run in {seconds:.1f} s.")
    console.print(
        f"low: tiers 1 to {LOW_COVERAGE} must pass, high: all of them. Slow but right programs "
        "earn the one and not the other."
    )
    for line in surprises(batch, response):
        console.print(f"[red]not as expected:[/] {escape(line)}", highlight=False)
    return 1 if surprises(batch, response) else 0


def main() -> int:
    console = Console()
    if not console.is_terminal:
        console = Console(width=150)  # a pipe has no width; a wrapped table cannot be read
    try:
        return run(console)
    except CupelError as error:
        console.print(f"[red]the demo could not run:[/] {escape(str(error))}", highlight=False)
        return 2
    except KeyboardInterrupt:
        console.print("stopped")
        return 130


if __name__ == "__main__":
    sys.exit(main())

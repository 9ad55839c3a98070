"""What came of an action, in words for the policy: short, plain, the same words each time.

Nothing here is given hidden tests. Small word-level models can be taught these texts: besides what
programs print, they are made of `WORDS`, numbers, names of tests and verdicts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cupel.session_schema import CommandResult, PublicTestFeedback, SubmitFeedback

_WORDS = (
    "exit code killed by signal timed out stopped limit cpu wall memory output file_size "
    "processes errors compiler verdict message public hidden test tests passed of not judged input "
    "expected actual s turns calls submissions left written bytes to the interpreter was restarted "
    "refused cut off no action end with one block more than done write per turn run shell file "
    "submit is empty whole has path must hold your answer and variables are lost characters "
    "judge failed this did count again a or nothing PATH : , ..."
)
WORDS = tuple(_WORDS.split())
"""The words of all observations."""


def describe_command(result: CommandResult) -> str:
    """How a command or program ended and what it printed."""
    limit = getattr(result, "limit", None)  # of an execution only
    if result.timed_out:
        lines = ["timed out"]
    elif limit is not None:
        lines = [f"stopped : {limit} limit"]
    elif result.signal is not None:
        lines = [f"killed by signal {result.signal}"]
    else:
        lines = [f"exit code {result.exit_code}"]
    if getattr(result, "restarted", False):
        lines.append("the interpreter was restarted , variables are lost")
    if result.stdout.strip():
        lines += ["output :", result.stdout.rstrip()]
    if result.stderr.strip():
        lines += ["errors :", result.stderr.rstrip()]
    return "\n".join(lines)


def describe_submission(feedback: SubmitFeedback) -> str:
    """A submission's feedback."""
    if feedback.verdict == "JE":
        return "the judge failed , this did not count : submit again"
    hidden = feedback.hidden_tests
    lines = [f"verdict {feedback.verdict}"]
    if feedback.message:
        lines.append(f"message : {feedback.message}")
    if feedback.compile is not None and feedback.compile.diagnostics.strip():
        lines += ["compiler :", feedback.compile.diagnostics.strip()]
    lines.append(f"hidden tests passed {hidden.passed} of {hidden.total}")
    for test in feedback.public_tests:
        lines += _describe_public(test)
    return "\n".join(lines)


def cut_middle(text: str, characters: int) -> str:
    """A text of at most about so many characters: its head and its tail."""
    if len(text) <= characters:
        return text
    half = characters // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters cut ...\n{text[-half:]}"


def _describe_public(test: PublicTestFeedback) -> list[str]:
    if test.verdict is None:
        return [f"public test {test.name} : not judged"]
    time = "" if test.cpu_s is None else f" , {test.cpu_s:.1f} s"
    lines = [f"public test {test.name} : {test.verdict}{time}"]
    if test.verdict == "AC":
        return lines
    if test.signal is not None:
        lines.append(f"killed by signal {test.signal}")
    elif test.exit_code:
        lines.append(f"exit code {test.exit_code}")
    for name, text in (
        ("input", test.input),
        ("expected", test.expected),
        ("actual", test.actual),
        ("errors", test.stderr),
    ):
        if text:
            lines += [f"{name} :", text.rstrip()]
    return lines

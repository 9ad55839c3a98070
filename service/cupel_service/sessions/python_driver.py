"""The program that is a session's Python interpreter; it runs inside the box and is untrusted.

It reads a line with a length and a source of so many bytes, again and again, runs each piece in one
namespace as a notebook would, and ends its output on both streams with a mark. Whoever forges the
mark deceives only himself: nothing here decides on a reward.
"""

from __future__ import annotations

import ast
import builtins
import linecache
import os
import sys
import time
import traceback
import types
from typing import BinaryIO


def _main() -> None:
    mark = b"\0" + sys.argv[1].encode() + b"\0"
    commands = os.fdopen(os.dup(0), "rb")  # the duplicate is not inherited by child processes
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)  # what a piece reads is at its end, instead of the next piece
    os.close(null)
    sys.argv[:] = [""]
    sys.path[0] = ""
    module = types.ModuleType("__main__")
    module.__dict__["__builtins__"] = builtins
    sys.modules["__main__"] = module
    _serve(commands, mark, module.__dict__)


def _serve(commands: BinaryIO, mark: bytes, namespace: dict[str, object]) -> None:
    number = 0
    while header := commands.readline():
        source = commands.read(int(header)).decode("utf-8", "replace")
        number += 1
        begun_ns = time.process_time_ns()
        code = _run(source, f"<cell {number}>", namespace)
        for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
            try:
                if stream is not None:
                    stream.flush()
            except (OSError, ValueError, AttributeError):  # the piece closed or replaced it
                continue
        end = mark + b"%d %d\n" % (code, time.process_time_ns() - begun_ns)
        _write(1, end)
        _write(2, end)


def _run(source: str, name: str, namespace: dict[str, object]) -> int:
    """Runs one piece; the value of a last expression is shown. Returns its exit code."""
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    try:
        tree = ast.parse(source, name)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, name, "exec"), namespace)  # noqa: S102 (it is what an interpreter does)
        if isinstance(last, ast.Expr):
            shown = compile(ast.Expression(last.value), name, "eval")
            sys.displayhook(eval(shown, namespace))  # noqa: S307 (likewise)
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return (stop.code or 0) & 0xFF
        print(stop.code, file=sys.stderr)  # noqa: T201 (as Python itself does)
        return 1
    except BaseException as error:  # noqa: BLE001 (whatever the piece raises is its own matter)
        trace = error.__traceback__
        own = trace.tb_next if trace is not None else None
        traceback.print_exception(error.with_traceback(own))
        return 1
    return 0


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


_main()

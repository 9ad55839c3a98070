"""An ordinary user's boxes: one user owns everything in them, and still a run changes nothing.

The suites beside this one run as whoever runs pytest. As root, this file also starts boxes as an
ordinary user, with the system's Python, on a copy of the sandbox that this user can read.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import cupel_sandbox

USER = 54321
PYTHON = "/usr/bin/python3"

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not Path(PYTHON).exists() or not shutil.which("setpriv"),
    reason="needs root, /usr/bin/python3 and setpriv, to become an ordinary user",
)

# Without cgroups, since none are delegated to this user: the promises here do not need them.
SCRIPT = """
import json, sys
from cupel_sandbox.box import Run, RunLimits
from cupel_sandbox.native import NativeBoxConfig, NativeHost

host = NativeHost(NativeBoxConfig(allow_degraded=frozenset({"cgroup"})))
box = host.open_box()
box.put("input", b"first")
results = []
for command in json.load(sys.stdin):
    run = Run(
        ("/bin/sh", "-c", command),
        stdin="input",
        limits=RunLimits(cpu_s=5, wall_s=20),
        environment={"PATH": "/usr/bin:/bin"},
    )
    (outcome,) = box.run([run])
    results.append(outcome.stdout.decode())
box.close()
host.close()
print(json.dumps({"user": host.facts.user, "results": results}))
"""

# The same, each command in a workspace of its own, with a file that went through a snapshot.
SESSIONS_SCRIPT = """
import json, sys, threading
from cupel_sandbox.native import NativeBoxConfig, NativeHost
from cupel_sandbox.workspace import Command, Workspace, WorkspaceLimits

host = NativeHost(NativeBoxConfig(allow_degraded=frozenset({"cgroup"})))
box = host.open_box()
results = []
for command in json.load(sys.stdin):
    workspace = Workspace(box, WorkspaceLimits(cpu_s=5, wall_s=60))
    said, over = bytearray(), threading.Event()
    workspace.write("input", b"first")
    workspace.load(workspace.save(10_000))
    workspace.start(
        Command(("/bin/sh", "-c", command), environment={"PATH": "/usr/bin:/bin"}),
        lambda stream, data: said.extend(data),
        lambda ended: over.set(),
    )
    over.wait(60)
    alive = "over" if workspace.ended else str(workspace.alive())
    workspace.close()
    results.append(said.decode() + alive)
box.close()
host.close()
print(json.dumps({"user": host.facts.user, "results": results}))
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A copy of the sandbox that everybody can read (pytest's own folders are for one user)."""
    with tempfile.TemporaryDirectory(prefix="cupel-test-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        package = Path(cupel_sandbox.__file__).parent
        for source in (package, package.parent / "runner"):
            if source.exists():
                shutil.copytree(source, folder / source.name)
        (folder / "cache").mkdir()
        os.chown(folder / "cache", USER, USER)
        yield folder


def run_as_ordinary_user(folder: Path, *commands: str, script: str = SCRIPT) -> list[str]:
    """What shell commands print that run one after another in one box of an ordinary user."""
    become = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
    done = subprocess.run(
        [*become, PYTHON, "-c", script],
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(folder),
            "XDG_CACHE_HOME": f"{folder}/cache",
        },
    )
    if "cannot create namespaces" in done.stderr and not os.environ.get("CI"):
        pytest.skip("this host gives ordinary users no user namespaces")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["user"] == "ordinary"
    return list(answer["results"])


def test_an_ordinary_users_run_leaves_nothing_and_changes_nothing(folder: Path) -> None:
    look = (
        "cat; ls -A /work /tmp /dev/shm; stat -c %a /work /tmp; cat /sub/input; "
        "set -- /proc/[0-9]*; echo $#"
    )
    hostile = (
        "chmod 0 /work /tmp; echo x >/dev/shm/left; echo y >/tmp/left; "
        "echo z >/sub/input; echo z >/sub/new; chmod 777 /sub; echo z >/proc/self/fd/0; "
        "(trap '' TERM HUP; setsid sleep 1000 &) ; kill -9 1; id -u"
    )
    before, user, after = run_as_ordinary_user(folder, look, hostile, look)
    assert user == "1000\n"
    assert before.startswith("first/dev/shm:")
    assert "1777\n1777\nfirst" in before
    assert after == before


def test_an_ordinary_users_sessions_leave_nothing_to_each_other(folder: Path) -> None:
    look = "cat input; ls -A /work /tmp /dev/shm; echo $(ls /sub); kill -0 -1; echo $?"
    hostile = (
        "echo x > /tmp/left; echo x > /dev/shm/left; echo x > /sub/new; (setsid sleep 1000 &); "
        "dd if=/proc/$PPID/mem count=1 2>/dev/null; echo x > /proc/$PPID/fd/1; "
        "chmod 0 /work; echo 1 > /proc/$PPID/oom_score_adj"
    )
    murder = "kill -9 $PPID; sleep 1000"
    before, left, over, after = run_as_ordinary_user(
        folder, look, hostile, murder, look, script=SESSIONS_SCRIPT
    )
    assert before.startswith("first/dev/shm:")
    assert after == before
    assert left.endswith("\n1")
    assert left.count("cannot create") == 3  # /sub/new, and the agent's own
    assert over == "over"

"""A program learns nothing of the host, of the service, or of anybody else's programs."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import pytest

from box_stage import Stage

LIST = """
    import os, sys
    print(*sorted(os.listdir(sys.argv[1])))
"""


OF_AN_IMAGE = {"/etc/hostname", "/run", "/var/log", "/var/lib", "/usr/local", "/opt", "/srv"}


def test_only_what_is_needed_of_the_host_is_shown(stage: Stage) -> None:
    if stage.in_container:
        pytest.skip("a container shows an image, and nothing of the host")
    allowed = {"bin", "dev", "etc", "lib", "lib32", "lib64", "libx32", "proc", "sbin", "sub", "tmp"}
    mounted = {Path(stage.python_executable).parts[1]}
    shown = set(stage.prints(LIST, "/").split())
    assert shown <= allowed | {"usr", "var", "work", ".scratch"} | mounted
    allowed = {
        "alternatives",
        "group",
        "hosts",
        "localtime",
        "mime.types",
        "nsswitch.conf",
        "passwd",
    }
    assert set(stage.prints(LIST, "/etc").split()) <= allowed | {
        *("ld.so.cache", "ld.so.conf", "ld.so.conf.d"),
    }
    assert stage.prints(LIST, "/var") == "tmp"


@pytest.mark.parametrize(
    "path",
    [
        *("/root", "/home", "/etc/shadow", "/etc/hostname", "/etc/machine-id", "/etc/resolv.conf"),
        *(
            "/etc/ssl/private",
            "/sys",
            "/run",
            "/boot",
            "/mnt",
            "/media",
            "/opt",
            "/srv",
            "/var/log",
        ),
        *("/var/lib", "/usr/local", "/dev/mem", "/dev/sda", "/dev/vda", "/dev/kvm", "/dev/tty"),
        *(
            "/.old",
            "/proc/1/root",
            "/proc/1/environ",
            "/proc/1/cmdline",
            "/proc/kcore",
            "/proc/config",
        ),
    ],
)
def test_this_is_not_there(stage: Stage, path: str) -> None:
    if Path(stage.python_executable).is_relative_to(path):
        pytest.skip("this host's Python lies there")
    if stage.in_container and path in OF_AN_IMAGE:
        pytest.skip("an image's own, not the host's")
    outcome = stage.python(
        """
        import os, sys
        HARMLESS = (b"", b"/.cupel/runner\\0container")  # a container's PID 1
        try:
            file = os.open(sys.argv[1], os.O_RDONLY)
            if os.path.isdir(file):
                print("read" if os.listdir(file) else "", end="")
            elif os.read(file, 100).rstrip(b"\\0") not in HARMLESS:
                print("read")
        except OSError:
            pass
        """,
        path,
    )
    assert (outcome.exit_code, outcome.stdout) == (0, b""), outcome.stderr


def test_no_file_of_the_project_or_of_this_test_is_seen(stage: Stage, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    secret.chmod(0o644)
    for path in (secret, Path(__file__)):
        outcome = stage.sh(f"cat {path} /proc/self/cwd/../../../..{path}")
        assert outcome.stdout == b""


def test_a_way_out_by_dots_or_links_ends_in_the_box(stage: Stage) -> None:
    dots = stage.prints(LIST, "/" + "../" * 50)
    assert dots == stage.prints(LIST, "/")
    assert dots == stage.prints(LIST, "/proc/self/root/")


def test_only_its_own_processes_are_seen(stage: Stage) -> None:
    """A container's /proc is the engine's: there it shows a PID 1, and no more of it."""
    seen = stage.prints(
        "import os; print({p for p in os.listdir('/proc') if p.isdigit()} - {str(os.getpid())})"
    )
    assert seen in {"set()", "{'1'}" if stage.in_container else ""}


def test_only_three_descriptors_are_open(stage: Stage) -> None:
    outcome = stage.c(
        """
        #include <fcntl.h>
        #include <stdio.h>
        int main(void) {
            for (int fd = 0; fd < 4096; fd++)
                if (fcntl(fd, F_GETFD) >= 0) printf("%d ", fd);
        }
        """
    )
    assert outcome.stdout == b"0 1 2 "


def test_descriptors_lead_to_nothing_but_the_run(stage: Stage) -> None:
    outcome = stage.python(
        """
        import os
        for fd in (0, 1, 2):
            print(os.readlink(f"/proc/self/fd/{fd}").split(":")[0].split(" ")[0])
        """,
        stdin=b"x",
    )
    assert outcome.stdout.split() == [b"/memfd", b"pipe", b"pipe"]


def test_the_environment_of_the_service_is_not_there(stage: Stage) -> None:
    marker = secrets.token_hex(16)
    os.environ["CUPEL_TEST_SECRET"] = marker
    try:
        outcome = stage.python(
            """
            import os
            assert dict(os.environ).keys() <= {"LC_CTYPE"}, os.environ
            print(open("/proc/self/environ").read())
            """
        )
    finally:
        del os.environ["CUPEL_TEST_SECRET"]
    assert (outcome.exit_code, outcome.stdout) == (0, b"\n"), outcome.stderr


def test_the_host_name_is_not_told(stage: Stage) -> None:
    assert stage.prints("import os; print(os.uname().nodename)") == "box"


@pytest.mark.parametrize("path", ["/proc/kmsg", "/proc/kallsyms", "/proc/timer_list", "/proc/keys"])
def test_what_the_kernel_tells_of_others_is_masked(stage: Stage, path: str) -> None:
    assert stage.sh(f"cat {path}").stdout == b""


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user has no other user's id to give")
def test_a_users_name_is_not_that_of_another_run(stage: Stage) -> None:
    ids = stage.prepare_python(
        "import os; print(os.getuid(), os.geteuid(), os.getgid(), os.getgroups())"
    )
    first, second = (outcome.stdout for outcome in stage.box.run([ids, ids]))
    assert first != second
    assert b" 0 " not in first + second
    assert first.endswith(b"[]\n")


def test_arguments_of_the_runner_are_not_seen(stage: Stage) -> None:
    outcome = stage.sh("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    assert b"uid-first" not in outcome.stdout
    assert b"cgroup" not in outcome.stdout


@pytest.mark.parametrize("name", ["cpu", "io", "memory"])
def test_pressure_of_the_host_is_neither_read_nor_watched(stage: Stage, name: str) -> None:
    """An open pressure file can hold a trigger, which makes the kernel work."""
    path = f"/proc/pressure/{name}"
    outcome = stage.sh(f"test -e {path} || exit 0; test -c {path} && cat {path}")
    assert (outcome.exit_code, outcome.stdout) == (0, b"")

"""Nothing that a run writes is there for the next, and nothing that it may only read changes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from box_stage import LIMITS, MOUNTS, OWNER, QUICK, Compiler, Stage, stage_in
from cupel_sandbox.box import MEBIBYTE, Limit
from cupel_sandbox.docker_boxes import DockerBoxConfig, DockerHost
from cupel_sandbox.errors import BoxRefused
from cupel_sandbox.native import NativeBoxConfig, NativeHost
from cupel_sandbox.pool import Host
from docker_stage import IMAGE

PLACES = ("/work", "/tmp", "/dev/shm", "/var/tmp")

START = """
    import os, socket
    places = [p for p in ("/work", "/tmp", "/dev/shm", "/var/tmp") if os.access(p, os.W_OK)]
"""
LEFTOVERS = {
    "file": "for p in places: open(p + '/f' + p.replace('/', '.'), 'w').write('x')",
    "hidden file": "for p in places: open(p + '/.f', 'w').write('x')",
    "deep directory": "\n".join(
        [
            "for p in places[:3]:",
            "    os.chdir(p)",
            "    os.mkdir('d' * 100)",
            "    open('d' * 100 + '/end', 'w').close()",
            # From its end, by short names: AppArmor refuses to make what lies beyond 8 KiB of path.
            "    for n in range(1000):",
            "        os.mkdir('new')",
            "        os.rename('d' * 100, 'new/' + 'd' * 100)",
            "        os.rename('new', 'd' * 100)",
        ]
    ),
    "5000 files": "for n in range(5000): open(f'/tmp/{n}', 'w').close()",
    "wide and deep": "\n".join(
        [
            "for a in range(10):",
            "    for b in range(10):",
            "        os.makedirs(f'/tmp/{a}/{b}/c/d')",
            "        open(f'/tmp/{a}/{b}/c/d/file', 'w').close()",
        ]
    ),
    "closed directories": "\n".join(
        [
            "for p in places[:3]:",
            "    os.makedirs(p + '/a/b/c')",
            "    open(p + '/a/b/c/file', 'w').close()",
            "    for d in ('/a/b/c', '/a/b', '/a'): os.chmod(p + d, 0)",
        ]
    ),
    "odd names": "\n".join(
        [
            "for name in (b'\\xff\\xfe', b'\\n', b'*', b'-rf', b' ', b'lifted-0', b'lifted-1',",
            "             b'...', b'x' * 255):",
            "    open(b'/tmp/' + name, 'w').close()",
            "    os.makedirs(b'/work/' + name + b'/' + name + b'/inner')",
        ]
    ),
    "hard links": "\n".join(
        [
            "os.mkdir('/tmp/d'); open('/tmp/a', 'w').close()",
            "for n in range(9): os.link('/tmp/a', f'/tmp/d/{n}')",
        ]
    ),
    "symbolic links": "\n".join(
        [
            "os.symlink('/tmp', '/work/up'); os.symlink('/etc/passwd', '/tmp/p')",
            "os.symlink('/sub', '/tmp/sub'); os.symlink('loop', '/tmp/loop')",
            "os.mkdir('/work/d'); os.symlink('/', '/work/d/root'); os.mkdir('/work/d/full')",
            "open('/work/d/full/file', 'w').close()",
        ]
    ),
    "pipes and sockets": "\n".join(
        [
            "os.mkfifo('/tmp/pipe'); os.mkdir('/work/d'); os.mkfifo('/work/d/pipe')",
            "socket.socket(socket.AF_UNIX).bind('/tmp/socket')",
        ]
    ),
    "sparse file": "f = open('/tmp/s', 'w'); f.truncate(60 << 20); f.seek(50 << 20); f.write('x')",
    "read-only file": "open('/tmp/f', 'w').close(); os.chmod('/tmp/f', 0)",
    "sticky directory": "os.makedirs('/tmp/a/b'); os.chmod('/tmp/a', 0o1777)",
    "unlinked and open": "f = os.open('/tmp/f', os.O_CREAT | os.O_RDWR); os.unlink('/tmp/f')",
    "nameless": "f = os.open('/tmp', os.O_TMPFILE | os.O_RDWR); os.write(f, b'x')",
    "working directory gone": "os.mkdir('/work/d'); os.chdir('/work/d'); os.rmdir('/work/d')",
}
"""What a hostile program leaves behind, each by name."""


@pytest.mark.parametrize("code", LEFTOVERS.values(), ids=LEFTOVERS.keys())
def test_no_file_is_left_for_the_next_run(stage: Stage, code: str) -> None:
    indented = code.replace("\n", "\n    ")
    stage.prints(f"{START}\n    {indented}\n")
    left = stage.prints(f"{START}\n    print(len(places), *[os.listdir(p) for p in places])")
    assert left == ("3 [] [] []" if stage.in_container else "4 [] [] [] []")
    used = stage.prints("import os; s = os.statvfs('/tmp'); print((s.f_blocks - s.f_bfree) * 4096)")
    assert int(used) == 0


@pytest.mark.parametrize("place", PLACES)
def test_a_place_to_write_stays_as_it_is(stage: Stage, place: str) -> None:
    look = f"""
        import os
        s = os.stat({place!r})
        print(oct(s.st_mode), s.st_uid, s.st_gid, s.st_ino, s.st_nlink)
    """
    if stage.in_container and place == "/var/tmp":
        pytest.skip("no place to write in a container")
    before = stage.prints(look)
    assert before.startswith(f"0o41777 {OWNER} {OWNER}")
    stage.python(
        f"""
        import os
        for attempt in (lambda: os.chmod({place!r}, 0o700), lambda: os.rmdir({place!r}),
                        lambda: os.rename({place!r}, "/tmp/other"),
                        lambda: os.chown({place!r}, 1, 1),
                        lambda: os.utime({place!r}, (1, 1)),
                        lambda: os.setxattr({place!r}, "user.note", b"1")):
            try:
                attempt()
                os.write(1, b"done")
            except OSError:
                pass
        """
    )
    assert stage.prints(look) == before
    assert stage.prints(f"import os; print(os.listxattr({place!r}))") == "[]"


def test_only_the_places_to_write_can_be_written(stage: Stage) -> None:
    written = stage.prints(
        """
        import os
        for folder, folders, _ in os.walk("/", followlinks=False):
            if folder == "/":
                folders[:] = [name for name in folders if name != "proc"]
            if folder in ("/usr/share", "/usr/include", "/usr/lib"):
                folders.clear()
            if os.access(folder, os.W_OK):
                print(folder)
                folders.clear()
        """
    )
    assert set(written.split()) == {"/work", "/tmp", "/dev/shm"}


# ---- the submission

CHANGES = {
    "write": 'os.close(os.open("/sub/folder/file", os.O_WRONLY))',
    "truncate": 'os.truncate("/sub/folder/file", 0)',
    "chmod": 'os.chmod("/sub/folder/file", 0o777)',
    "chown": 'os.chown("/sub/folder/file", os.getuid(), os.getgid())',
    "unlink": 'os.unlink("/sub/folder/file")',
    "rename": 'os.rename("/sub/folder/file", "/sub/folder/other")',
    "rename the folder": 'os.rename("/sub/folder", "/sub/other")',
    "replace": 'open("/tmp/new", "w").close(); os.replace("/tmp/new", "/sub/folder/file")',
    "new file": 'os.close(os.open("/sub/new", os.O_WRONLY | os.O_CREAT))',
    "new folder": 'os.mkdir("/sub/new")',
    "new link": 'os.symlink("/tmp", "/sub/new")',
    "hard link": 'os.link("/sub/folder/file", "/sub/new")',
    "hard link from elsewhere": 'os.link("/sub/folder/file", "/tmp/new")',
    "nameless file": 'os.close(os.open("/sub", os.O_TMPFILE | os.O_RDWR))',
    "times": 'os.utime("/sub/folder/file", (1, 1))',
    "times of the folder": 'os.utime("/sub", (1, 1))',
    "mode of the folder": 'os.chmod("/sub", 0o777)',
    "attribute": 'os.setxattr("/sub/folder/file", "user.note", b"1")',
    "through stdin": 'os.write(os.open("/proc/self/fd/0", os.O_WRONLY), b"x")',
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_run_cannot_change_the_submission(stage: Stage, change: str) -> None:
    stage.box.put("folder/file", b"content", executable=True)
    run = stage.prepare_python(
        f"""
        import os
        try:
            {change}
            print("changed")
        except OSError:
            pass
        """,
        stdin="folder/file",
    )
    outcome = stage.only(run)
    assert (outcome.exit_code, outcome.stdout) == (0, b""), outcome.stderr
    assert stage.box.get("folder/file", 100) == b"content"


def test_what_a_compiler_leaves_open_is_closed_to_later_runs(stage: Stage) -> None:
    outcome = stage.python(
        """
        import os
        os.chmod("/sub", 0o777)
        os.makedirs("/sub/deep/er")
        for path in ("/sub/program", "/sub/deep/er/file"):
            open(path, "w").write("#!/bin/sh\\nid -u")
            os.chmod(path, 0o6777)
        os.chmod("/sub/deep", 0o7777)
        os.chmod("/sub/deep/er", 0)
        """,
        writable_submission=True,
    )
    assert outcome.exit_code == 0, outcome.stderr
    modes = stage.prints(
        """
        import os
        for path in ("/sub", "/sub/program", "/sub/deep", "/sub/deep/er", "/sub/deep/er/file"):
            status = os.stat(path)
            print(oct(status.st_mode & 0o7777), status.st_uid, status.st_gid)
        """
    )
    assert set(modes.split("\n")) == {f"0o755 {OWNER} {OWNER}"}
    outcome = stage.sh(
        "for f in /sub/program /sub/deep/er/file; do echo x >$f; rm -f $f; touch /sub/new; done"
    )
    assert b"id -u" in stage.box.get("program", 100)
    assert b"id -u" in stage.box.get("deep/er/file", 100)
    with pytest.raises(BoxRefused):
        stage.box.get("new", 100)


def test_a_daemon_of_a_compile_run_cannot_change_the_product_later(stage: Stage) -> None:
    daemon = """
        import os, time
        file = os.open("/sub/product", os.O_CREAT | os.O_RDWR, 0o777)
        os.write(file, b"good")
        if not os.fork():
            os.setsid()
            while True:
                os.pwrite(file, b"evil" if os.path.exists("/tmp/later") else b"good", 0)
        time.sleep(0.05)
    """
    assert stage.python(daemon, writable_submission=True).exit_code == 0
    stage.sh("touch /tmp/later; sleep 0.1")
    assert stage.box.get("product", 100) == b"good"


def test_odd_files_of_a_compile_run_are_not_kept(stage: Stage) -> None:
    outcome = stage.python(
        """
        import os, socket
        os.symlink("/etc/passwd", "/sub/link")
        os.mkfifo("/sub/pipe")
        socket.socket(socket.AF_UNIX).bind("/sub/socket")
        """,
        writable_submission=True,
    )
    assert outcome.exit_code == 0, outcome.stderr
    kept = stage.prints("import os; print([n for n in os.listdir('/sub') if '.py' not in n])")
    assert kept == "[]"


def test_input_put_for_one_run_is_not_changed_for_the_next(stage: Stage) -> None:
    stage.box.put("input", b"first")
    run = stage.prepare_python(
        """
        import os
        for attempt in (lambda: os.write(0, b"x"), lambda: os.ftruncate(0, 0),
                        lambda: os.pwrite(0, b"x", 0), lambda: os.fchmod(0, 0o777)):
            try:
                attempt()
            except OSError:
                pass
        print(os.lseek(0, 0, os.SEEK_CUR), os.read(0, 100).decode())
        """,
        stdin="input",
    )
    outcomes = list(stage.box.run([run, run]))
    assert [outcome.stdout for outcome in outcomes] == [b"0 first\n"] * 2


@pytest.mark.parametrize("stdin", [b"", b"first"], ids=["empty", "inline"])
def test_the_open_file_behind_stdin_is_not_shared_with_the_next_run(
    stage: Stage, stdin: bytes
) -> None:
    """Its flags, locks and owner belong to the open file, not to the process."""
    look = stage.prepare_python(
        """
        import fcntl, os
        print(fcntl.fcntl(0, fcntl.F_GETFL) & (os.O_NONBLOCK | os.O_APPEND | os.O_ASYNC),
              fcntl.fcntl(0, fcntl.F_GETSIG), len(os.read(0, 100)))
        try:
            fcntl.flock(os.open("/dev/null", os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
            print("unlocked")
        except OSError:
            print("locked")
        """,
        stdin=stdin,
    )
    mark = stage.prepare_python(
        """
        import fcntl, os
        fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_NONBLOCK | os.O_APPEND)
        fcntl.fcntl(0, fcntl.F_SETSIG, 10)
        fcntl.flock(0, fcntl.LOCK_EX)
        try:
            os.write(0, b"left for the next")
        except OSError:
            pass
        """,
        stdin=stdin,
    )
    before, _, after = stage.box.run([look, mark, look])
    assert before.stdout == after.stdout == f"0 0 {len(stdin)}\nunlocked\n".encode()


# ---- room


@pytest.fixture
def small_stage(host: Host, compiler: Compiler) -> Iterator[Stage]:
    small: Host
    if host.facts.box == "docker":
        small = DockerHost(DockerBoxConfig(image=IMAGE, scratch_bytes=16 * MEBIBYTE))
    else:
        small = NativeHost(NativeBoxConfig(mounts=MOUNTS, scratch_bytes=16 * MEBIBYTE))
    box = small.open_box()
    yield stage_in(small, box, compiler)
    box.close()
    small.close()


FILL = """
    import os
    written = 0
    try:
        with open("/tmp/f", "wb", buffering=0) as file:
            while True:
                written += file.write(bytes(1 << 16))
    except OSError as error:
        print(written >> 20, error.errno)
"""


def test_a_full_disk_is_empty_again_for_the_next_run(small_stage: Stage) -> None:
    for _ in range(3):
        assert small_stage.prints(FILL) == "16 28"


def test_a_full_submission_refuses_and_takes_files_again_after_a_reset(small_stage: Stage) -> None:
    small_stage.box.put("first", bytes(10 * MEBIBYTE))
    with pytest.raises(BoxRefused):
        small_stage.box.put("second", bytes(10 * MEBIBYTE))
    assert small_stage.box.get("first", 10 * MEBIBYTE) == bytes(10 * MEBIBYTE)
    assert small_stage.is_usable()
    small_stage.box.reset()
    small_stage.box.put("second", bytes(10 * MEBIBYTE))


def test_all_inodes_used_up_are_free_for_the_next_run(stage: Stage) -> None:
    exhaust = """
        #include <errno.h>
        #include <fcntl.h>
        #include <stdio.h>
        #include <unistd.h>
        int main(void) {
            char name[32];
            int count = 0;
            for (;; count++) {
                sprintf(name, "/tmp/%d", count);
                int file = creat(name, 0600);
                if (file < 0) break;
                close(file);
            }
            printf("%d", count > 60000 && errno == ENOSPC);
        }
    """
    limits = replace(LIMITS, memory_bytes=1024 * MEBIBYTE)
    assert stage.c(exhaust, limits=limits).stdout == b"1"
    assert stage.prints("import os; print(os.listdir('/tmp'))") == "[]"


def test_memory_written_to_files_is_given_back(stage: Stage) -> None:
    limits = replace(LIMITS, memory_bytes=64 * MEBIBYTE)
    write = "head -c 50000000 /dev/zero >/tmp/f; head -c 100 /tmp/f >/dev/null"
    for _ in range(5):
        outcome = stage.sh(write, limits=limits)
        assert (outcome.exit_code, outcome.limit) == (0, None)


def largest_library() -> Path | None:
    """A file that boxes show and that nobody is likely to be using."""
    files = [
        file for file in Path("/usr/lib").rglob("*") if re.search(r"lto1|\.a$|\.so", file.name)
    ]
    sizes = {
        file: file.stat().st_size for file in files if file.is_file() and not file.is_symlink()
    }
    largest = max(sizes, key=lambda file: sizes[file], default=None)
    return largest if largest and sizes[largest] >= 16 * MEBIBYTE else None


def test_files_read_by_one_run_are_no_extra_memory_for_the_next(stage: Stage) -> None:
    """Page cache that a box was charged for must not become room beyond a later run's limit."""
    library = largest_library()
    if library is None:
        pytest.skip("needs a file of 16 MiB below /usr/lib")
    file = os.open(library, os.O_RDONLY)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(file)
    if stage.sh(f"cat {library} >/dev/null").exit_code:
        pytest.skip("the image lacks that file")
    hoard = """
        #include <stdlib.h>
        #include <string.h>
        int main(void) { memset(malloc(14 << 20), 1, 14 << 20); }
    """
    outcome = stage.c(hoard, limits=replace(QUICK, memory_bytes=8 * MEBIBYTE))
    assert outcome.limit is Limit.MEMORY


def test_time_stamps_of_shared_folders_carry_no_message(stage: Stage) -> None:
    stage.sh("touch -d @1234567890 /work /tmp /dev/shm; echo >/tmp/x; rm /tmp/x")
    seen = stage.sh("stat -c '%Y %X' /work /tmp /dev/shm").stdout
    assert b"1234567890" not in seen
    if OWNER == 0:  # else the folders are new ones, with the time of their making
        assert set(seen.split()) == {b"0"}

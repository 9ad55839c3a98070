"""What every box promises of the files that are put into it and got out of it."""

from __future__ import annotations

import pytest

from box_stage import Stage
from cupel_sandbox.box import MEBIBYTE
from cupel_sandbox.errors import BoxRefused


@pytest.mark.parametrize(
    "content", [b"", b"\0", bytes(range(256)) * (3 * MEBIBYTE // 256)], ids=["0", "1", "3 MB"]
)
@pytest.mark.parametrize("path", ["file", "a/b/c/file", "with space/ü\n"])
def test_what_is_put_can_be_got_and_read(stage: Stage, path: str, content: bytes) -> None:
    stage.box.put(path, content)
    assert stage.box.get(path, len(content)) == content
    outcome = stage.sh(f"cat '/sub/{path}'")
    assert outcome.stdout == content


def test_putting_again_replaces(stage: Stage) -> None:
    stage.box.put("file", b"a long first content")
    stage.box.put("file", b"second")
    assert stage.box.get("file", 100) == b"second"


def test_only_an_executable_can_be_executed(stage: Stage) -> None:
    script = b"#!/bin/sh\necho ran\n"
    stage.box.put("script", script, executable=True)
    assert stage.sh("/sub/script").stdout == b"ran\n"
    stage.box.put("script", script)
    assert stage.sh("/sub/script").exit_code == 126


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/etc/x",
        "/sub/x",
        "..",
        "../x",
        "a/../../x",
        ".",
        "a/",
        "x" * 300,
        "a/" * 3000 + "x",
    ],
    ids=lambda path: path[:12],
)
def test_a_path_that_leaves_or_is_no_file_is_refused(stage: Stage, path: str) -> None:
    with pytest.raises(BoxRefused):
        stage.box.put(path, b"content")
    assert stage.is_usable()


@pytest.mark.parametrize(
    "path", ["", "missing", "folder", "folder/..", "../etc/passwd", "/etc/passwd"]
)
def test_getting_what_is_no_file_of_the_submission_is_refused(stage: Stage, path: str) -> None:
    stage.box.put("folder/file", b"1")
    with pytest.raises(BoxRefused):
        stage.box.get(path, 1000)
    assert stage.box.get("folder/file", 1) == b"1"


def test_getting_more_than_was_asked_for_is_refused(stage: Stage) -> None:
    stage.box.put("file", b"123")
    with pytest.raises(BoxRefused):
        stage.box.get("file", 2)
    assert stage.box.get("file", 3) == b"123"


def test_links_are_never_followed(stage: Stage) -> None:
    outcome = stage.python(
        """
        import os
        os.symlink("/etc/passwd", "/sub/link")
        os.symlink("/etc", "/sub/folder")
        os.mkdir("/sub/real")
        os.symlink("/tmp", "/sub/real/inner")
        os.mkfifo("/sub/pipe")
        """,
        writable_submission=True,
    )
    assert outcome.exit_code == 0, outcome.stderr
    for path in ["link", "folder/passwd", "real/inner/x", "pipe"]:
        with pytest.raises(BoxRefused):
            stage.box.get(path, 100_000)
    assert stage.is_usable()


def test_a_file_does_not_become_a_folder_nor_the_other_way(stage: Stage) -> None:
    stage.box.put("a", b"1")
    with pytest.raises(BoxRefused):
        stage.box.put("a/b", b"2")
    stage.box.put("c/d", b"3")
    with pytest.raises(BoxRefused):
        stage.box.put("c", b"4")
    assert (stage.box.get("a", 9), stage.box.get("c/d", 9)) == (b"1", b"3")


def test_a_run_that_may_write_leaves_its_files_for_later_runs(stage: Stage) -> None:
    stage.box.put("source", b"made")
    write = "mkdir -p /sub/deep/er; cp /sub/source /sub/deep/er/product; rm /sub/source"
    assert (
        stage.python(
            f"import os; raise SystemExit(os.system({write!r}))",
            environment={"PATH": "/usr/bin:/bin"},
            writable_submission=True,
        ).exit_code
        == 0
    )
    assert stage.box.get("deep/er/product", 100) == b"made"
    assert stage.sh("cat /sub/deep/er/product").stdout == b"made"
    with pytest.raises(BoxRefused):
        stage.box.get("source", 100)


def test_a_reset_empties_the_submission(stage: Stage) -> None:
    stage.box.put("a/b/c", b"1")
    stage.box.put("d", b"2", executable=True)
    stage.box.reset()
    assert stage.sh("find /sub /work /tmp").stdout.split() == [b"/sub", b"/work", b"/tmp"]
    stage.box.put("a", b"3")  # where a folder was
    assert stage.box.get("a", 9) == b"3"


def test_a_thousand_files_are_put_and_reset(stage: Stage) -> None:
    for number in range(1000):
        stage.box.put(f"{number % 10}/{number}", b"%d" % number)
    assert stage.box.get("7/997", 9) == b"997"
    stage.box.reset()
    with pytest.raises(BoxRefused):
        stage.box.get("7/997", 9)

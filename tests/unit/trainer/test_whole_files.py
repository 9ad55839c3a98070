from __future__ import annotations

import os
from pathlib import Path

import pytest

from cupel_trainer.errors import OutputError
from cupel_trainer.whole_files import (
    refuse_existing_file,
    refuse_filled_folder,
    write_whole,
)


def test_a_file_is_written_with_its_folders_and_nothing_else_stays(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    write_whole(path, b"one")
    write_whole(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(path.parent.iterdir()) == [path]


def test_a_file_has_the_rights_that_any_new_file_has(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_a_file_that_cannot_be_written_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "inside").write_text("")
    with pytest.raises(OutputError, match="taken cannot be written"):
        write_whole(tmp_path / "taken", b"content")
    assert [each.name for each in tmp_path.iterdir()] == ["taken"]
    (tmp_path / "plain").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        write_whole(tmp_path / "plain" / "file", b"content")


def test_what_is_there_is_refused_unless_forced(tmp_path: Path) -> None:
    file = tmp_path / "file"
    refuse_existing_file(file, force=False)
    file.write_text("")
    with pytest.raises(OutputError, match="exists already"):
        refuse_existing_file(file, force=False)
    refuse_existing_file(file, force=True)
    with pytest.raises(OutputError, match="is not empty"):
        refuse_filled_folder(tmp_path, force=False)
    refuse_filled_folder(tmp_path, force=True)
    refuse_filled_folder(tmp_path / "new", force=False)


def test_a_file_is_no_folder_and_a_folder_no_file_even_by_force(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is a folder"):
        refuse_existing_file(tmp_path, force=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file"):
        refuse_filled_folder(tmp_path / "file", force=True)

"""Checkpoints of a run: whole or absent, the newest few.

The trainer writes a checkpoint into a scratch folder. When all of it is on the disk, with a list of
its files, it is renamed into its place: `checkpoints/step-25`. Whatever a kill leaves is in the
scratch folder, which the next start empties.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from cupel_trainer.errors import OutputError
from cupel_trainer.whole_files import sync_folder

MANIFEST = "cupel_checkpoint.json"
PREFIX = "step-"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CheckpointFolder:
    """A whole checkpoint.

    Args:
        path: Its folder.
        step: Steps that it has behind it.
        state: What the session said.
    """

    path: Path
    step: int
    state: dict[str, object]


def seal(made: Path, checkpoints: Path, step: int, state: dict[str, object], keep: int) -> Path:
    """Puts a finished checkpoint into its place, and removes the oldest ones.

    Args:
        made: Where it was written, on the same file system.
        checkpoints: The folder of checkpoints.
        step: Steps that it has behind it.
        state: What the session needs to go on from it.
        keep: How many stay.

    Raises:
        OutputError: It cannot be written.
    """
    try:
        files = {
            str(file.relative_to(made)): file.stat().st_size
            for file in sorted(made.rglob("*"))
            if file.is_file()
        }
        document = {"version": 1, "step": step, "files": files, "state": state}
        (made / MANIFEST).write_text(json.dumps(document, indent=1))
        sync_tree(made)
        checkpoints.mkdir(parents=True, exist_ok=True)
        place = checkpoints / f"{PREFIX}{step}"
        if place.exists():
            shutil.rmtree(place)
        made.rename(place)
        sync_folder(checkpoints)
        for old in _numbered(checkpoints)[:-keep]:
            shutil.rmtree(old)
    except OSError as error:
        raise OutputError(f"{checkpoints}: a checkpoint cannot be written: {error}") from error
    return place


def newest(checkpoints: Path) -> CheckpointFolder | None:
    """The newest whole checkpoint; one that lacks a file, or a part of one, is passed over."""
    for path in reversed(_numbered(checkpoints)):
        found = _read(path)
        if found is not None:
            return found
        _log.warning("%s is not whole; an older checkpoint is used", path)
    return None


def sync_tree(folder: Path) -> None:
    """Brings all files of a folder to the disk, and then their names."""
    for place, _, names in os.walk(folder, topdown=False):
        for name in names:
            with Path(place, name).open("rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(place))


def _read(path: Path) -> CheckpointFolder | None:
    try:
        document = json.loads((path / MANIFEST).read_text("utf-8"))
        whole = all(
            (path / name).stat().st_size == size for name, size in document["files"].items()
        )
        return CheckpointFolder(path, document["step"], document["state"]) if whole else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _numbered(checkpoints: Path) -> list[Path]:
    """Folders of checkpoints, the oldest first."""
    if not checkpoints.is_dir():
        return []
    found = [
        path
        for path in checkpoints.iterdir()
        if path.name.startswith(PREFIX) and path.name.removeprefix(PREFIX).isdigit()
    ]
    return sorted(found, key=lambda path: int(path.name.removeprefix(PREFIX)))

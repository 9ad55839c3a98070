"""Checkpoints while they are written: a temporary folder beside the final one, and a journal.

A folder appears under its final name when it is whole, and not before. What a killed merge had done
stands in the journal, tensor by tensor with its hash; the next one checks those hashes and goes on.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cupel_trainer.errors import CheckpointError, OutputError
from cupel_trainer.merge.agreement import FLOATS
from cupel_trainer.merge.checkpoint import INDEX, MANIFEST, Checkpoint
from cupel_trainer.merge.layout import FileLayout, TensorEntry, new_layout, read_metadata
from cupel_trainer.merge.places import PAGE, LocalPlace, Window
from cupel_trainer.whole_files import sync_folder

_CHECKED_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class OutputLayout:
    """Which files an output consists of."""

    files: tuple[FileLayout, ...]
    index: bytes | None
    side_files: Mapping[str, bytes]

    @property
    def size_bytes(self) -> int:
        """Bytes of all its files."""
        return sum(file.size_bytes for file in self.files) + sum(map(len, self.side_files.values()))


def layout_like(source: Checkpoint, dtype: str | None) -> OutputLayout:
    """The layout of an output that has its source's files.

    Args:
        source: The checkpoint whose files, index and side files are taken over.
        dtype: What its floating-point tensors become; None: they stay as they are.
    """
    side_files = {name: source.place.read_whole(name) for name in source.side_files}
    if dtype is None:
        return OutputLayout(source.files, source.index, side_files)
    files = tuple(_converted(file, dtype) for file in source.files)
    index = source.index
    if index is not None:
        document = json.loads(index)
        total = sum(entry.size_bytes for file in files for entry in file.tensors)
        document["metadata"] = {**(document.get("metadata") or {}), "total_size": total}
        index = json.dumps(document, indent=2, sort_keys=True).encode() + b"\n"
    if "config.json" in side_files:
        side_files["config.json"] = _with_dtype(side_files["config.json"], dtype)
    return OutputLayout(files, index, side_files)


def _converted(file: FileLayout, dtype: str) -> FileLayout:
    tensors = [
        (entry.name, dtype if entry.dtype in FLOATS else entry.dtype, entry.shape)
        for entry in file.tensors
    ]
    return new_layout(file.name, tensors, read_metadata(file))


def _with_dtype(config: bytes, dtype: str) -> bytes:
    names = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}
    document = json.loads(config)
    for key in ("dtype", "torch_dtype"):
        if key in document:
            document[key] = names[dtype]
    return json.dumps(document, indent=2).encode() + b"\n"


class FileWriter:
    """Writes stretches of one file of known size, past the page cache where that is possible.

    Writing through the page cache costs several times the processor time that the whole merge
    needs otherwise, and pushes out what others keep there.
    """

    def __init__(self, path: Path, size_bytes: int) -> None:
        self._path = path
        self._buffered = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._direct: int | None = None
        with contextlib.suppress(OSError):  # tmpfs, for one, has no direct I/O
            self._direct = os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
        if os.fstat(self._buffered).st_size != size_bytes:
            os.ftruncate(self._buffered, size_bytes)
        if size_bytes:
            try:
                os.posix_fallocate(self._buffered, 0, size_bytes)
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise

    def write(self, offset: int, view: memoryview) -> None:
        """Writes bytes that lie in a `Window` where `Window.place` put them for this offset."""
        end = offset + view.nbytes
        first, last = offset + -offset % PAGE, end - end % PAGE
        if self._direct is None or last - first < PAGE:
            self._write(self._buffered, offset, view)
            return
        # The pages that a neighbour shares go through the cache, whole pages never do: so no page
        # is written both ways.
        self._write(self._buffered, offset, view[: first - offset])
        self._write(self._direct, first, view[first - offset : last - offset])
        self._write(self._buffered, last, view[last - offset :])

    def _write(self, descriptor: int, offset: int, view: memoryview) -> None:
        while view.nbytes:
            count = os.pwrite(descriptor, view, offset)
            offset, view = offset + count, view[count:]

    def close(self, *, sync: bool) -> None:
        """Closes the file, on request after everything is on disk."""
        if sync:
            os.fsync(self._buffered)
        os.close(self._buffered)
        if self._direct is not None:
            os.close(self._direct)


class PartialOutput:
    """An output that is being written.

    Args:
        final: The folder that it becomes.
        layout: Its files.
    """

    def __init__(self, final: Path, layout: OutputLayout) -> None:
        self.final = final
        self.layout = layout
        self.folder = final.with_name(f".{final.name}.partial")
        self._journal = final.with_name(f".{final.name}.journal")
        self._writers: dict[str, FileWriter] = {}
        self._entries = {
            entry.name: (file, entry) for file in layout.files for entry in file.tensors
        }
        self._log: int | None = None

    @property
    def tensors(self) -> int:
        """How many tensors it has."""
        return len(self._entries)

    @property
    def begun(self) -> bool:
        """Whether something of it is on the disk."""
        return self.folder.exists() or self.final.exists()

    def done(self) -> dict[str, dict[str, object]]:
        """What a killed merge has done of it, by tensor; the hashes of the bytes are checked.

        Of a folder that has its final name already, too.
        """
        done = {}
        window = Window(_CHECKED_BYTES)
        for line in self._journal_lines():
            name = str(line["tensor"])
            if name in self._entries and self._hash_on_disk(name, window) == line["sha256"]:
                done[name] = line
        return done

    def prepare(self) -> None:
        """Makes the folder, its files at their full size, their headers, and the journal.

        Raises:
            OutputError: The disk is full, or refuses.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for file in self.layout.files:
                writer = FileWriter(self.folder / file.name, file.size_bytes)
                self._writers[file.name] = writer
                window = Window(len(file.header))
                view = window.place(0, len(file.header))
                view[:] = file.header
                writer.write(0, view)
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._log = os.open(self._journal, flags, 0o644)
            # A line that a kill tore off must not swallow the next one.
            os.ftruncate(self._log, self._journal.read_bytes().rfind(b"\n") + 1)
        except OSError as error:
            raise OutputError(f"{self.folder}: {error.strerror}") from error

    def start(self, tensor: str) -> int:
        """Where a tensor's bytes begin in its file."""
        return self._entries[tensor][1].start

    def entry(self, tensor: str) -> TensorEntry:
        """A tensor as it is written."""
        return self._entries[tensor][1]

    def write(self, tensor: str, offset: int, view: memoryview) -> None:
        """Writes a stretch of a tensor: `offset` counts bytes from the tensor's first.

        Raises:
            OutputError: The disk is full, or refuses.
        """
        file, entry = self._entries[tensor]
        try:
            self._writers[file.name].write(entry.start + offset, view)
        except OSError as error:
            raise OutputError(f"{self.folder}/{file.name}: {error.strerror}") from error

    def note(self, tensor: str, sha256: str, sums: Mapping[str, object]) -> None:
        """Notes that a tensor is written, with all that must be known of it after a restart."""
        self._append({"tensor": tensor, "sha256": sha256, **sums})

    def finish(self, manifest: bytes) -> None:
        """Writes the other files, brings all to the disk, and gives the folder its name.

        Raises:
            OutputError: The disk is full, or refuses.
        """
        try:
            for writer in self._writers.values():
                writer.close(sync=True)
            self._writers = {}
            files = {**self.layout.side_files, MANIFEST: manifest}
            if self.layout.index is not None:
                files[INDEX] = self.layout.index
            for name, content in files.items():
                with (self.folder / name).open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
            sync_folder(self.folder)
            if self._log is not None:
                os.fsync(self._log)  # a finished folder must not outlive what is known of it
            self.folder.rename(self.final)
            sync_folder(self.final.parent)
        except OSError as error:
            raise OutputError(f"{self.final}: {error.strerror}") from error

    def close(self) -> None:
        """Leaves the folder as it is, for a later merge to go on."""
        for writer in self._writers.values():
            writer.close(sync=False)
        self._writers = {}
        if self._log is not None:
            os.close(self._log)
            self._log = None

    def discard(self) -> None:
        """Removes everything: nothing of it shall be used."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.forget_journal()

    def forget_journal(self) -> None:
        """Removes the journal, once nothing is left to be gone on with."""
        self._journal.unlink(missing_ok=True)

    def _append(self, document: Mapping[str, object]) -> None:
        if self._log is None:
            raise OutputError(f"{self.folder}: not prepared")
        line = json.dumps(document).encode() + b"\n"
        try:
            if os.write(self._log, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise OutputError(f"{self._journal}: {error.strerror}") from error

    def _journal_lines(self) -> list[dict[str, object]]:
        if not self._journal.exists():
            return []
        lines = self._journal.read_bytes().splitlines(keepends=True)
        parsed = [_parse(line) for line in lines if line.endswith(b"\n")]
        return [line for line in parsed if "tensor" in line and "sha256" in line]

    def _hash_on_disk(self, tensor: str, window: Window) -> str:
        file, entry = self._entries[tensor]
        folder = self.final if self.final.exists() else self.folder
        try:
            reader = LocalPlace(str(folder), folder).open(file.name)
        except CheckpointError:
            return ""
        digest = hashlib.sha256()
        try:
            for offset in range(0, entry.size_bytes, _CHECKED_BYTES):
                size_bytes = min(_CHECKED_BYTES, entry.size_bytes - offset)
                digest.update(reader.read(entry.start + offset, size_bytes, window))
        except CheckpointError:
            return ""
        finally:
            reader.close()
        return digest.hexdigest()


def _parse(line: bytes) -> dict[str, object]:
    """A line of a journal; nothing if a power failure left something else there."""
    try:
        document = json.loads(line)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}

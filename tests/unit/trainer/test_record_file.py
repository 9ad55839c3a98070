from __future__ import annotations

import resource
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cupel_trainer.errors import OutputError, RecordsError
from cupel_trainer.evaluate.record_file import appending, read_at, read_header, read_lines
from cupel_trainer.evaluate.records import CheckpointRef, Sample, SamplesHeader, Sampling

HEADER = SamplesHeader(checkpoint=CheckpointRef(name="low", path="/a"), problem_set="abc")
SAMPLES = [
    Sample(problem="sum", sample=number, completion=f"line\nand\u2028another {number}")
    for number in range(3)
]


def write(path: Path) -> bytes:
    with appending(path, HEADER) as file:
        file.append(SAMPLES[:1])
        file.append(SAMPLES[1:])
    return path.read_bytes()


def read(path: Path) -> list[Sample]:
    return [line.record for line in read_lines(path, Sample)]


def test_what_was_appended_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "samples.jsonl"
    write(path)
    assert read_header(path, SamplesHeader) == HEADER
    assert read(path) == SAMPLES
    lines = list(read_lines(path, Sample))
    assert [line.number for line in lines] == [2, 3, 4]
    assert read_at(path, Sample, [lines[2].offset_bytes, lines[0].offset_bytes]) == [
        SAMPLES[2],
        SAMPLES[0],
    ]


def test_a_file_cut_anywhere_goes_on_with_its_whole_lines(tmp_path: Path) -> None:
    content = write(tmp_path / "whole")
    path = tmp_path / "cut"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        whole = max(0, content[:length].count(b"\n") - 1)
        with appending(path, HEADER) as file:
            assert read(path) == SAMPLES[:whole]
            file.append(SAMPLES[whole:])
        assert path.read_bytes() == content


def test_a_torn_last_line_is_no_record(tmp_path: Path) -> None:
    path = tmp_path / "samples"
    content = write(path)
    path.write_bytes(content[:-1])
    assert read(path) == SAMPLES[:2]


def test_the_file_of_another_run_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "samples"
    content = write(path)
    other = HEADER.model_copy(
        update={"sampling": Sampling(temperature=0.5), "problem_set": "another"}
    )
    with (
        pytest.raises(RecordsError, match=r"temperature is 1\.0 there and 0\.5 here") as caught,
        appending(path, other),
    ):
        pass
    assert "problem_set is 'abc' there and 'another' here" in str(caught.value)
    assert path.read_bytes() == content


def test_fields_that_may_differ_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "samples"
    content = write(path)
    moved = HEADER.model_copy(update={"checkpoint": CheckpointRef(name="low", path="/b")})
    with appending(path, moved, ignored=frozenset({"checkpoint.path"})):
        pass
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "content",
    [
        b"my notes, without a line feed",
        b"notes\n",
        b"x" * 2000,
        b'{"kind": "cupel.verdicts"}\n',
        b"\n",
    ],
)
def test_what_is_not_ours_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes"
    path.write_bytes(content)
    with pytest.raises(RecordsError), appending(path, HEADER):
        pass
    assert path.read_bytes() == content


def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "samples"
    with (
        appending(path, HEADER),
        pytest.raises(RecordsError, match="another run"),
        appending(path, HEADER),
    ):
        pass
    with appending(path, HEADER) as file:
        file.append(SAMPLES)
    assert read(path) == SAMPLES


def test_what_fits_on_a_full_disk_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "samples"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with appending(path, HEADER) as file:
        file.append(SAMPLES[:1])
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, hard))
        try:
            with pytest.raises(OutputError, match="cannot be written: File too large"):
                file.append(SAMPLES[1:])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert read(path) == SAMPLES[:1]


def test_devices_are_no_files_of_records() -> None:
    with (
        pytest.raises(RecordsError, match="no ordinary file"),
        appending(Path("/dev/full"), HEADER),
    ):
        pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OutputError, match=r"file/samples cannot be written"),
        appending(tmp_path / "file" / "samples", HEADER),
    ):
        pass


def test_a_faulty_line_is_named_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "samples"
    write(path)
    with path.open("ab") as file:
        file.write(b'{"problem": "sum", "sample": -1, "completion": "", "prompt": 3}\n')
    with pytest.raises(RecordsError, match="line 5 is no Sample of this version: sample: "):
        read(path)
    with pytest.raises(RecordsError, match="cannot be read: No such file"):
        read(tmp_path / "absent")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(junk=st.binary(max_size=200))
def test_any_bytes_are_records_or_refused(tmp_path: Path, junk: bytes) -> None:
    path = tmp_path / "junk"
    path.write_bytes(HEADER.model_dump_json().encode() + b"\n" + junk)
    try:
        found = read(path)
    except RecordsError:
        return
    assert len(found) == junk.count(b"\n")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=5),
    cut=st.integers(0, 50),
)
def test_any_text_survives_a_cut(tmp_path: Path, texts: list[str], cut: int) -> None:
    samples = [
        Sample(problem="p", sample=number, completion=text) for number, text in enumerate(texts)
    ]
    path = tmp_path / "texts"
    path.unlink(missing_ok=True)
    with appending(path, HEADER) as file:
        file.append(samples)
    content = path.read_bytes()
    first = content.index(b"\n") + 1
    path.write_bytes(content[: max(first, len(content) - cut)])
    found = read(path)
    assert found == samples[: len(found)]
    with appending(path, HEADER) as file:
        file.append(samples[len(found) :])
    assert path.read_bytes() == content

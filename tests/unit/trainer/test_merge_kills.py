"""A merge may be killed at any moment: nothing looks complete that is not, and it can go on."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from checkpoints import content, random_tensors, read_tensors, write_checkpoint, write_pair

from cupel_trainer.errors import MergeRefused, OutputError
from cupel_trainer.merge import merge
from cupel_trainer.merge.checkpoint import open_checkpoint
from cupel_trainer.merge.outputs import PartialOutput, layout_like
from cupel_trainer.merge.places import Window
from cupel_trainer.merge.recipe import make_recipe
from cupel_trainer.merge.sweep import MARKER, plan_of, prepare, run

KILLS = 20


@pytest.mark.slow
def test_killed_at_random_moments_it_leaves_no_false_folder_and_goes_on(tmp_path: Path) -> None:
    low = write_checkpoint(tmp_path / "low", random_tensors(1, hidden=256), shards=3)
    high = write_checkpoint(tmp_path / "high", random_tensors(1, step=0.1, hidden=256), shards=2)
    script = Path(__file__).with_name("merge_in_children.py")
    command = [sys.executable, str(script), str(low), str(high), str(tmp_path), str(KILLS), "7"]
    ran = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(script.parent), "OMP_NUM_THREADS": "1"},
    )
    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout)
    assert said["faults"] == []
    assert said["killed"] >= KILLS / 2  # else the kills came too late to prove anything


def test_a_journal_whose_last_line_is_torn_is_gone_on_with(tmp_path: Path) -> None:
    low, high = write_pair(tmp_path, shards=2)
    expected = content(merge(low, high, alphas=[0.5], out=tmp_path / "whole").folders[0])
    output = PartialOutput(tmp_path / "out" / "alpha_0.5", layout_like(open_checkpoint(low), None))
    output.prepare()
    output.note("lm_head.weight", "0" * 64, {})  # not what lies there: must be made again
    output.close()
    journal = tmp_path / "out" / ".alpha_0.5.journal"
    with journal.open("ab") as file:
        file.write(b'{"tensor": "model.emb')
    merged = merge(low, high, alphas=[0.5], out=tmp_path / "out")
    assert content(merged.folders[0]) == expected
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("alpha_0.5", "report.json", "report.md")
    ]


def test_what_is_done_is_not_written_again(tmp_path: Path) -> None:
    low, _ = write_pair(tmp_path)
    layout = layout_like(open_checkpoint(low), None)
    output = PartialOutput(tmp_path / "out", layout)
    output.prepare()
    entry = output.entry("lm_head.weight")
    view = Window(entry.size_bytes).place(entry.start, entry.size_bytes)
    view[:] = bytes(range(256)) * (entry.size_bytes // 256) + bytes(entry.size_bytes % 256)
    output.write("lm_head.weight", 0, view)
    output.note("lm_head.weight", hashlib.sha256(view).hexdigest(), {"unmoved": 3})
    output.note("model.embed_tokens.weight", "f" * 64, {})
    output.close()
    done = PartialOutput(tmp_path / "out", layout).done()
    assert list(done) == ["lm_head.weight"]
    assert done["lm_head.weight"]["unmoved"] == 3


def test_inputs_that_changed_since_the_kill_are_not_mixed_with_what_was_done(
    tmp_path: Path,
) -> None:
    low, high = write_pair(tmp_path)
    whole = merge(low, high, alphas=[0.5], out=tmp_path / "whole")
    layout = layout_like(open_checkpoint(low), None)
    output = PartialOutput(tmp_path / "out" / "alpha_0.5", layout)
    output.prepare()
    name = "lm_head.weight"
    entry = output.entry(name)
    raw = read_tensors(whole.folders[0])[name].view(torch.uint8).numpy().tobytes()
    view = Window(entry.size_bytes).place(entry.start, entry.size_bytes)
    view[:] = raw
    output.write(name, 0, view)
    output.note(name, hashlib.sha256(raw).hexdigest(), {"inputs": ["of", "other inputs"]})
    output.close()
    recipe = make_recipe({"inputs": (low, high), "alphas": (0.5,), "out": tmp_path / "out"})
    prepared = prepare(recipe)
    (tmp_path / "out" / MARKER).write_text(plan_of(prepared))
    with pytest.raises(MergeRefused, match="not what it was when this merge was interrupted"):
        run(prepared)
    again = merge(low, high, alphas=[0.5], out=tmp_path / "out")
    assert content(again.folders[0]) == content(whole.folders[0])


def test_what_a_power_failure_left_in_a_journal_is_passed_over(tmp_path: Path) -> None:
    low, _ = write_pair(tmp_path)
    output = PartialOutput(tmp_path / "out", layout_like(open_checkpoint(low), None))
    output.prepare()
    output.note("lm_head.weight", "0" * 64, {})
    output.close()
    with (tmp_path / ".out.journal").open("ab") as journal:
        journal.write(b"\0\0\0\n[1]\n")
    assert output.done() == {}


def test_a_finished_folder_whose_journal_is_not_whole_is_told_with_a_remedy(
    tmp_path: Path,
) -> None:
    low, high = write_pair(tmp_path)
    recipe = make_recipe({"inputs": (low, high), "alphas": (0.5, 0.6), "out": tmp_path / "out"})
    prepared = prepare(recipe)
    merge(low, high, alphas=[0.5], out=tmp_path / "out")
    (tmp_path / "out" / MARKER).write_text(plan_of(prepared))
    with pytest.raises(OutputError, match="alpha_0.5 was finished .* remove the folder"):
        run(prepared)


def test_a_report_of_an_earlier_merge_is_kept(tmp_path: Path) -> None:
    low, high = write_pair(tmp_path)
    merge(low, high, alphas=[0.5], out=tmp_path / "out")
    first = (tmp_path / "out" / "report.md").read_text()
    merge(low, high, alphas=[0.75], out=tmp_path / "out")
    assert (tmp_path / "out" / "report-1.md").read_text() == first
    assert "alpha_0.75" in (tmp_path / "out" / "report.md").read_text()


def test_what_does_not_move_is_counted_in_the_outputs_dtype(tmp_path: Path) -> None:
    ones = torch.ones(100, dtype=torch.float32)
    low = write_checkpoint(tmp_path / "low", {"w": ones * 1.001})  # not a bfloat16 value
    high = write_checkpoint(
        tmp_path / "high", {"w": torch.cat([ones[:30] * 1.0011, ones[30:] * 2])}
    )
    merged = merge(str(low), str(high), alphas=[0.5], out=tmp_path / "out", dtype="bfloat16")
    assert merged.report.outputs[0].unmoved_share == 0.3


def test_memory_is_what_the_process_holds_now_not_what_it_once_held(tmp_path: Path) -> None:
    low, high = write_pair(tmp_path)
    held = bytearray(400_000_000)
    held[::4096] = b"x" * len(held[::4096])
    del held
    merge(low, high, alphas=[0.5], out=tmp_path / "out", memory_bytes=1_000_000_000)


@pytest.mark.parametrize("failing", ["report.md"])
def test_a_report_that_cannot_be_written_is_said_in_one_message(
    tmp_path: Path, failing: str
) -> None:
    low, high = write_pair(tmp_path)
    (tmp_path / "out" / failing).mkdir(parents=True)
    with pytest.raises(OutputError, match="the report"):
        merge(low, high, alphas=[0.5], out=tmp_path / "out")


def test_what_another_merge_left_is_not_gone_on_with(tmp_path: Path) -> None:
    low, high = write_pair(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".cupel-merge").write_text("another plan")
    with pytest.raises(OutputError, match="an interrupted merge of other inputs or settings"):
        merge(low, high, alphas=[0.5], out=tmp_path / "out")


def test_two_merges_do_not_write_to_one_place(tmp_path: Path) -> None:
    import fcntl

    low, high = write_pair(tmp_path)
    (tmp_path / "out").mkdir()
    with (tmp_path / "out" / ".cupel-merge").open("w") as marker:
        fcntl.flock(marker, fcntl.LOCK_EX)
        with pytest.raises(OutputError, match="another merge is writing there now"):
            merge(low, high, alphas=[0.5], out=tmp_path / "out")


def test_a_disk_that_fills_up_in_mid_merge_is_said_and_gone_on_with(tmp_path: Path) -> None:
    import resource

    low, high = write_pair(tmp_path, shards=2)
    expected = content(merge(low, high, alphas=[0.5], out=tmp_path / "whole").folders[0])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))  # every larger file is "full"
    try:
        with pytest.raises(OutputError, match="File too large"):
            merge(low, high, alphas=[0.5], out=tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not (tmp_path / "out" / "alpha_0.5").exists()
    assert content(merge(low, high, alphas=[0.5], out=tmp_path / "out").folders[0]) == expected


def test_many_shards_of_many_outputs_are_not_stopped_by_the_limit_of_open_files(
    tmp_path: Path,
) -> None:
    import resource

    low, high = write_pair(tmp_path, shards=6)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (60, before[1]))
    try:
        merged = merge(low, high, alphas=[0.1, 0.2, 0.3], out=tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert all((folder / "cupel_merge.json").exists() for folder in merged.folders)


@pytest.mark.parametrize("change", ["tensor", "header", "cut", "file", "missing", "digest"])
def test_verify_finds_what_was_changed(tmp_path: Path, change: str) -> None:
    from cupel_trainer.merge.verification import verify

    low, high = write_pair(tmp_path)
    (folder,) = merge(low, high, alphas=[0.3], out=tmp_path / "out").folders
    assert verify(str(folder)).faults == []
    assert verify(str(folder)).recomputed
    if change == "tensor":
        file = folder / "model.safetensors"
        raw = bytearray(file.read_bytes())
        raw[-1] ^= 1
        file.write_bytes(raw)
        said = "is not what was written"
    elif change == "header":
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes().replace(b'"BF16"', b'"F16" ', 1))
        said = "the header of model.safetensors is not what was written"
    elif change == "cut":
        os.truncate(folder / "model.safetensors", 2000)
        said = "cut off"
    elif change == "file":
        (folder / "tokenizer.json").write_text("{}")
        said = "file tokenizer.json is not what was written"
    elif change == "missing":
        (folder / "tokenizer.json").unlink()
        said = "file tokenizer.json is missing"
    else:
        manifest = folder / "cupel_merge.json"
        manifest.write_text(manifest.read_text().replace('"alpha": 0.3', '"alpha": 0.4'))
        said = "does not follow"
    assert any(said in fault for fault in verify(str(folder)).faults)


def test_verify_says_when_the_inputs_are_no_longer_what_they_were(tmp_path: Path) -> None:
    from cupel_trainer.merge.verification import verify

    low, high = write_pair(tmp_path)
    (folder,) = merge(low, high, alphas=[0.3], out=tmp_path / "out").folders
    write_checkpoint(tmp_path / "high", random_tensors(5))
    found = verify(str(folder))
    assert found.faults == []
    assert not found.recomputed
    assert "no longer what it was" in found.not_recomputed


def test_the_weights_streamed_into_an_engine_are_those_on_the_disk(tmp_path: Path) -> None:
    from checkpoints import read_tensors

    from cupel_trainer.merge.manifest import read_manifest
    from cupel_trainer.merge.places import place_of
    from cupel_trainer.merge.stream import Lerp

    low, high = write_pair(tmp_path, shards=2)
    alphas = (-0.5, 0, 0.3, 2)  # whole numbers name the same weights
    merged = merge(low, high, alphas=alphas, out=tmp_path / "out")
    lerp = Lerp(low, high)
    for alpha, folder in zip(alphas, merged.folders, strict=True):
        streamed = dict(lerp.tensors(alpha))
        on_disk = read_tensors(folder)
        assert streamed.keys() == on_disk.keys() == {spec.name for spec in lerp.specs}
        assert all(torch.equal(streamed[name], on_disk[name]) for name in on_disk)
        assert lerp.digest(alpha) == read_manifest(place_of(str(folder))).digest


def test_tied_weights_that_differ_are_not_streamed_either(tmp_path: Path) -> None:
    from cupel_trainer.merge.stream import Lerp

    config = {"tie_word_embeddings": True}
    for end in ("low", "high"):
        write_checkpoint(tmp_path / end, random_tensors(1), config=config)
    with pytest.raises(MergeRefused, match="its config ties"):
        list(Lerp(str(tmp_path / "low"), str(tmp_path / "high")).tensors(0.5))


def test_a_checkpoint_behind_a_url_is_merged_like_a_folder(tmp_path: Path) -> None:
    import fsspec

    low, high = write_pair(tmp_path, shards=2)
    files = fsspec.filesystem("memory")
    files.put(low + "/", "/cupel-test-low/", recursive=True)
    try:
        remote = merge("memory://cupel-test-low", high, alphas=[0.5], out=tmp_path / "remote")
        local = merge(low, high, alphas=[0.5], out=tmp_path / "local")
        there, here = content(remote.folders[0]), content(local.folders[0])
        del there["cupel_merge.json"], here["cupel_merge.json"]  # which name the locations
        assert there == here
    finally:
        files.rm("/cupel-test-low", recursive=True)

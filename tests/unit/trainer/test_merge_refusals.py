"""What must not be averaged is refused by name, and nothing is left behind."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoints import CONFIG, random_tensors, write_checkpoint
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from cupel_trainer.errors import CheckpointError, MergeRefused, OutputError, TrainerError
from cupel_trainer.merge import merge
from cupel_trainer.merge.layout import ITEM_BYTES, format_header, header_bytes, parse_layout

Tensors = dict[str, torch.Tensor]
NAME = "model.layers.1.mlp.down_proj.weight"


def refused(tmp_path: Path, kind: type[TrainerError] = MergeRefused) -> str:
    """What a merge of the two checkpoints in the folder says; that it leaves nothing is checked."""
    out = tmp_path / "out"
    with pytest.raises(kind) as error:
        merge(str(tmp_path / "low"), str(tmp_path / "high"), alphas=[0.5, 1], out=out)
    assert not out.exists()
    return str(error.value)


def ends(tmp_path: Path, change: Callable[[Tensors], object] = lambda tensors: None) -> None:
    """Two checkpoints, of which the high one is changed."""
    write_checkpoint(tmp_path / "low", random_tensors(1), shards=2)
    tensors = random_tensors(1, step=0.1)
    change(tensors)
    write_checkpoint(tmp_path / "high", tensors, shards=2)


def test_another_shape(tmp_path: Path) -> None:
    ends(tmp_path, lambda tensors: tensors.update({NAME: tensors[NAME].T.contiguous()}))
    assert f"tensor {NAME}: shape [24, 72]" in refused(tmp_path)


def test_another_dtype(tmp_path: Path) -> None:
    ends(tmp_path, lambda tensors: tensors.update({NAME: tensors[NAME].float()}))
    assert f"tensor {NAME}: BF16 in" in refused(tmp_path)


def test_a_missing_tensor(tmp_path: Path) -> None:
    ends(tmp_path, lambda tensors: tensors.pop(NAME))
    assert f"lacks tensor {NAME}" in refused(tmp_path)


def test_a_head_that_one_end_alone_stores_though_it_is_tied(tmp_path: Path) -> None:
    config = {**CONFIG, "tie_word_embeddings": True}
    tensors = random_tensors(1)
    write_checkpoint(tmp_path / "low", tensors, config=config)
    tensors.pop("lm_head.weight")
    write_checkpoint(tmp_path / "high", tensors, config=config)
    assert "the embeddings are tied" in refused(tmp_path)


def test_tied_weights_that_differ(tmp_path: Path) -> None:
    config = {**CONFIG, "tie_word_embeddings": True}
    tensors = random_tensors(1)
    write_checkpoint(tmp_path / "low", tensors, config=config)
    write_checkpoint(tmp_path / "high", tensors, config=config)
    assert "lm_head.weight" in refused(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("end", ["low", "high"])
def test_nan_and_infinity(tmp_path: Path, value: float, end: str) -> None:
    ends(tmp_path)
    tensors = random_tensors(1)
    tensors[NAME][3, 5] = value
    write_checkpoint(tmp_path / end, tensors, shards=2)
    said = refused(tmp_path)
    assert f"tensor {NAME} holds nan or inf" in said
    assert str(tmp_path / end) in said


def test_values_that_overflow_when_extrapolated(tmp_path: Path) -> None:
    large = {"w": torch.full((9,), 6e4, dtype=torch.float16)}
    write_checkpoint(tmp_path / "low", {"w": -large["w"]})
    write_checkpoint(tmp_path / "high", large)
    with pytest.raises(MergeRefused, match="tensor w would hold inf"):
        merge(str(tmp_path / "low"), str(tmp_path / "high"), alphas=[1.5], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_integers_that_differ(tmp_path: Path) -> None:
    for end, value in (("low", 1), ("high", 2)):
        write_checkpoint(tmp_path / end, {**random_tensors(1), "steps": torch.tensor([value])})
    assert "tensor steps (I64, not averaged) differs" in refused(tmp_path)


def test_eight_bit_floats(tmp_path: Path) -> None:
    small = torch.ones(4).to(torch.float8_e4m3fn)
    ends(tmp_path, lambda tensors: tensors.update({NAME: small}))
    assert "8-bit floats" in refused(tmp_path)


def test_a_quantised_model(tmp_path: Path) -> None:
    for end in ("low", "high"):
        config = {**CONFIG, "quantization_config": {"quant_method": "awq"}}
        write_checkpoint(tmp_path / end, random_tensors(1), config=config)
    assert "quantization_config" in refused(tmp_path)


def test_another_config(tmp_path: Path) -> None:
    ends(tmp_path)
    write_checkpoint(
        tmp_path / "high", random_tensors(1), shards=2, config={**CONFIG, "rope_theta": 5}
    )
    assert "config.json: rope_theta is absent in" in refused(tmp_path)


def test_another_tokenizer(tmp_path: Path) -> None:
    ends(tmp_path)
    (tmp_path / "high" / "tokenizer.json").write_text('{"vocab": 2}')
    assert "tokenizer.json: another one in" in refused(tmp_path)


def test_what_says_nothing_of_the_model_may_differ(tmp_path: Path) -> None:
    ends(tmp_path)
    for end in ("low", "high"):
        config = {**CONFIG, "_name_or_path": end, "transformers_version": end}
        (tmp_path / end / "config.json").write_text(json.dumps(config))
        (tmp_path / end / "generation_config.json").write_text(
            json.dumps({"temperature": len(end)})
        )
    merged = merge(
        str(tmp_path / "low"), str(tmp_path / "high"), alphas=[0.5], out=tmp_path / "out"
    )
    assert any("generation_config.json differs" in warning for warning in merged.report.warnings)


def test_what_versions_of_the_library_write_differently_is_the_same_model(tmp_path: Path) -> None:
    older = {**CONFIG, "rope_theta": 1e6, "use_sliding_window": False, "sliding_window": 4096}
    newer = {
        **CONFIG,
        "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"},
        "use_sliding_window": False,
        "sliding_window": None,
        "pad_token_id": None,
        "layer_types": ["full_attention"],
    }
    write_checkpoint(tmp_path / "low", random_tensors(1), config=older)
    write_checkpoint(tmp_path / "high", random_tensors(1), config=newer)
    low, high = str(tmp_path / "low"), str(tmp_path / "high")
    assert merge(low, high, alphas=[0.5], out=tmp_path / "out").folders[0].is_dir()
    newer["rope_parameters"] = {"rope_theta": 1e4, "rope_type": "default"}
    write_checkpoint(tmp_path / "high", random_tensors(1), config=newer)
    with pytest.raises(MergeRefused, match="rope_theta is"):
        merge(low, high, alphas=[0.5], out=tmp_path / "other")


def test_the_same_tokens_written_differently_are_the_same_tokenizer(tmp_path: Path) -> None:
    truncated = '{"vocab": 1, "truncation": {"max_length": 512}}'
    files = {"tokenizer.json": truncated, "vocab.json": "{}", "tokenizer_config.json": "{}"}
    write_checkpoint(tmp_path / "low", random_tensors(1), files=files)
    files = {"tokenizer.json": '{"vocab": 1}', "tokenizer_config.json": '{"padding_side": "left"}'}
    write_checkpoint(tmp_path / "high", random_tensors(1), files=files)
    low, high = str(tmp_path / "low"), str(tmp_path / "high")
    assert merge(low, high, alphas=[0.5], out=tmp_path / "out").folders[0].is_dir()


def test_another_tokenizer_of_another_kind(tmp_path: Path) -> None:
    for end in ("low", "high"):
        write_checkpoint(tmp_path / end, random_tensors(1), files={"tekken.json": f'"{end}"'})
    assert "tekken.json: another one" in refused(tmp_path)


def test_weights_of_another_format_beside_the_shards_are_left_alone(tmp_path: Path) -> None:
    ends(tmp_path)
    for end in ("low", "high"):
        save_file({"other": torch.zeros(3)}, tmp_path / end / "consolidated.safetensors")
        (tmp_path / end / "optimizer.pt").write_bytes(b"state")
    merged = merge(
        str(tmp_path / "low"), str(tmp_path / "high"), alphas=[0.5], out=tmp_path / "out"
    )
    names = {path.name for path in merged.folders[0].iterdir()}
    assert not {"consolidated.safetensors", "optimizer.pt"} & names


def test_a_pointer_of_git_lfs_is_told_as_such(tmp_path: Path) -> None:
    ends(tmp_path)
    file = tmp_path / "high" / "model-00001-of-00002.safetensors"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert "git lfs pull" in refused(tmp_path, CheckpointError)


def test_a_file_in_place_of_the_folder_is_told_as_such(tmp_path: Path) -> None:
    ends(tmp_path)
    with pytest.raises(CheckpointError, match="a file; give the folder"):
        merge(
            str(tmp_path / "low" / "config.json"),
            str(tmp_path / "high"),
            alphas=[0.5],
            out=tmp_path / "out",
        )


def test_a_shard_that_is_cut_off(tmp_path: Path) -> None:
    ends(tmp_path)
    file = tmp_path / "high" / "model-00002-of-00002.safetensors"
    os.truncate(file, file.stat().st_size - 3)
    said = refused(tmp_path, CheckpointError)
    assert "cut off inside tensor" in said
    assert "model-00002-of-00002.safetensors" in said


def test_a_shard_that_is_missing(tmp_path: Path) -> None:
    ends(tmp_path)
    (tmp_path / "high" / "model-00002-of-00002.safetensors").unlink()
    assert "which is not there" in refused(tmp_path, CheckpointError)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda index: index.pop(NAME), "does not name"),
        (lambda index: index.update({"ghost": index[NAME]}), "ghost is in"),
        (lambda index: index.update({NAME: "model-00001-of-00002.safetensors"}), "it is in"),
    ],
)
def test_an_index_that_lies(
    tmp_path: Path, change: Callable[[dict[str, str]], object], said: str
) -> None:
    ends(tmp_path)
    file = tmp_path / "low" / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    index["weight_map"][NAME] = "model-00002-of-00002.safetensors"
    tensors = random_tensors(1)
    place = list(tensors).index(NAME) % 2 + 1
    index["weight_map"][NAME] = f"model-0000{place}-of-00002.safetensors"
    change(index["weight_map"])
    if said == "it is in" and place == 1:
        index["weight_map"][NAME] = "model-00002-of-00002.safetensors"
    file.write_text(json.dumps(index))
    assert said in refused(tmp_path, CheckpointError)


def test_pickled_weights_are_never_loaded(tmp_path: Path) -> None:
    ends(tmp_path)
    folder = tmp_path / "pickled"
    folder.mkdir()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(CheckpointError, match="pickled weights only"):
        merge(str(folder), str(tmp_path / "high"), alphas=[0.5], out=tmp_path / "out")


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        merge(str(tmp_path / "a"), str(tmp_path / "b"), alphas=[0.5], out=tmp_path / "out")


def test_an_output_that_exists_is_not_overwritten(tmp_path: Path) -> None:
    ends(tmp_path)
    low, high = str(tmp_path / "low"), str(tmp_path / "high")
    (folder,) = merge(low, high, alphas=[0.5], out=tmp_path / "out").folders
    before = (folder / "cupel_merge.json").stat().st_mtime_ns
    with pytest.raises(OutputError, match="exists already"):
        merge(low, high, alphas=[0.5, 0.75], out=tmp_path / "out")
    assert (folder / "cupel_merge.json").stat().st_mtime_ns == before
    assert not (tmp_path / "out" / "alpha_0.75").exists()


def test_more_than_the_disk_holds_is_refused_before_the_first_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: _Full())
    assert "the disk has 0.0 GB free" in refused(tmp_path, OutputError)


class _Full:
    free = 10


@given(st.binary(max_size=200), st.integers(0, 300))
def test_any_bytes_are_a_layout_or_a_checkpoint_error(data: bytes, size_bytes: int) -> None:
    try:
        length = header_bytes("file", data, size_bytes)
        parse_layout("file", data[:length], size_bytes)
    except CheckpointError:
        pass


@given(
    st.lists(
        st.tuples(
            st.sampled_from(sorted(ITEM_BYTES)), st.lists(st.integers(0, 5), max_size=3).map(tuple)
        ),
        min_size=1,
        max_size=6,
    )
)
def test_a_header_we_write_reads_as_what_it_was_written_from(
    tensors: list[tuple[str, tuple[int, ...]]],
) -> None:
    named = [(f"t{i}", dtype, shape) for i, (dtype, shape) in enumerate(tensors)]
    header = format_header(named, {"format": "pt"})
    data = sum(ITEM_BYTES[dtype] * int(torch.Size(shape).numel()) for _, dtype, shape in named)
    layout = parse_layout("file", header, len(header) + data)
    assert sorted((each.name, each.dtype, each.shape) for each in layout.tensors) == sorted(named)
    assert len(header) % 8 == 0


def test_a_header_we_write_is_read_by_the_safetensors_library(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    tensors = {"a": torch.randn(3, 4), "b": torch.arange(5)}
    save_file(tensors, tmp_path / "theirs", metadata={"format": "pt"})
    header = format_header([("b", "I64", (5,)), ("a", "F32", (3, 4))], {"format": "pt"})
    data = tensors["b"].numpy().tobytes() + tensors["a"].numpy().tobytes()
    (tmp_path / "ours").write_bytes(header + data)
    ours, theirs = load_file(tmp_path / "ours"), load_file(tmp_path / "theirs")
    assert all(torch.equal(ours[name], theirs[name]) for name in tensors)

"""LoRA adapters: the delta of the merge is the weighted sum of the ends' deltas, at low rank."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import Tensors, content, random_tensors, read_tensors, write_checkpoint
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from cupel_trainer.errors import CheckpointError, MergeRefused
from cupel_trainer.merge import merge
from cupel_trainer.merge.checkpoint import open_checkpoint
from cupel_trainer.merge.command import merge_app
from cupel_trainer.merge.lora import PREFIX, read_adapter
from cupel_trainer.merge.low_rank import Factors, measure_error, measure_inputs, measure_step
from cupel_trainer.merge.recipe import make_recipe
from cupel_trainer.merge.sweep import Merged, prepare, run
from cupel_trainer.merge.verification import verify

Q, K, V = (f"self_attn.{name}_proj" for name in "qkv")
CONFIG: dict[str, object] = {
    "peft_type": "LORA",
    "base_model_name_or_path": "org/base",
    "task_type": "CAUSAL_LM",
    "bias": "none",
    "r": 4,
    "lora_alpha": 8,
    "lora_dropout": 0.05,
    "target_modules": ["q_proj", "k_proj", "v_proj"],
    "qalora_group_size": 16,
    "megatron_core": "megatron.core",
}


def factors(
    seed: int, modules: Mapping[str, int], dtype: torch.dtype = torch.float32, layers: int = 2
) -> Tensors:
    """A and B of modules, by module and rank."""
    generator = torch.Generator().manual_seed(seed)
    tensors: Tensors = {}
    for layer in range(layers):
        for module, rank in modules.items():
            name = f"{PREFIX}model.layers.{layer}.{module}"
            a, b = (torch.randn(*s, generator=generator) for s in ((rank, 12), (10, rank)))
            tensors[f"{name}.lora_A.weight"] = a.to(dtype)
            tensors[f"{name}.lora_B.weight"] = (b / 16).to(dtype)
    return tensors


def write_adapter(folder: Path, tensors: Tensors, **config: object) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, **config}))
    (folder / "README.md").write_text("base_model: org/base\n")
    return str(folder)


def write_ends(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[str, str]:
    low = write_adapter(folder / "low", factors(1, {Q: 4, K: 4, V: 4}, dtype))
    high = write_adapter(folder / "high", factors(2, {Q: 4, K: 4, V: 4}, dtype))
    return low, high


def deltas_of(
    folder: str | Path, scale: Callable[[str], float] = lambda name: 2.0
) -> dict[str, np.ndarray]:
    """s B A of every module in float64, by numpy."""
    tensors = read_tensors(folder)
    found = {}
    for name, a in tensors.items():
        module, separator, _ = name.partition(".lora_A")
        if separator:
            b = tensors[f"{module}.lora_B.weight"]
            found[module] = scale(module) * b.double().numpy() @ a.double().numpy()
    return found


def merge_inputs(inputs: Sequence[str], out: Path, **fields: object) -> Merged:
    return run(prepare(make_recipe({"inputs": inputs, "out": out, **fields})))


def scale_is_one(folder: Path) -> None:
    adapter = read_adapter(open_checkpoint(str(folder)))
    assert {pair.scale for pair in adapter.pairs.values()} == {1.0}


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 2**-23), (torch.bfloat16, 2**-8)])
def test_the_delta_is_the_weighted_sum_of_the_ends_deltas(
    tmp_path: Path, dtype: torch.dtype, bound: float
) -> None:
    low, high = write_ends(tmp_path, dtype)
    alphas = [-0.5, 0.25, 0.5, 1.5]
    merged = merge(low, high, alphas=alphas, out=tmp_path / "out")
    ends = [deltas_of(end) for end in (low, high)]
    for alpha, folder in zip(alphas, merged.folders, strict=True):
        scale_is_one(folder)
        found = deltas_of(folder, lambda name: 1.0)
        assert set(found) == set(ends[0])
        tensors = read_tensors(folder)
        for module, delta in found.items():
            exact = (1 - alpha) * ends[0][module] + alpha * ends[1][module]
            a, b = (tensors[f"{module}.lora_{part}.weight"].double().abs() for part in "AB")
            assert (np.abs(delta - exact) <= bound * (b @ a).numpy() + 1e-15).all()
        assert verify(str(folder)).faults == []


def test_hand_computed_factors_stand_side_by_side(tmp_path: Path) -> None:
    name = f"{PREFIX}model.layers.0.{Q}"
    ends = [
        write_adapter(
            tmp_path / str(number),
            {
                f"{name}.lora_A.weight": torch.tensor([[1.0, number]]),
                f"{name}.lora_B.weight": torch.tensor([[2.0], [number]]),
            },
            r=1,
            lora_alpha=number,
        )
        for number in (3.0, 5.0)
    ]
    (folder,) = merge(*ends, alphas=[0.25], out=tmp_path / "out").folders
    found = read_tensors(folder)
    assert found[f"{name}.lora_A.weight"].tolist() == [[1, 3], [1, 5]]
    # 0.75 * 3 and 0.25 * 5 times each B
    assert found[f"{name}.lora_B.weight"].tolist() == [[4.5, 2.5], [6.75, 6.25]]
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["rank_pattern"]) == (2, 2, {})


def test_the_ends_are_byte_for_byte_the_inputs(tmp_path: Path) -> None:
    low, high = write_ends(tmp_path)
    merged = merge(low, high, alphas=[0, 0.5, 1], out=tmp_path / "out")
    for end, folder in ((low, merged.folders[0]), (high, merged.folders[2])):
        made = content(folder)
        made.pop("cupel_merge.json")
        assert made == content(Path(end))
        assert verify(str(folder)).faults == []


def test_patterns_rank_stabilised_scales_and_three_adapters_are_heeded(tmp_path: Path) -> None:
    first = write_adapter(
        tmp_path / "a",
        factors(1, {Q: 2, K: 4}),
        rank_pattern={"q_proj": 2},
        alpha_pattern={r"layers\.1\.self_attn\.[qk]_proj": 6},
    )
    second = write_adapter(tmp_path / "b", factors(2, {Q: 9, K: 9}), r=9, use_rslora=True)
    third = write_adapter(tmp_path / "c", factors(3, {Q: 1, K: 1}), r=1, lora_alpha=0.5)

    def of_first(module: str) -> float:
        return (6 if ".1." in module else 8) / (2 if module.endswith("q_proj") else 4)

    weights = (0.5, 0.75, -0.25)
    (folder,) = merge_inputs(
        (first, second, third), tmp_path / "out", coefficients=[weights]
    ).folders
    scale_is_one(folder)
    found = deltas_of(folder, lambda name: 1.0)
    ends = [
        deltas_of(first, of_first),
        deltas_of(second, lambda name: 8 / 3),
        deltas_of(third, lambda name: 0.5),
    ]
    for module, delta in found.items():
        exact = sum(weight * end[module] for weight, end in zip(weights, ends, strict=True))
        np.testing.assert_allclose(delta, exact, atol=1e-5)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["r"] == config["lora_alpha"] == 14
    assert config["rank_pattern"] == {f"model.layers.{n}.{Q}": 12 for n in range(2)}
    assert config["use_rslora"] is False


def test_a_module_that_one_end_lacks_counts_as_no_change_and_is_warned_of(tmp_path: Path) -> None:
    low = write_adapter(
        tmp_path / "low", factors(1, {Q: 4, K: 4}), target_modules=["q_proj", "k_proj"]
    )
    high = write_adapter(
        tmp_path / "high", factors(2, {Q: 4, V: 4}), target_modules=["q_proj", "v_proj"]
    )
    merged = merge(low, high, alphas=[0.25, 1], out=tmp_path / "out")
    found = deltas_of(merged.folders[0], lambda name: 1.0)
    ends = [deltas_of(end) for end in (low, high)]
    for module, delta in found.items():
        zero = np.zeros_like(delta)
        exact = 0.75 * ends[0].get(module, zero) + 0.25 * ends[1].get(module, zero)
        np.testing.assert_allclose(delta, exact, atol=1e-6)
    assert len(found) == 6
    assert read_tensors(merged.folders[0])[f"{PREFIX}model.layers.0.{K}.lora_A.weight"].shape == (
        4,
        12,
    )
    config = json.loads((merged.folders[0] / "adapter_config.json").read_text())
    assert config["target_modules"] == ["k_proj", "q_proj", "v_proj"]
    assert set(read_tensors(merged.folders[1])) == set(read_tensors(high))
    assert sum("counted as no change" in warning for warning in merged.report.warnings) == 2
    assert f"model.layers.0.{V}" in merged.report.warnings[0]
    for folder in merged.folders:
        assert verify(str(folder)).recomputed


def test_targets_that_cannot_be_united_are_named_in_full(tmp_path: Path) -> None:
    low = write_adapter(tmp_path / "low", factors(1, {Q: 4}), target_modules=".*q_proj")
    high = write_adapter(
        tmp_path / "high",
        factors(2, {Q: 4}, layers=1),
        target_modules=["q_proj"],
        layers_to_transform=[0],
    )
    (folder,) = merge(low, high, alphas=[0.5], out=tmp_path / "out").folders
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["target_modules"] == [f"model.layers.{n}.{Q}" for n in range(2)]
    assert config["layers_to_transform"] is None
    assert config["rank_pattern"] == {f"model.layers.1.{Q}": 4}


def test_whole_weights_are_averaged_and_embeddings_kept_low_rank(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(4)
    embedding = f"{PREFIX}model.embed_tokens.lora_embedding_"
    ends = []
    for number in range(2):
        tensors = factors(number, {Q: 4})
        tensors[f"{embedding}A"] = torch.randn(4, 30, generator=generator)
        tensors[f"{embedding}B"] = torch.randn(12, 4, generator=generator)
        tensors[f"{PREFIX}lm_head.weight"] = torch.full((30, 12), 1.0 + number)
        ends.append(write_adapter(tmp_path / str(number), tensors, modules_to_save=["lm_head"]))
    (folder,) = merge(*ends, alphas=[0.25], out=tmp_path / "out").folders
    inputs = [read_tensors(end) for end in ends]
    found = read_tensors(folder)
    assert torch.equal(found[f"{PREFIX}lm_head.weight"], torch.full((30, 12), 1.25))
    exact = sum(
        weight * 2 * each[f"{embedding}B"].double() @ each[f"{embedding}A"].double()
        for weight, each in zip((0.75, 0.25), inputs, strict=True)
    )
    product = found[f"{embedding}B"].double() @ found[f"{embedding}A"].double()
    torch.testing.assert_close(product, exact, rtol=0, atol=1e-5)
    assert verify(str(folder)).faults == []
    shutil.copytree(ends[1], tmp_path / "less")
    del inputs[1][f"{PREFIX}lm_head.weight"]
    save_file(inputs[1], tmp_path / "less" / "adapter_model.safetensors")
    with pytest.raises(MergeRefused, match=r"less lacks .*lm_head.weight, .* not in an adapter"):
        merge(ends[0], str(tmp_path / "less"), alphas=[0.5], out=tmp_path / "none")


def test_layer_patterns_name_the_base_models_weights(tmp_path: Path) -> None:
    low, high = write_ends(tmp_path)
    layers = [{"pattern": "model.layers.0.*", "alpha": 0.0}, {"pattern": "*.q_proj.*", "scale": 2}]
    (folder,) = merge_inputs((low, high), tmp_path / "out", alphas=[0.5], layers=layers).folders
    found = deltas_of(folder, lambda name: 1.0)
    ends = [deltas_of(end) for end in (low, high)]
    for module, delta in found.items():
        alpha = 0.0 if ".0." in module else 1.0 if "q_proj" in module else 0.5
        exact = (1 - alpha) * ends[0][module] + alpha * ends[1][module]
        np.testing.assert_allclose(delta, exact, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "fields", "weights"),
    [
        ("soup", {}, (1 / 3, 1 / 3, 1 / 3)),
        ("task-arithmetic", {"alphas": [0.5]}, (0, 0.5, 0.5)),
        ("lines", {"alphas": [1], "options": {"first": 0.5, "last": 0.5}}, (0, 0.5, 0.5)),
    ],
)
def test_weighted_sums_of_other_methods_do_too(
    tmp_path: Path, method: str, fields: dict[str, object], weights: Sequence[float]
) -> None:
    ends = [write_adapter(tmp_path / str(n), factors(n, {Q: 4})) for n in range(3)]
    (folder,) = merge_inputs(ends, tmp_path / "out", method=method, **fields).folders
    found = deltas_of(folder, lambda name: 1.0)
    for module, delta in found.items():
        exact = sum(w * deltas_of(end)[module] for w, end in zip(weights, ends, strict=True))
        np.testing.assert_allclose(delta, exact, atol=1e-6)
    assert verify(str(folder)).recomputed


def test_another_dtype_can_be_written(tmp_path: Path) -> None:
    low, high = write_ends(tmp_path)
    merged = merge(low, high, alphas=[0, 0.5], out=tmp_path / "out", dtype="bfloat16")
    for folder in merged.folders:
        assert {tensor.dtype for tensor in read_tensors(folder).values()} == {torch.bfloat16}
        assert verify(str(folder)).faults == []
    assert (merged.report.outputs[1].rounding_over_step or 0) > 1e-4
    found = deltas_of(merged.folders[0], lambda name: 1.0)
    for module, delta in deltas_of(low).items():
        np.testing.assert_allclose(found[module], delta, atol=0.02 * np.abs(delta).max())


NAME = f"{PREFIX}model.layers.0.{Q}"


@pytest.mark.parametrize(
    ("config", "change", "error", "said"),
    [
        ({"use_dora": True}, {}, MergeRefused, r"use_dora"),
        ({"bias": "lora_only"}, {}, MergeRefused, r"bias 'lora_only'"),
        ({"peft_type": "IA3"}, {}, MergeRefused, r"peft_type IA3"),
        ({"init_lora_weights": "pissa"}, {}, MergeRefused, r"init_lora_weights 'pissa', which may"),
        (
            {"alora_invocation_tokens": [1]},
            {},
            MergeRefused,
            r"alora_invocation_tokens \(not known",
        ),
        (
            {"base_model_name_or_path": "org/other"},
            {},
            MergeRefused,
            r'"org/base" in .*"org/other"',
        ),
        ({"revision": "abc"}, {}, MergeRefused, r"revision is null in"),
        ({"fan_in_fan_out": True}, {}, MergeRefused, r"fan_in_fan_out is null in"),
        ({"r": 3}, {}, CheckpointError, r"has rank 4 in lora_A, 4 in lora_B, 3 in adapter_config"),
        ({"r": "many"}, {}, CheckpointError, r"adapter_config.json: r: "),
        ({"rank_pattern": {"(": 3}}, {}, CheckpointError, r"pattern '\('"),
        (
            {},
            {f"{NAME}.lora_magnitude_vector": (10,)},
            MergeRefused,
            r"lora_magnitude_vector is no",
        ),
        ({}, {f"{NAME}.lora_B.bias": (10,)}, MergeRefused, r"lora_B.bias is no part"),
        (
            {},
            {f"{NAME}.lora_A.weight": (4, 12, 1, 1)},
            MergeRefused,
            r"shape \[4, 12, 1, 1\]; only",
        ),
        ({}, {f"{NAME}.lora_A.weight": None}, CheckpointError, r"has no counterpart lora_A"),
        (
            {},
            {f"{NAME}.lora_A.weight": (4, 13)},
            MergeRefused,
            r"differs: .* 12 to 10; .* 13 to 10",
        ),
    ],
)
def test_what_is_no_plain_lora_or_does_not_fit_is_refused_by_name(
    tmp_path: Path,
    config: dict[str, object],
    change: Mapping[str, tuple[int, ...] | None],
    error: type[Exception],
    said: str,
) -> None:
    low, _ = write_ends(tmp_path)
    tensors = factors(2, {Q: 4, K: 4, V: 4})
    for name, shape in change.items():
        tensors.pop(name, None)
        if shape is not None:
            tensors[name] = torch.zeros(shape)
    high = write_adapter(tmp_path / "other", tensors, **config)
    with pytest.raises(error, match=said):
        merge(low, high, alphas=[0.5], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nan_fails_closed_and_leaves_nothing(tmp_path: Path) -> None:
    low, _ = write_ends(tmp_path)
    tensors = factors(2, {Q: 4, K: 4, V: 4})
    tensors[f"{NAME}.lora_B.weight"][3, 1] = float("nan")
    bad = write_adapter(tmp_path / "bad", tensors)
    with pytest.raises(MergeRefused, match=r"q_proj.lora_B.weight holds nan or inf: .*/bad"):
        merge(low, bad, alphas=[0.5, 1], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_values_that_overflow_are_refused(tmp_path: Path) -> None:
    ends = []
    for number in (1, 2):
        tensors = factors(number, {Q: 4}, torch.float16)
        tensors[f"{NAME}.lora_B.weight"] += 30_000
        ends.append(write_adapter(tmp_path / str(number), tensors))
    with pytest.raises(MergeRefused, match=r"lora_B.weight would hold inf"):
        merge(*ends, alphas=[1.5], out=tmp_path / "out")


def test_an_adapter_and_a_whole_model_are_not_mixed(tmp_path: Path) -> None:
    low, _ = write_ends(tmp_path)
    model = write_checkpoint(tmp_path / "model", random_tensors(1))
    with pytest.raises(MergeRefused, match=r"low is an adapter, .*/model is a whole model"):
        merge(low, str(model), alphas=[0.5], out=tmp_path / "out")


def test_methods_that_need_whole_weights_say_so(tmp_path: Path) -> None:
    ends = write_ends(tmp_path)
    with pytest.raises(MergeRefused, match=r"ties needs whole weights, .* choose one of: linear, "):
        merge_inputs(ends, tmp_path / "out", method="ties", alphas=[1])


class Killed(Exception):
    """Ends a merge in mid-pass."""


def test_a_killed_merge_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    low = write_adapter(tmp_path / "low", factors(1, {Q: 4, K: 4}))
    high = write_adapter(tmp_path / "high", factors(2, {Q: 4, V: 4}))
    fields = {"inputs": (low, high), "alphas": [0, 0.5, 1.5]}
    whole = run(prepare(make_recipe({**fields, "out": tmp_path / "whole"})))
    what = prepare(make_recipe({**fields, "out": tmp_path / "out"}))
    total = sum(each.size_bytes for each in what.blending.inputs)

    def progress(done: int, of: int) -> None:
        assert of <= total
        if done > of / 2:
            raise Killed

    with pytest.raises(Killed):
        run(what, progress)
    assert [path for path in (tmp_path / "out").iterdir() if path.name[0] != "."] == []
    resumed = run(what)
    for made, expected in zip(resumed.folders, whole.folders, strict=True):
        assert content(made) == content(expected)
    assert resumed.report.outputs == whole.report.outputs


def test_verify_finds_a_change_and_the_command_line_shows_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    low, high = write_ends(tmp_path)
    out = tmp_path / "out"
    merge_app(args=[low, high, "--alphas=0.5", "--out", str(out)], standalone_mode=False)
    folder = out / "alpha_0.5"
    merge_app(args=["verify", str(folder)], standalone_mode=False)
    assert "12 tensors as they were written, and computed once more" in capsys.readouterr().out
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    assert [fault for fault in verify(str(folder)).faults if "is not what was written" in fault]
    config = folder / "adapter_config.json"
    config.write_text(config.read_text().replace('"lora_alpha": 8', '"lora_alpha": 9'))
    assert "file adapter_config.json is not what was written" in verify(str(folder)).faults


@given(
    ranks=st.lists(st.integers(1, 5), min_size=2, max_size=3),
    wide=st.integers(1, 9),
    out=st.integers(1, 9),
    lacks=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_norms_without_the_products_are_those_of_the_products(
    ranks: list[int], wide: int, out: int, lacks: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    positions = tuple(range(len(ranks)))[int(lacks) :]
    a = [torch.randn(r, wide, generator=generator).double() for r in ranks]
    b = [torch.randn(out, r, generator=generator).double() for r in ranks]
    scales = tuple(0.5 + n for n in positions)
    module = Factors(
        positions, scales, tuple(a[n] for n in positions), tuple(b[n] for n in positions)
    )
    deltas = [torch.zeros(out, wide, dtype=torch.float64) for _ in ranks]
    for position, scale in zip(positions, scales, strict=True):
        deltas[position] = scale * b[position] @ a[position]
    weights = [0.3 - n for n in range(len(ranks))]
    step = sum(w * d for w, d in zip(weights, deltas, strict=True)) - deltas[0]
    assert measure_step(module, weights) == pytest.approx(float((step**2).sum()), abs=1e-9)
    sums = measure_inputs(module, len(ranks))
    assert sums.anchor_squared == pytest.approx(float((deltas[0] ** 2).sum()), abs=1e-9)
    moved = torch.stack([(d - deltas[0]).view(-1) for d in deltas[1:]])
    torch.testing.assert_close(sums.gram, moved @ moved.T, rtol=1e-9, atol=1e-9)
    whole_a, whole_b = module.side_by_side(weights)
    near_a, near_b = (each.bfloat16().double() for each in (whole_a, whole_b))
    error = near_b @ near_a - whole_b @ whole_a
    found = measure_error(whole_a, whole_b, near_a, near_b)
    assert found == pytest.approx(float((error**2).sum()), rel=1e-6, abs=1e-9)


def test_peft_loads_what_comes_out(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")

    class Attention(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q_proj = torch.nn.Linear(12, 10, bias=False)
            self.v_proj = torch.nn.Linear(12, 10, bias=False)

    class Base(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.ModuleList(Attention() for _ in range(2))

    def effective(folder: str) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = peft.PeftModel.from_pretrained(Base(), folder).merge_and_unload()
        return [each.detach().double() for each in model.parameters()]

    ends = []
    for number, (rank, targets) in enumerate(((2, ["q_proj", "v_proj"]), (3, ["q_proj"]))):
        torch.manual_seed(0)
        config = peft.LoraConfig(
            r=rank,
            lora_alpha=5,
            target_modules=targets,
            use_rslora=bool(number),
            init_lora_weights=False,
        )
        model = peft.get_peft_model(Base(), config)
        model.save_pretrained(tmp_path / str(number))
        ends.append(str(tmp_path / str(number)))
    (folder,) = merge(*ends, alphas=[0.25], out=tmp_path / "out").folders
    low, high, found = (effective(each) for each in (*ends, str(folder)))
    for one, other, made in zip(low, high, found, strict=True):
        torch.testing.assert_close(made, 0.75 * one + 0.25 * other, rtol=0, atol=1e-6)

"""Every element of a merge is the correctly rounded one."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import content, random_tensors, read_tensors, write_checkpoint, write_pair
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from cupel_trainer.merge import merge
from cupel_trainer.merge.kernel import BLOCK, TORCH_DTYPES, round_to

PRECISION = {"BF16": (8, -126), "F16": (11, -14), "F32": (24, -126)}
"""Bits of the significand, and the exponent of the smallest normal number."""


def nearest(value: Fraction, dtype: str) -> Fraction:
    """Rounds to nearest, ties to even, by the definition of IEEE 754."""
    if not value:
        return value
    precision, least_exponent = PRECISION[dtype]
    exponent = math.floor(math.log2(abs(value)))
    exponent += (abs(value) >= Fraction(2) ** (exponent + 1)) - (
        abs(value) < Fraction(2) ** exponent
    )
    unit = Fraction(2) ** (max(exponent, least_exponent) - precision + 1)
    return round(value / unit) * unit  # Fraction's round is to even


def rounded(values: list[float], dtype: str) -> list[float]:
    exact = torch.tensor(values, dtype=torch.float64)
    out = torch.empty(len(values), dtype=TORCH_DTYPES[dtype])
    round_to(exact, dtype, out)
    return out.double().tolist()


@pytest.mark.parametrize("dtype", PRECISION)
@given(
    significand=st.integers(-(2**12), 2**12),
    exponent=st.integers(-24, 3),
    nudge=st.sampled_from([0, 1, -1, 3, -3]),
    depth=st.sampled_from([14, 20, 30, 40]),
)
def test_rounding_is_to_nearest_even_also_next_to_a_tie(
    dtype: str, significand: int, exponent: int, nudge: int, depth: int
) -> None:
    value = math.ldexp(significand, exponent - 12) * (1 + nudge * 2.0**-depth)
    assert [Fraction(each) for each in rounded([value], dtype)] == [nearest(Fraction(value), dtype)]


@pytest.mark.parametrize("dtype", PRECISION)
def test_rounding_is_right_for_subnormal_numbers_and_many_ties_at_once(dtype: str) -> None:
    precision, least_exponent = PRECISION[dtype]
    smallest = 2.0 ** (least_exponent - precision + 1)
    halves = [smallest * (n + 0.5) for n in range(200)]  # every one a tie
    beside = [smallest * (n + 0.5) * (1 + 2.0**-40) for n in range(200)]
    for values in (halves, beside, halves + beside):
        assert [Fraction(each) for each in rounded(values, dtype)] == [
            nearest(Fraction(value), dtype) for value in values
        ]


@pytest.mark.parametrize("alpha", [0.25, 0.5, -0.5, 1.5, 0.3, -1 / 3, 2.0])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_merge_is_the_formula_in_float64_rounded_once(
    tmp_path: Path, dtype: torch.dtype, alpha: float
) -> None:
    low, high = write_pair(tmp_path, step=0.02, dtype=dtype, shards=2)
    (folder,) = merge(low, high, alphas=[alpha], out=tmp_path / "out").folders
    ends = read_tensors(low), read_tensors(high)
    for name, tensor in read_tensors(folder).items():
        here, there = (end[name].double().numpy() for end in ends)
        theta = here + alpha * (there - here)
        expected = np.array([float(nearest(Fraction(x), _code(dtype))) for x in theta.flat])
        assert np.array_equal(tensor.double().numpy().ravel(), expected), name


def test_adversarial_pairs_are_rounded_once(tmp_path: Path) -> None:
    # Cancellation, exponents far apart, ties, the largest and the smallest numbers.
    patterns = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    every = patterns.view(torch.bfloat16)
    every = every[torch.isfinite(every)]
    every = every[every.abs() < 1e38]
    partner = every[torch.randperm(len(every), generator=torch.Generator().manual_seed(3))]
    low = write_checkpoint(tmp_path / "low", {"w": every})
    high = write_checkpoint(tmp_path / "high", {"w": partner})
    for alpha in (0.5, 0.3, 1.25):
        (folder,) = merge(str(low), str(high), alphas=[alpha], out=tmp_path / f"{alpha}").folders
        here, there = every.double(), partner.double()
        theta = (here + alpha * (there - here)).tolist()
        got = read_tensors(folder)["w"].double().tolist()
        assert [Fraction(x) for x in got] == [nearest(Fraction(x), "BF16") for x in theta]


def test_the_ends_are_byte_for_byte_the_inputs(tmp_path: Path) -> None:
    low = write_checkpoint(tmp_path / "low", random_tensors(1), shards=3)
    high = write_checkpoint(tmp_path / "high", random_tensors(1, step=0.1), shards=2)
    merged = merge(str(low), str(high), alphas=[1, 0, 0.5], out=tmp_path / "out")
    for folder, end in zip(merged.folders, (high, low), strict=False):
        files = content(folder)
        del files["cupel_merge.json"]
        assert files == content(end)


def test_signs_of_zero_survive_at_the_ends(tmp_path: Path) -> None:
    zeros = torch.tensor([0.0, -0.0, 1.0], dtype=torch.bfloat16)
    low = write_checkpoint(tmp_path / "low", {"w": zeros})
    high = write_checkpoint(tmp_path / "high", {"w": -zeros})
    for folder, expected in zip(
        merge(str(low), str(high), alphas=[0, 1], out=tmp_path / "out").folders,
        (zeros, -zeros),
        strict=True,
    ):
        got = read_tensors(folder)["w"]
        assert torch.equal(got.view(torch.int16), expected.view(torch.int16))


def test_tensors_longer_than_a_block_or_empty_or_scalar_are_merged_whole(tmp_path: Path) -> None:
    shapes = [(3 * BLOCK + 17,), (), (0, 4), (1,)]
    low = {f"w{i}": torch.randn(shape).bfloat16() for i, shape in enumerate(shapes)}
    high = {name: (value.float() + 0.5).bfloat16() for name, value in low.items()}
    ends = [str(write_checkpoint(tmp_path / n, t)) for n, t in (("low", low), ("high", high))]
    (folder,) = merge(*ends, alphas=[0.5], out=tmp_path / "out").folders
    for name, tensor in read_tensors(folder).items():
        exact = low[name].double() + 0.5 * (high[name].double() - low[name].double())
        assert tensor.shape == low[name].shape
        assert torch.equal(tensor, exact.float().bfloat16())


def test_float32_masters_can_be_written_as_bfloat16(tmp_path: Path) -> None:
    low, high = write_pair(tmp_path, step=1e-4, dtype=torch.float32, shards=2)
    merged = merge(low, high, alphas=[0.0, 0.5], out=tmp_path / "out", dtype="bfloat16")
    ends = read_tensors(low), read_tensors(high)
    for alpha, folder in zip((0.0, 0.5), merged.folders, strict=True):
        for name, tensor in read_tensors(folder).items():
            here, there = ends[0][name].double(), ends[1][name].double()
            theta = (here + alpha * (there - here)).flatten().tolist()
            expected = [float(nearest(Fraction(value), "BF16")) for value in theta]
            assert tensor.dtype == torch.bfloat16
            assert tensor.double().flatten().tolist() == expected


def test_unaligned_headers_of_other_writers_are_read_and_kept(tmp_path: Path) -> None:
    low, high = write_pair(tmp_path)
    for end in (low, high):
        file = Path(end) / "model.safetensors"
        raw = file.read_bytes()
        length = int.from_bytes(raw[:8], "little")
        header = raw[8 : 8 + length].rstrip(b" ") + b" "
        header += b" " if len(header) % 2 == 0 else b""  # data begins at an odd byte
        file.write_bytes(len(header).to_bytes(8, "little") + header + raw[8 + length :])
    before = read_tensors(low), read_tensors(high)
    half, one = merge(low, high, alphas=[0.5, 1], out=tmp_path / "out").folders
    exact = {n: before[0][n].double() * 0.5 + before[1][n].double() * 0.5 for n in before[0]}
    assert all(torch.equal(t, exact[n].float().bfloat16()) for n, t in read_tensors(half).items())
    assert (one / "model.safetensors").read_bytes() == Path(high, "model.safetensors").read_bytes()


def test_layers_may_have_an_alpha_of_their_own(tmp_path: Path) -> None:
    from cupel_trainer.merge import merge_recipe
    from cupel_trainer.merge.recipe import make_recipe

    low, high = write_pair(tmp_path, dtype=torch.float32)
    recipe = make_recipe(
        {
            "inputs": (low, high),
            "alphas": (0.5,),
            "out": tmp_path / "out",
            "layers": [
                {"pattern": "model.layers.0.*", "alpha": 0.0},
                {"pattern": "model.layers.1.*", "scale": 2.0},
            ],
        }
    )
    (folder,) = merge_recipe(recipe).folders
    ends = read_tensors(low), read_tensors(high)
    for name, tensor in read_tensors(folder).items():
        alpha = 0.0 if ".layers.0." in name else 1.0 if ".layers.1." in name else 0.5
        here, there = ends[0][name].double(), ends[1][name].double()
        assert torch.equal(tensor, (here + alpha * (there - here)).float()), name


def test_three_checkpoints_with_coefficients(tmp_path: Path) -> None:
    from cupel_trainer.merge import merge_recipe
    from cupel_trainer.merge.recipe import make_recipe

    values = (1.0, 2.0, 4.0)
    folders = []
    for value in values:
        (tmp_path / f"{value}").mkdir()
        save_file({"w": torch.full((5,), value)}, tmp_path / f"{value}" / "model.safetensors")
        folders.append(str(tmp_path / f"{value}"))
    recipe = make_recipe(
        {
            "inputs": folders,
            "coefficients": [(0.5, 0.25, 0.25), (0.0, 0.0, 1.0), (1.0, 1.0, 1.0)],
            "out": tmp_path / "out",
        }
    )
    results = [read_tensors(folder)["w"][0].item() for folder in merge_recipe(recipe).folders]
    assert results == [0.5 + 0.5 + 1.0, 4.0, 7.0]


def _code(dtype: torch.dtype) -> str:
    return next(code for code, value in TORCH_DTYPES.items() if value == dtype)

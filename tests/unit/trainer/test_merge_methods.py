"""Every method against numbers worked out by hand, and against itself done the plain way."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import CONFIG, Tensors, content, random_tensors, read_tensors, write_checkpoint
from hypothesis import given
from hypothesis import strategies as st

from cupel_trainer.errors import MergeRefused
from cupel_trainer.merge.catalog import METHODS
from cupel_trainer.merge.checkpoint import open_checkpoint
from cupel_trainer.merge.command import merge_app
from cupel_trainer.merge.kernel import BLOCK, Block, round_to
from cupel_trainer.merge.methods.dare import keep
from cupel_trainer.merge.methods.ties import kth_largest
from cupel_trainer.merge.one_pass import Blending, Sizing
from cupel_trainer.merge.recipe import make_recipe
from cupel_trainer.merge.report import as_markdown
from cupel_trainer.merge.statistics import row_signs, rows_of
from cupel_trainer.merge.sweep import Merged, Prepared, prepare, run
from cupel_trainer.merge.verification import verify
from cupel_trainer.merge.worker import TensorDone, Worker

Numbers = Sequence[float]


def write(folder: Path, values: Numbers | torch.Tensor, dtype: torch.dtype = torch.float32) -> str:
    tensor = torch.as_tensor(values, dtype=dtype)
    return str(write_checkpoint(folder, {"model.w.weight": tensor}))


def prepared(inputs: Sequence[str], out: Path, method: str, **fields: object) -> Prepared:
    return prepare(make_recipe({"inputs": inputs, "out": out, "method": method, **fields}))


def merged_values(
    folder: Path, inputs: Sequence[Numbers], method: str, **fields: object
) -> Numbers:
    folders = [write(folder / f"in{index}", each) for index, each in enumerate(inputs)]
    (out,) = run(prepared(folders, folder / "out", method, **fields)).folders
    values: list[float] = read_tensors(out)["model.w.weight"].double().tolist()
    return values


def near(values: Numbers) -> object:
    return pytest.approx(values, rel=1e-6, abs=1e-7)


HALF = math.sqrt(0.5)


@pytest.mark.parametrize(
    ("method", "fields", "inputs", "expected"),
    [
        ("soup", {}, [[1, 2], [3, 6], [5, 10]], [3, 6]),
        ("task-arithmetic", {"alphas": [0.5]}, [[1, 1], [2, 1], [1, 3]], [1.5, 2]),
        ("task-arithmetic", {"alphas": [-1]}, [[1, 1], [2, 1]], [0, 1]),
        ("task-arithmetic", {"coefficients": [[1, 2, -1]]}, [[1, 1], [2, 1], [1, 3]], [3, -1]),
        ("expo", {"alphas": [0.5]}, [[1, 2], [2, 0]], [2.5, -1]),
        ("wise-ft", {"alphas": [0.25]}, [[0, 4], [4, 0]], [1, 3]),
        ("slerp", {"alphas": [0.5]}, [[1, 0], [0, 1]], [HALF, HALF]),
        ("slerp", {"alphas": [1 / 3]}, [[2, 0], [0, 1]], [2 * math.cos(math.pi / 6), 0.5]),
        ("slerp", {"alphas": [2]}, [[1, 0], [HALF, HALF]], [0, 1]),
        ("slerp", {"alphas": [0.5]}, [[1, 1], [3, 3]], [2, 2]),
        ("slerp", {"alphas": [0.25]}, [[1, 0], [-1, 0]], [0.5, 0]),
        ("slerp", {"alphas": [0.5]}, [[0, 0], [2, 4]], [1, 2]),
        (
            "ties",
            {"alphas": [2], "options": {"density": 0.5}},
            [[0, 0, 0, 1], [3, 1, -4, 1.5], [-1, 5, -2, 1.25]],
            [6, 10, -6, 1],
        ),
        ("ties", {"alphas": [1]}, [[0] * 5, [1, -1, 2, 3, 0]], [0, 0, 0, 3, 0]),
        (
            "ties",  # equals of the threshold all stay
            {"alphas": [1], "options": {"density": 0.5}},
            [[0] * 4, [1, -1, 2, 0]],
            [1, -1, 2, 0],
        ),
        (
            "ties",  # votes that cancel leave the base
            {"alphas": [1], "options": {"density": 1}},
            [[1, 1], [3, 2], [-1, 2]],
            [1, 2],
        ),
        (
            "dare-ties",
            {"alphas": [1], "options": {"density": 1}},
            [[0] * 4, [3, 1, -4, 0.5], [-1, 5, -2, 0.25]],
            [3, 3, -3, 0.375],
        ),
        ("dare", {"alphas": [0.5], "options": {"density": 1}}, [[1], [3], [5]], [4]),
        (
            "dare",
            {"coefficients": [[1, 2, 0.5]], "options": {"density": 1}},
            [[1], [3], [5]],
            [7],
        ),
    ],
)
def test_the_numbers_are_those_of_the_paper(
    tmp_path: Path,
    method: str,
    fields: dict[str, object],
    inputs: Sequence[Numbers],
    expected: Numbers,
) -> None:
    assert merged_values(tmp_path, inputs, method, **fields) == near(expected)


def test_lines_scales_with_depth_and_counts_each_stack_by_itself(tmp_path: Path) -> None:
    names = [f"model.layers.{layer}.w.weight" for layer in range(3)]
    names += ["visual.blocks.0.w.weight", "visual.blocks.1.w.weight", "model.embed_tokens.weight"]
    folders = [
        str(
            write_checkpoint(
                tmp_path / str(value), {name: torch.full((2,), value) for name in names}
            )
        )
        for value in (0.0, 1.0, 3.0)
    ]
    what = prepared(
        folders, tmp_path / "out", "lines", alphas=[2], options={"first": 0.25, "last": 0.75}
    )
    found = read_tensors(run(what).folders[0])
    assert {name: float(found[name][0]) for name in names} == {
        "model.layers.0.w.weight": 2.0,  # 2 * 0.25 * (1 + 3)
        "model.layers.1.w.weight": 4.0,
        "model.layers.2.w.weight": 6.0,
        "visual.blocks.0.w.weight": 2.0,
        "visual.blocks.1.w.weight": 6.0,
        "model.embed_tokens.weight": 2.0,
    }


def test_dare_drops_at_its_rate_and_scales_up_what_stays(tmp_path: Path) -> None:
    count = 3 * BLOCK + 777
    folders = [
        write(tmp_path / "base", torch.zeros(count)),
        write(tmp_path / "a", torch.ones(count)),
    ]
    what = prepared(
        folders, tmp_path / "out", "dare", alphas=[1], options={"density": 0.2, "seed": 3}
    )
    values = read_tensors(run(what).folders[0])["model.w.weight"]
    assert set(values.tolist()) == {0.0, 5.0}
    share = float((values > 0).double().mean())
    assert abs(share - 0.2) < 5 * math.sqrt(0.2 * 0.8 / count)
    blocks = values[: 3 * BLOCK].view(3, BLOCK)
    assert not torch.equal(blocks[0], blocks[1])


def test_what_dare_drops_is_told_by_seed_tensor_input_and_place_alone() -> None:
    whole = keep(1, "w", 1, 0, 4000, 0.3)
    assert torch.equal(whole[1600:], keep(1, "w", 1, 1600, 2400, 0.3))
    for other in (keep(2, "w", 1, 0, 4000, 0.3), keep(1, "v", 1, 0, 4000, 0.3)):
        assert not torch.equal(whole, other)
    assert not torch.equal(whole, keep(1, "w", 2, 0, 4000, 0.3))
    assert bool((whole <= keep(1, "w", 1, 0, 4000, 0.5)).all())
    # As it was when it was first released: old manifests must verify for ever.
    assert "".join("01"[int(kept)] for kept in keep(0, "w", 1, 0, 32, 0.5)) == GOLDEN


GOLDEN = "01011010010100001010101000100011"


def sliced(deltas: Sequence[torch.Tensor], step: int) -> Callable[[], list[Block]]:
    zeros = torch.zeros(0, dtype=torch.float64)

    def blocks() -> list[Block]:
        return [
            Block(start, zeros, tuple(delta[start : start + step] for delta in deltas))
            for start in range(0, len(deltas[0]), step)
        ]

    return blocks


@given(
    st.lists(
        st.one_of(
            st.sampled_from([0.0, -0.0, 1.0, -1.0, 5e-324, 2.0**-1022, 1.5, -1.5]),
            st.floats(allow_nan=False, allow_infinity=False),
            st.integers(-3, 3).map(float),
        ),
        min_size=1,
        max_size=60,
    ),
    st.data(),
)
def test_the_threshold_is_the_kth_largest_exactly(values: list[float], data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, len(values)))
    step = data.draw(st.integers(1, len(values)))
    delta = torch.tensor(values, dtype=torch.float64)
    found = kth_largest(lambda: iter(sliced([delta, -delta], step)()), rank)
    expected = sorted(map(abs, values), reverse=True)[rank - 1]
    assert found == [expected, expected]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_threshold_of_many_values_is_exact_too(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(5)
    delta = torch.randn(60_000, generator=generator, dtype=torch.float64).to(dtype).double()
    ordered = delta.abs().sort(descending=True).values
    readings = 0

    def blocks() -> list[Block]:
        nonlocal readings
        readings += 1
        return sliced([delta], 7000)()

    for rank in (1, 12_000, 59_999, 60_000):
        readings = 0
        assert kth_largest(lambda: iter(blocks()), rank) == [float(ordered[rank - 1])]
        assert readings <= 3


# The same methods on whole tensors in float64, as their papers write them.
def naive_slerp(x: list[np.ndarray], t: float) -> np.ndarray:
    omega = math.acos(x[0].ravel() @ x[1].ravel() / np.linalg.norm(x[0]) / np.linalg.norm(x[1]))
    return (math.sin((1 - t) * omega) * x[0] + math.sin(t * omega) * x[1]) / math.sin(omega)


def naive_agreeing(tau: list[np.ndarray]) -> np.ndarray:
    gamma = np.sign(sum(tau))
    agree = [(np.sign(each) == gamma) & (each != 0) for each in tau]
    total = sum(np.where(keeps, each, 0) for keeps, each in zip(agree, tau, strict=True))
    return np.asarray(total / np.maximum(1, sum(keeps.astype(int) for keeps in agree)))


def naive_ties(x: list[np.ndarray], density: float) -> np.ndarray:
    trimmed = []
    for each in x[1:]:
        tau = each - x[0]
        rank = max(1, round(density * tau.size))
        threshold = np.sort(np.abs(tau).ravel())[tau.size - rank]
        trimmed.append(np.where(np.abs(tau) >= threshold, tau, 0))
    return x[0] + 0.7 * naive_agreeing(trimmed)


def naive_dropped(x: list[np.ndarray], name: str) -> list[np.ndarray]:
    return [
        np.where(keep(9, name, i, 0, each.size, 0.4).numpy().reshape(each.shape), each - x[0], 0)
        / 0.4
        for i, each in enumerate(x[1:], start=1)
    ]


DROP = {"density": 0.4, "seed": 9}
NAIVE: dict[str, tuple[dict[str, object], Callable[[list[np.ndarray], str], np.ndarray]]] = {
    "linear": (
        {"coefficients": [[0.5, 0.8, -0.3]]},
        lambda x, _: 0.5 * x[0] + 0.8 * x[1] - 0.3 * x[2],
    ),
    "soup": ({}, lambda x, _: np.mean(x, axis=0)),
    "wise-ft": ({"alphas": [0.7]}, lambda x, _: 0.3 * x[0] + 0.7 * x[1]),
    "expo": ({"alphas": [0.7]}, lambda x, _: x[1] + 0.7 * (x[1] - x[0])),
    "slerp": ({"alphas": [0.7]}, lambda x, _: naive_slerp(x, 0.7)),
    "task-arithmetic": ({"alphas": [0.7]}, lambda x, _: x[0] + 0.7 * (x[1] + x[2] - 2 * x[0])),
    "lines": (
        {"alphas": [0.7], "options": {"first": 0.5}},
        lambda x, name: x[0]
        + 0.7
        * {"model.layers.1": 0.75, "model.layers.2": 1}.get(name[:14], 0.5)
        * (x[1] + x[2] - 2 * x[0]),
    ),
    "ties": ({"alphas": [0.7], "options": {"density": 0.3}}, lambda x, _: naive_ties(x, 0.3)),
    "dare": (
        {"alphas": [0.7], "options": DROP},
        lambda x, name: x[0] + 0.7 * np.sum(naive_dropped(x, name), axis=0),
    ),
    "dare-ties": (
        {"alphas": [0.7], "options": DROP},
        lambda x, name: x[0] + 0.7 * naive_agreeing(naive_dropped(x, name)),
    ),
}
TWO = ("wise-ft", "expo", "slerp")


def model(seed: int, step: float, dtype: torch.dtype) -> Tensors:
    """A small model with one tensor of several blocks, an empty one and a scalar."""
    tensors = random_tensors(1, dtype=torch.float64)
    large = torch.Generator().manual_seed(99)
    tensors["model.large.weight"] = torch.randn(5, BLOCK // 2 + 1, generator=large).double()
    noise = torch.Generator().manual_seed(1000 + seed)
    tensors["model.scale"] = torch.tensor(1.5, dtype=torch.float64)
    tensors["model.none"] = torch.zeros(0, 3, dtype=torch.float64)
    return {
        name: (value + step * torch.randn(value.shape, generator=noise)).to(dtype)
        for name, value in tensors.items()
    }


def write_models(folder: Path, method: str, dtype: torch.dtype) -> list[str]:
    count = 2 if method in TWO else 3
    return [
        str(write_checkpoint(folder / f"in{seed}", model(seed, 0.3 * seed, dtype), shards=1 + seed))
        for seed in range(count)
    ]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("method", NAIVE)
def test_a_method_is_what_the_plain_way_gives_and_its_manifest_verifies(
    tmp_path: Path, method: str, dtype: torch.dtype
) -> None:
    folders = write_models(tmp_path, method, dtype)
    fields, naive = NAIVE[method]
    (out,) = run(prepared(folders, tmp_path / "out", method, **fields)).folders
    inputs = [read_tensors(folder) for folder in folders]
    found = read_tensors(out)
    assert set(found) == set(inputs[0])
    for name, tensor in found.items():
        if not tensor.numel():
            continue
        if method == "slerp" and not tensor.shape:
            continue  # one number: the line, tried by hand above
        values = [each[name].double().numpy() for each in inputs]
        expected = torch.from_numpy(np.asarray(naive(values, name)))
        if dtype is torch.float64:
            torch.testing.assert_close(tensor, expected, rtol=1e-12, atol=1e-13)
        else:
            nearest = torch.empty(tensor.shape, dtype=dtype)
            round_to(expected.reshape(-1), "BF16", nearest.view(-1))
            # As near as can be; in a tie, which decimal coefficients often hit, on either side.
            apart = [(each.double() - expected).abs() for each in (tensor, nearest)]
            assert bool((apart[0] <= apart[1] * (1 + 1e-9) + 1e-15).all())
    checked = verify(str(out))
    assert checked.faults == []
    assert checked.recomputed


def test_every_method_is_tried_above() -> None:
    assert set(NAIVE) == set(METHODS)


class Nowhere:
    def start(self, tensor: str) -> int:
        return 0

    def write(self, tensor: str, offset: int, view: memoryview) -> None:
        pass


def hashes(blending: Blending, elements: int) -> dict[str, dict[int, str]]:
    """Of a pass whose stretches have this length, tensors in reverse order."""
    import threading

    entries = list(blending.inputs[0].tensors.values())
    sizing = Sizing(1, elements)
    readers = [
        {file.name: each.place.open(file.name) for file in each.files} for each in blending.inputs
    ]
    worker = Worker(
        blending,
        [Nowhere() for _ in blending.copies],
        readers,
        row_signs(rows_of(max(entry.elements for entry in entries))),
        sizing,
        threading.Event(),
        lambda count: None,
    )
    done: dict[str, TensorDone | None] = {
        entry.name: worker.merge(entry, frozenset()) for entry in reversed(entries)
    }
    for each in readers:
        for reader in each.values():
            reader.close()
    return {name: each.outputs for name, each in done.items() if each is not None}


@pytest.mark.parametrize("method", NAIVE)
def test_neither_stretches_nor_workers_nor_order_change_a_bit(tmp_path: Path, method: str) -> None:
    folders = write_models(tmp_path, method, torch.bfloat16)
    what = prepared(folders, tmp_path / "out", method, **NAIVE[method][0])
    assert isinstance(what.blending, Blending)
    short, long = (hashes(what.blending, elements) for elements in (BLOCK, 64 * BLOCK))
    assert short == long
    (out,) = run(what).folders
    said = json.loads((out / "cupel_merge.json").read_text())["tensors"]
    assert said == {name: each[0] for name, each in short.items()}


class Killed(Exception):
    """Ends a merge in mid-pass."""


def run_killed(what: Prepared, share: float) -> Merged:
    def progress(done: int, total: int) -> None:
        if done > share * total:
            raise Killed

    return run(what, progress)


@pytest.mark.parametrize("method", NAIVE)
def test_a_killed_merge_goes_on_to_the_same_bytes(tmp_path: Path, method: str) -> None:
    folders = write_models(tmp_path, method, torch.float32)
    fields = NAIVE[method][0]
    (whole,) = run(prepared(folders, tmp_path / "whole", method, **fields)).folders
    what = prepared(folders, tmp_path / "out", method, **fields)
    with pytest.raises(Killed):
        run_killed(what, 0.9)
    assert [path.name for path in (tmp_path / "out").iterdir() if path.name[0] != "."] == []
    merged = run(prepared(folders, tmp_path / "out", method, **fields))
    assert content(merged.folders[0]) == content(whole)
    assert as_markdown(merged.report).count("|") > 10


@pytest.mark.parametrize(
    ("method", "fields", "source"),
    [
        ("task-arithmetic", {"alphas": [0]}, 0),
        ("ties", {"alphas": [0]}, 0),
        ("dare", {"alphas": [0], "options": DROP}, 0),
        ("dare-ties", {"alphas": [0], "options": DROP}, 0),
        ("dare", {"alphas": [1], "options": DROP}, None),
        ("ties", {"alphas": [1]}, None),
        ("slerp", {"alphas": [0]}, 0),
        ("slerp", {"alphas": [1]}, 1),
        ("slerp", {"alphas": [0.5]}, None),
        ("expo", {"alphas": [0]}, 1),
        ("wise-ft", {"alphas": [0]}, 0),
        ("wise-ft", {"alphas": [1]}, 1),
        ("lines", {"alphas": [0], "options": {"first": 0.5}}, 0),
        ("lines", {"alphas": [1], "options": {"first": 1}}, 1),
        ("linear", {"coefficients": [[0, 1]]}, 1),
        ("linear", {"alphas": [1], "layers": [{"pattern": "*norm*", "alpha": 0}]}, None),
        ("soup", {}, None),
    ],
)
def test_an_output_equals_an_input_byte_for_byte_or_is_not_said_to(
    tmp_path: Path, method: str, fields: dict[str, object], source: int | None
) -> None:
    base, other = (random_tensors(1, step=step) for step in (0.0, 0.5))
    base["model.norm.weight"] = torch.tensor([-0.0, 0.0, 1.0], dtype=torch.bfloat16)
    other["model.norm.weight"] = torch.tensor([0.0, -0.0, -1.0], dtype=torch.bfloat16)
    folders = [
        str(write_checkpoint(tmp_path / name, tensors))
        for name, tensors in (("base", base), ("other", other))
    ]
    what = prepared(folders, tmp_path / "out", method, **fields)
    assert what.blending.copies == [source]
    (out,) = run(what).folders
    files = [content(Path(each))["model.safetensors"] for each in [*folders, str(out)]]
    if source is None:
        assert files[2] not in files[:2]
    else:
        assert files[2] == files[source]


def test_tied_tensors_stay_equal_under_dare(tmp_path: Path) -> None:
    tied = {**CONFIG, "tie_word_embeddings": True}
    folders = []
    for seed in (1, 2):
        tensors = random_tensors(1, step=seed * 0.1)
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
        folders.append(str(write_checkpoint(tmp_path / str(seed), tensors, config=tied)))
    what = prepared(folders, tmp_path / "out", "dare", alphas=[0.5], options=DROP)
    found = read_tensors(run(what).folders[0])
    assert torch.equal(found["lm_head.weight"], found["model.embed_tokens.weight"])
    with pytest.raises(MergeRefused, match=r"lm_head.weight.* are tied, but the layers"):
        prepared(
            folders,
            tmp_path / "out",
            "linear",
            alphas=[0.5],
            layers=[{"pattern": "lm_head*", "alpha": 0.1}],
        )


@pytest.mark.parametrize(
    ("method", "fields", "said"),
    [
        ("median", {"alphas": [1]}, r"no method 'median'; there are: linear, soup, wise-ft"),
        ("ties", {"alphas": [1], "options": {"k": 2}}, r"no option 'k'; it has: density"),
        ("soup", {"options": {"k": 2}}, r"no option 'k'; it has none"),
        (
            "ties",
            {"alphas": [1], "options": {"density": 0}},
            r"density is 0, but must be above 0 to 1",
        ),
        (
            "ties",
            {"alphas": [1], "options": {"density": 1.01}},
            r"density is 1.01, but must be above 0 to 1",
        ),
        ("dare", {"alphas": [1]}, r"dare needs --option density=\.\.\., above 0 to 1"),
        (
            "dare",
            {"alphas": [1], "options": {"density": 0.5, "seed": 0.5}},
            r"seed is 0.5, but must be an integer from 0 to 4294967295",
        ),
        ("soup", {"alphas": [1]}, r"soup takes no alphas"),
        ("slerp", {"coefficients": [[1, 0]]}, r"slerp takes no coefficients"),
        ("expo", {}, r"to expo, alphas are how far beyond ALIGNED"),
        ("linear", {}, r"give either alphas or coefficients"),
        ("expo", {"alphas": [-0.5]}, r"alpha is -0.5, but must be at least 0"),
        ("wise-ft", {"alphas": [1.5]}, r"alpha is 1.5, but must be from 0 to 1; linear goes"),
        ("task-arithmetic", {"coefficients": [[0.5, 1]]}, r"the base's coefficient is 0.5"),
        (
            "ties",
            {"alphas": [1], "layers": [{"pattern": "*", "alpha": 0}]},
            r"with linear only, not with ties",
        ),
        ("lines", {"alphas": [1], "options": {"first": 0}}, r"no tensor's name has a number"),
    ],
)
def test_what_does_not_suit_a_method_is_refused_with_the_remedy(
    tmp_path: Path, method: str, fields: dict[str, object], said: str
) -> None:
    folders = [write(tmp_path / "a", [1]), write(tmp_path / "b", [2])]
    with pytest.raises(MergeRefused, match=said):
        prepared(folders, tmp_path / "out", method, **fields)
    assert not (tmp_path / "out").exists()


def test_alphas_lie_between_two_and_no_more(tmp_path: Path) -> None:
    folders = [write(tmp_path / name, [1]) for name in "abc"]
    with pytest.raises(MergeRefused, match=r"linear with alphas takes two .* give coefficients"):
        prepared(folders, tmp_path / "out", "linear", alphas=[1])
    with pytest.raises(MergeRefused, match=r"slerp with alphas takes two checkpoints \(LOW HIGH\)"):
        prepared(folders, tmp_path / "out", "slerp", alphas=[1])


def test_everything_that_shapes_an_output_is_in_its_digest(tmp_path: Path) -> None:
    folders = [write(tmp_path / "a", range(64)), write(tmp_path / "b", range(1, 65))]
    digests: dict[str, Mapping[str, object]] = {}
    for number, (density, seed, alpha) in enumerate(
        [(0.5, 0, 1.0), (0.5, 1, 1.0), (0.25, 0, 1.0), (0.5, 0, 0.5)]
    ):
        options = {"density": density, "seed": seed}
        out = tmp_path / f"out{number}"
        what = prepared(folders, out, "dare", alphas=[alpha], options=options)
        (folder,) = run(what).folders
        document = json.loads((folder / "cupel_merge.json").read_text())
        digests[document["digest"]] = document["parameters"]
        assert document["alpha"] is None  # lambda is no place between two ends
    assert len(digests) == 4
    assert {"lambda": [1.0], "density": 0.5, "seed": 1} in digests.values()


def test_one_pass_makes_every_lambda(tmp_path: Path) -> None:
    folders = write_models(tmp_path, "ties", torch.bfloat16)
    options = {"density": 0.3}
    swept = run(
        prepared(folders, tmp_path / "all", "ties", alphas=[0.5, 0.7, 1], options=options)
    ).folders
    for folder, alpha in zip(swept, (0.5, 0.7, 1), strict=True):
        alone = run(
            prepared(folders, tmp_path / folder.name, "ties", alphas=[alpha], options=options)
        ).folders[0]
        assert content(alone) == content(folder)


def command(args: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    merge_app(args=list(args), standalone_mode=False)
    return capsys.readouterr().out


def test_the_command_line_lists_every_method_with_paper_and_options(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = command(["methods"], capsys)
    for name, entry in METHODS.items():
        assert name in shown
        assert entry.source in shown
        for option, spec in entry.options.items():
            assert f"--option {option}: {spec.meaning}; {spec.range}" in shown
    assert "The first input is x_0" in shown


def test_the_command_line_takes_methods_and_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [write(tmp_path / "a", [0, 0, 0, 0]), write(tmp_path / "b", [1, -2, 3, 4])]
    options = ["--method", "ties", "--alphas=0.5", "--option", "density=0.5"]
    command([*folders, *options, "--out", str(tmp_path / "out")], capsys)
    found = read_tensors(tmp_path / "out" / "alpha_0.5")["model.w.weight"].tolist()
    assert found == [0, 0, 1.5, 2]
    command([*folders, "--method", "soup", "--out", str(tmp_path / "soup")], capsys)
    assert read_tensors(tmp_path / "soup" / "soup")["model.w.weight"].tolist() == [0.5, -1, 1.5, 2]


def test_more_than_two_checkpoints_and_more_than_one_row(tmp_path: Path) -> None:
    folders = [write(tmp_path / str(n), [float(n), 1.0]) for n in range(4)]
    rows = [[0.25] * 4, [1, 0, 0, 0], [0, 0, 0, 1], [0.5, -1, 0.5, 2]]
    merged = run(prepared(folders, tmp_path / "out", "linear", coefficients=rows))
    assert [path.name for path in merged.folders] == [f"linear_{n}" for n in range(1, 5)]
    found = [read_tensors(path)["model.w.weight"].tolist() for path in merged.folders]
    assert found == [[1.5, 1], [0, 1], [3, 1], [6, 2]]


def test_the_first_layer_pattern_that_matches_counts(tmp_path: Path) -> None:
    names = [
        "model.layers.0.a.weight",
        "model.layers.0.b.weight",
        "model.layers.1.a.weight",
        "head",
    ]
    folders = [
        str(
            write_checkpoint(
                tmp_path / str(n), {name: torch.full((2,), float(n)) for name in names}
            )
        )
        for n in range(2)
    ]
    layers = [
        {"pattern": "*.0.a.*", "alpha": 0.25},
        {"pattern": "model.layers.0.*", "scale": -1},
        {"pattern": "*.a.*", "scale": 0.5},
    ]
    merged = run(prepared(folders, tmp_path / "out", "linear", alphas=[1, 2], layers=layers))
    found = [[float(read_tensors(path)[name][0]) for name in names] for path in merged.folders]
    assert found == [[0.25, -1, 0.5, 1], [0.25, -2, 1, 2]]
    assert open_checkpoint(str(merged.folders[0])).tensors.keys() == set(names)

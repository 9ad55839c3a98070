"""LoRA adapters merged as they are: the weighted sum of their deltas, kept low-rank.

Averaging the factors is wrong, since (A + A')(B + B') holds products of one end's with the other's.
The sum of the deltas has the factors side by side:

    sum_i c_i s_i B_i A_i = [c_0 s_0 B_0, c_1 s_1 B_1, ...] [A_0; A_1; ...]

so that ranks add up. Coefficients and scales go into B alone, in float64, and B is rounded once: A
stays bit for bit, nothing is multiplied by a root that would have to cancel, and B, which training
begins at zero, is the factor with room for them. The new config's lora_alpha equals its rank
everywhere, so that its scale is 1. The result is exact up to that one rounding of B.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch

from cupel_trainer.errors import MergeRefused
from cupel_trainer.merge.adapter_agreement import merged_config, modules_of
from cupel_trainer.merge.checkpoint import ADAPTER, ADAPTER_CONFIG, Checkpoint
from cupel_trainer.merge.kernel import BLOCK, TORCH_DTYPES, Rule, decode, round_to
from cupel_trainer.merge.layout import TensorEntry, new_layout, read_metadata
from cupel_trainer.merge.lora import Adapter, Pair, base_name
from cupel_trainer.merge.low_rank import Factors, measure_error, measure_inputs, measure_step
from cupel_trainer.merge.methods.contract import Method
from cupel_trainer.merge.one_pass import Blending, Finished, Sink, Sizing, Skip
from cupel_trainer.merge.outputs import OutputLayout, layout_like
from cupel_trainer.merge.places import Reader, Window
from cupel_trainer.merge.statistics import OutputSums, TensorSums
from cupel_trainer.merge.worker import TensorDone


@dataclass(frozen=True, slots=True)
class LowRank(Method):
    """A method whose outputs are weighted sums, applied to deltas instead of weights."""

    weights: Method

    @property
    def formula(self) -> str:
        """The method's own, of the adapters' deltas."""
        return f"{self.weights.formula}; each the delta s * B A of an adapter, factors side by side"

    def parameters(self, output: int) -> dict[str, object]:
        """Those of the method."""
        return self.weights.parameters(output)

    def rule(self, output: int, tensor: TensorEntry, observed: object) -> Rule:
        """That of the base model's weight: patterns mean the same as for whole models."""
        return self.weights.rule(output, replace(tensor, name=base_name(tensor.name)), None)

    def copied(self, output: int, tensors: Iterable[TensorEntry]) -> int | None:
        """That of the base model's weights."""
        renamed = (replace(tensor, name=base_name(tensor.name)) for tensor in tensors)
        return self.weights.copied(output, renamed)


@dataclass(frozen=True, slots=True)
class AdapterBlending:
    """What is computed of adapters: `Blending` for low-rank deltas, one module at a time."""

    adapters: Sequence[Adapter]
    method: Method
    copies: Sequence[int | None]
    dtype: str | None = None

    @property
    def inputs(self) -> tuple[Checkpoint, ...]:
        """The adapters' folders."""
        return tuple(each.checkpoint for each in self.adapters)

    def layout(self, output: int) -> OutputLayout:
        """The files of one output."""
        source = self.copies[output]
        if source is not None:
            return layout_like(self.inputs[source], None)
        tensors = [
            (entry.name, self.dtype or entry.dtype, entry.shape)
            for entry in self.adapters[0].whole.values()
        ]
        for module in modules_of(self.adapters):
            pairs = self._pairs(module)
            rank = sum(pair.rank for pair in pairs.values())
            one = next(iter(pairs.values()))
            tensors.append((one.a.name, self.dtype or one.a.dtype, (rank, one.a.shape[1])))
            tensors.append((one.b.name, self.dtype or one.b.dtype, (one.b.shape[0], rank)))
        (file,) = self.inputs[0].files
        layout = new_layout(ADAPTER, tensors, read_metadata(file))
        side_files = dict(layout_like(self.inputs[0], None).side_files)
        side_files[ADAPTER_CONFIG] = merged_config(self.adapters)
        return OutputLayout((layout,), None, side_files)

    def size(self, memory_bytes: int) -> Sizing:
        """What the pass over whole weights may take; a module is held at once in any case."""
        whole = self._whole()
        return Sizing.within(memory_bytes, whole) if whole is not None else Sizing(1, BLOCK)

    def run(
        self,
        sinks: Sequence[Sink],
        *,
        sizing: Sizing,
        skip: Skip = lambda name: frozenset(),
        finished: Finished = lambda name, done: None,
        progress: Callable[[int], None] = lambda count: None,
    ) -> None:
        """Computes all outputs; whole weights as any model's, then module after module.

        Args:
            sinks: One per output.
            sizing: How whole weights are dealt with.
            skip: The outputs that have a tensor already, by its name.
            finished: Called with each tensor that is done.
            progress: Called with input bytes as they are dealt with.

        Raises:
            MergeRefused: A tensor holds nan or inf, or would.
            CheckpointError: An input cannot be read.
            OutputError: An output cannot be written.
        """
        whole = self._whole()
        if whole is not None:
            whole.run(sinks, sizing=sizing, skip=skip, finished=finished, progress=progress)
        with ExitStack() as stack:
            readers = [each.place.open(ADAPTER) for each in self.inputs]
            for reader in readers:
                stack.callback(reader.close)
            for module in modules_of(self.adapters):
                self._merge(module, readers, sinks, skip, finished)
                progress(
                    sum(
                        pair.a.size_bytes + pair.b.size_bytes
                        for pair in self._pairs(module).values()
                    )
                )

    def _whole(self) -> Blending | None:
        """The whole weights among the tensors, if there are any, as those of any model."""
        if not self.adapters[0].whole:
            return None
        whole = [replace(each.checkpoint, tensors=each.whole) for each in self.adapters]
        return Blending(whole, self.method, self.copies, self.dtype)

    def _pairs(self, module: str) -> dict[int, Pair]:
        """The module's factors by input, where it has any."""
        return {
            position: each.pairs[module]
            for position, each in enumerate(self.adapters)
            if module in each.pairs
        }

    def _merge(
        self,
        module: str,
        readers: Sequence[Reader],
        sinks: Sequence[Sink],
        skip: Skip,
        finished: Finished,
    ) -> None:
        pairs = self._pairs(module)
        raws = {
            position: tuple(_read(readers[position], entry) for entry in (pair.a, pair.b))
            for position, pair in pairs.items()
        }
        factors = self._factors(pairs, raws)
        one = next(iter(pairs.values()))
        sums = measure_inputs(factors, len(self.adapters))
        done = [
            TensorDone(_hashes(raws, 0), {}, TensorSums(0)),
            TensorDone(_hashes(raws, 1), {}, sums),
        ]
        had = [skip(one.a.name), skip(one.b.name)]
        for index, sink in enumerate(sinks):
            source = self.copies[index]
            contents: tuple[memoryview, ...]
            if source is None:
                contents, of_output = self._sum(index, one, factors)
            else:
                contents = raws.get(source, ())
                of_output = OutputSums(0.0, 0.0, sums.elements)
                of_output.step_squared = measure_step(factors, _unit(source, len(self.adapters)))
            for entry, content, of_tensor, skipped in zip(
                (one.a, one.b), contents, done, had, strict=False
            ):
                if index not in skipped:
                    of_tensor.outputs[index] = _write(sink, entry.name, content)
            if index not in had[1]:
                sums.outputs[index] = of_output
        finished(one.a.name, done[0])
        finished(one.b.name, done[1])

    def _factors(
        self, pairs: Mapping[int, Pair], raws: Mapping[int, tuple[memoryview, ...]]
    ) -> Factors:
        for position, pair in pairs.items():
            for entry, raw in zip((pair.a, pair.b), raws[position], strict=True):
                if not torch.isfinite(decode(raw, entry.dtype)).all():
                    where = self.inputs[position].location
                    raise MergeRefused(f"tensor {entry.name} holds nan or inf: {where}")
        return Factors(
            tuple(pairs),
            tuple(pair.scale for pair in pairs.values()),
            tuple(_matrix(raws[position][0], pair.a) for position, pair in pairs.items()),
            tuple(_matrix(raws[position][1], pair.b) for position, pair in pairs.items()),
        )

    def _sum(
        self, index: int, one: Pair, factors: Factors
    ) -> tuple[tuple[memoryview, memoryview], OutputSums]:
        """A and B of one output, as they lie in its file, and what is measured of it."""
        rule = self.method.rule(index, one.a, None)
        weights = (rule.scale - sum(rule.coefficients), *rule.coefficients)
        a, b = factors.side_by_side(weights)
        rounded_a, raw_a = _rounded(a, self.dtype or one.a.dtype, one.a.name)
        rounded_b, raw_b = _rounded(b, self.dtype or one.b.dtype, one.b.name)
        error = measure_error(a, b, rounded_a.double(), rounded_b.double())
        elements = a.shape[1] * b.shape[0]
        return (raw_a, raw_b), OutputSums(measure_step(factors, weights), error, elements)


def _unit(position: int, count: int) -> tuple[float, ...]:
    return tuple(float(each == position) for each in range(count))


def _read(reader: Reader, entry: TensorEntry) -> memoryview:
    return reader.read(entry.start, entry.size_bytes, Window(entry.size_bytes))


def _matrix(raw: memoryview, entry: TensorEntry) -> torch.Tensor:
    return decode(raw, entry.dtype).view(entry.shape).double()


def _hashes(raws: Mapping[int, tuple[memoryview, ...]], which: int) -> dict[int, str]:
    return {position: hashlib.sha256(raw[which]).hexdigest() for position, raw in raws.items()}


def _rounded(exact: torch.Tensor, dtype: str, name: str) -> tuple[torch.Tensor, memoryview]:
    out = torch.empty(exact.shape, dtype=TORCH_DTYPES[dtype])
    round_to(exact.view(-1), dtype, out.view(-1))
    if not torch.isfinite(out).all():
        raise MergeRefused(
            f"tensor {name} would hold inf: its values overflow the output's dtype; "
            "choose a smaller alpha or a wider --dtype"
        )
    return out, out.view(-1).view(torch.uint8).numpy().data


def _write(sink: Sink, name: str, content: memoryview) -> str:
    view = Window(content.nbytes).place(sink.start(name), content.nbytes)
    view[:] = content
    sink.write(name, 0, view)
    return hashlib.sha256(view).hexdigest()

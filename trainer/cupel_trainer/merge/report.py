"""What a merge did to the weights: the steps between the ends, and what rounding left of them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path

import torch

from cupel_trainer.errors import OutputError
from cupel_trainer.merge.statistics import OutputSums, TensorSums
from cupel_trainer.merge.worker import TensorDone
from cupel_trainer.whole_files import write_whole

LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks?|layer)\.(\d+)\.")
"""The layer's number in a tensor's name, as the hub's models have it."""
EATEN = 0.1
"""A rounding error of this part of the step is worth a warning."""


@dataclass(slots=True)
class TensorRow:
    """All that is known of one tensor: hashes by input and output, and what was measured."""

    name: str
    inputs: dict[int, str]
    outputs: dict[int, str]
    sums: TensorSums

    @classmethod
    def of(cls, name: str, copies: Sequence[int | None], done: TensorDone) -> TensorRow:
        """From what the pass found; outputs that are copies get their sums without computing."""
        sums = done.sums
        for index in done.outputs:
            source = copies[index]
            if source is not None and sums.gram.numel():
                step = 0.0 if source == 0 else float(sums.gram[source - 1, source - 1])
                stayed = sums.elements if source == 0 else sums.standing
                sums.outputs[index] = OutputSums(step, 0.0, stayed)
        return cls(name, done.inputs, done.outputs, sums)

    def journal(self, output: int) -> dict[str, object]:
        """What must be known of one output after a restart."""
        sums = self.sums.outputs.get(output)
        return asdict(sums) if sums is not None else {}

    def recall(self, output: int, line: Mapping[str, object]) -> None:
        """Takes what an interrupted merge noted of one output."""
        self.outputs[output] = str(line["sha256"])
        if "unmoved" in line:
            self.sums.outputs[output] = OutputSums(
                float(str(line["step_squared"])),
                float(str(line["error_squared"])),
                int(str(line["unmoved"])),
            )


@dataclass(frozen=True, slots=True)
class LayerReport:
    """One layer, or one tensor outside the layers.

    `step` is the norm of the last input minus the first, `relative_step` that over the norm of the
    first. `cosine_to_next` is between this layer's step and the next one's, from sketches (an error
    of about 0.03), over the tensors that both have.
    """

    name: str
    elements: int
    step: float
    relative_step: float
    cosine_to_next: float | None


@dataclass(frozen=True, slots=True)
class OutputReport:
    """One output.

    `step` is the norm of its distance from the first input before rounding, `rounding_over_step`
    the norm of what rounding changed over that. `unmoved_share` counts, among the elements that
    differ between inputs, those that rounding put back to the first input's value.
    """

    name: str
    step: float
    rounding_over_step: float | None
    unmoved_share: float | None


@dataclass(frozen=True, slots=True)
class Report:
    """A whole merge."""

    outputs: tuple[OutputReport, ...]
    layers: tuple[LayerReport, ...]
    cosines: tuple[tuple[float, ...], ...]
    """Cosines between the inputs' deltas from the first one; one row per input but the first."""
    warnings: tuple[str, ...]

    @classmethod
    def of(
        cls, names: Sequence[str], warnings: Sequence[str], rows: Mapping[str, TensorRow]
    ) -> Report:
        """Sums up the rows of all tensors."""
        measured = [rows[name] for name in sorted(rows) if rows[name].sums.gram.numel()]
        outputs = tuple(_output(name, index, measured) for index, name in enumerate(names))
        eaten = [each for each in outputs if (each.rounding_over_step or 0.0) > EATEN]
        if eaten:
            worst = max(eaten, key=lambda each: each.rounding_over_step or 0.0)
            said = (
                f"rounding eats part of the step in {', '.join(each.name for each in eaten)}: in "
                f"{worst.name} it changes the weights by {_share(worst.rounding_over_step)} of the "
                f"step, and {_share(worst.unmoved_share)} of the weights that differ do not move; "
                "write float32 (--dtype float32), from the trainer's float32 master weights"
            )
            warnings = (*warnings, said)
        return cls(outputs, _layers(measured), _cosines(measured), tuple(warnings))


def write_report(report: Report, folder: Path) -> None:
    """Writes `report.json` and `report.md`, each whole or not at all.

    Those of an earlier merge into the same folder stay, as `report-1.md` and so on.

    Raises:
        OutputError: They cannot be written.
    """
    try:
        _write(folder / "report.json", json.dumps(asdict(report), indent=1) + "\n")
        _write(folder / "report.md", as_markdown(report))
    except OSError as error:
        raise OutputError(f"{folder}: the report: {error.strerror}") from error


def as_markdown(report: Report) -> str:
    """The report as two tables and its warnings."""
    lines = ["# Merge report", ""]
    lines += [f"* **Warning:** {warning}" for warning in report.warnings]
    lines += ["", "| output | step | rounding error / step | did not move |", "|---|---|---|---|"]
    lines += [
        f"| {each.name} | {each.step:.6g} | {_share(each.rounding_over_step)} "
        f"| {_share(each.unmoved_share)} |"
        for each in report.outputs
    ]
    lines += ["", "| layer | elements | step | step / weights | cosine to the next |"]
    lines += ["|---|---|---|---|---|"]
    lines += [
        f"| {each.name} | {each.elements:,} | {each.step:.6g} | {each.relative_step:.3g} "
        f"| {'' if each.cosine_to_next is None else f'{each.cosine_to_next:+.3f}'} |"
        for each in report.layers
    ]
    if len(report.cosines) > 1:
        lines += ["", "Cosines between the inputs' distances from the first:", ""]
        lines += ["  ".join(f"{value:+.4f}" for value in row) for row in report.cosines]
    return "\n".join(lines) + "\n"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"


def _write(path: Path, text: str) -> None:
    if path.exists() and path.read_text("utf-8") != text:
        earlier = (path.with_stem(f"{path.stem}-{number}") for number in count(1))
        path.rename(next(each for each in earlier if not each.exists()))
    write_whole(path, text.encode())


def _output(name: str, index: int, rows: Sequence[TensorRow]) -> OutputReport:
    sums = [(row.sums, row.sums.outputs[index]) for row in rows]
    step = math.sqrt(sum(each.step_squared for _, each in sums))
    error = math.sqrt(sum(each.error_squared for _, each in sums))
    differ = sum(tensor.elements - tensor.standing for tensor, _ in sums)
    unmoved = sum(each.unmoved - tensor.standing for tensor, each in sums)
    return OutputReport(
        name,
        step,
        error / step if step else None,
        max(0, unmoved) / differ if differ and step else None,
    )


def _layers(rows: Sequence[TensorRow]) -> tuple[LayerReport, ...]:
    groups: dict[tuple[int, str], dict[str, TensorRow]] = {}
    for row in rows:
        found = LAYER.search(row.name)
        if found is None:
            groups[(-1, row.name)] = {row.name: row}
        else:
            part = row.name[: found.start(1)] + "*" + row.name[found.end(1) :]
            layer = row.name[: found.end(1)]
            groups.setdefault((int(found[1]), layer), {})[part] = row
    ordered = sorted(groups)
    reports = []
    for position, key in enumerate(ordered):
        group = groups[key]
        following = groups[ordered[position + 1]] if position + 1 < len(ordered) else {}
        step = math.sqrt(sum(_last(row) for row in group.values()))
        size = math.sqrt(sum(row.sums.anchor_squared for row in group.values()))
        reports.append(
            LayerReport(
                key[1],
                sum(row.sums.elements for row in group.values()),
                step,
                step / size if size else 0.0,
                _sketched_cosine(group, following) if key[0] >= 0 else None,
            )
        )
    return tuple(reports)


def _last(row: TensorRow) -> float:
    return float(row.sums.gram[-1, -1])


def _sketched_cosine(
    group: Mapping[str, TensorRow], following: Mapping[str, TensorRow]
) -> float | None:
    shared = [
        part
        for part in group
        if part in following and group[part].sums.elements == following[part].sums.elements
    ]
    product = sum(
        float(torch.dot(group[part].sums.sketch, following[part].sums.sketch)) for part in shared
    )
    norms = [math.sqrt(sum(_last(each[part]) for part in shared)) for each in (group, following)]
    if not shared or not all(norms):
        return None
    return max(-1.0, min(1.0, product / (norms[0] * norms[1])))


def _cosines(rows: Sequence[TensorRow]) -> tuple[tuple[float, ...], ...]:
    if not rows:
        return ()
    gram = torch.stack([row.sums.gram for row in rows]).sum(0)
    norms = gram.diagonal().sqrt().clamp_min(1e-300)
    cosines: list[list[float]] = (gram / norms / norms[:, None]).tolist()
    return tuple(tuple(row) for row in cosines)

"""A plan as people read it."""

from __future__ import annotations

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from cupel_trainer.plan.judge_hosts import WAIT_SHARE_MAX, hosts_needed
from cupel_trainer.plan.run_plan import RunPlan
from cupel_trainer.plan.simulation import Overlap

WAYS = {
    Overlap.NONE: "when all are drawn",
    Overlap.CHUNKS: "chunk by chunk, one after the other",
    Overlap.CONCURRENT: "chunk by chunk, all at once",
    Overlap.STREAM: "each as it ends",
}


def show_plan(plan: RunPlan, console: Console) -> None:
    """Prints a plan.

    Args:
        plan: The plan.
        console: Where.
    """
    tables = (_training(plan), _serving(plan), _load(plan), _steps(plan), _files(plan))
    console.print(Group(_model(plan), *tables))
    console.print(Text(f"Answers: {plan.workload.source}."))
    for refusal in plan.refusals:
        console.print(Text(f"does not fit: {refusal}", style="bold red"))
    if not plan.refusals:
        console.print(Text("fits", style="bold green"))


def _model(plan: RunPlan) -> Text:
    model, shape = plan.architecture, plan.shape
    gpus = shape.training_gpus * shape.replicas
    served = (
        f"rollouts on the same, {shape.engines} engines"
        if shape.colocated
        else f"rollouts on {shape.engines * shape.gpus_per_engine} more, {shape.engines} engines"
    )
    return Text(
        f"{model.name}: {model.parameters:,} parameters, {model.layers} layers\n"
        f"{gpus} {shape.gpu.name} train; {served} of {shape.gpus_per_engine} GPU each"
    )


def _training(plan: RunPlan) -> Table:
    memory = plan.training
    table = Table("memory of a training GPU", "GiB", "how", title_justify="left")
    over = f"over {plan.shape.training_gpus} GPUs" if plan.shape.training_gpus > 1 else "whole"
    kept = "one vector per token and layer" if plan.shape.checkpointing else "all of every layer"
    micro = f"{plan.shape.micro_batch} longest sequences per pass"
    for name, size, how in (
        ("float32 masters", memory.masters, over),
        ("gradients", memory.gradients, over),
        ("Adam's moments", memory.moments, over),
        ("gathered weights", memory.gathered, "two layers, embeddings and head, in bfloat16"),
        ("activations kept", memory.checkpoints, f"{kept}, {micro}"),
        ("one layer at work", memory.layer_activations, "computed again"),
        ("logits", memory.logits, "with their gradient; not at the same time as the line above"),
        ("reserve", memory.reserve, "CUDA, NCCL, fragments: assumed"),
    ):
        table.add_row(name, _gib(size), how)
    room = plan.shape.gpu.memory_bytes
    table.add_row("together", _gib(memory.total), f"of {_gib(room)}", style="bold")
    return table


def _serving(plan: RunPlan) -> Table:
    memory, shape = plan.serving, plan.shape
    table = Table("memory of a rollout GPU", "GiB", "how")
    table.add_row("weights", _gib(memory.weights), f"bfloat16 over {shape.gpus_per_engine} GPUs")
    table.add_row("reserve", _gib(memory.reserve), "activations, CUDA graphs: assumed")
    longest = shape.prompt_tokens_max + shape.completion_tokens_max
    how = f"{memory.sequences} sequences of {longest} tokens, {_gib(memory.sequence)} GiB each"
    table.add_row("keys and values", _gib(memory.cache), how)
    return table


def _load(plan: RunPlan) -> Table:
    judge = plan.judge
    table = Table("per step", "", show_header=True)
    table.add_row("prompts", f"{plan.shape.completions // plan.shape.group:,}")
    table.add_row("completions, each judged", f"{judge.programs:,}")
    table.add_row("tokens", f"{plan.tokens:,.0f}")
    table.add_row("tests run", f"{judge.tests:,.0f}")
    table.add_row("box seconds", f"{judge.slot_s:,.0f}")
    return table


def _steps(plan: RunPlan) -> Table:
    table = Table(
        *("answers are judged", "drawing s", "wait s", "update s", "step s", "boxes", "hosts"),
        title=f"boxes that keep the wait below {WAIT_SHARE_MAX:.0%} of a step (simulated)",
    )
    for way, step in plan.steps.items():
        own = way is plan.shape.overlap
        name, style = WAYS[way] + (": this run" if own else ""), "bold" if own else None
        if step is None:
            slowest = max(each.judging_s for each in plan.workload.rollouts)
            last = f"slowest verdict {slowest:.0f} s"
            table.add_row(name, *[""] * 4, "none do", last, style=style)
            continue
        times = (step.generation_s, step.judge_wait_s, step.update_s, step.step_s)
        hosts = hosts_needed(step.slots, plan.shape.slots_per_host)
        cells = [*(f"{each:.1f}" for each in times), str(step.slots), str(hosts)]
        table.add_row(name, *cells, style=style)
    return table


def _files(plan: RunPlan) -> Table:
    volumes, shape = plan.volumes, plan.shape
    table = Table("files", "GB", "what")
    for name, size, what in (
        ("a checkpoint", volumes.checkpoint, "masters and moments: 12 bytes a weight"),
        ("all of them", volumes.checkpoints, f"the {shape.checkpoints_kept} newest"),
        ("masters", volumes.masters, "float32: what is merged"),
        ("read by a sweep", volumes.merge_read, "both ends, once"),
        ("written by a sweep", volumes.merge_written, f"{shape.merge_alphas} alphas in bfloat16"),
        ("weights to the engines", volumes.sync, "float32, once a step"),
    ):
        table.add_row(name, f"{size / 1e9:.1f}", what)
    return table


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.1f}"

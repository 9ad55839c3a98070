"""Training's speed: 20 steps of GRPO on a random-weight model, through `cupel train`'s own code.

On a GPU the model has Qwen2.5-0.5B's shape, without one a tiny one: then it only shows that the
path works. What it measured on stands in the title, and first in every figure's name. Random
weights hardly ever end an answer, so every one has the longest length and every step is alike; the
first one, which warms up, is left out. Programs are judged by a service of its own, as always.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress as Bar

from cupel import CupelError
from cupel_trainer.errors import TrainerError
from cupel_trainer.plan.architecture import find_config
from cupel_trainer.train.recipe import Recipe
from cupel_trainer.train.recipe_file import make_recipe
from cupel_trainer.train.run import Progress, train
from cupel_trainer.train.step_record import StepRecord
from report import Figure, show

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
LARGE = "Qwen/Qwen2.5-0.5B"
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
TINY |= {"num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 512}
END = "<|endoftext|>"


def write_model(folder: Path, *, tiny: bool) -> None:
    """Writes a config and a tokenizer; the weights are random, made where training begins."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    document = json.loads(find_config(LARGE).read_text("utf-8"))
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=[END], initial_alphabet=letters, show_progress=False
    )
    made.train_from_iterator([Path(__file__).read_text("utf-8")], trainer)
    fast: Any = PreTrainedTokenizerFast  # its constructor has no types
    tokenizer = fast(tokenizer_object=made, eos_token=END, pad_token=END)
    tokenizer.save_pretrained(folder)
    document |= {"eos_token_id": tokenizer.eos_token_id, **(TINY if tiny else {})}
    (folder / "config.json").write_text(json.dumps(document), encoding="utf-8")


def write_problems(file: Path) -> None:
    folders = sorted(each.parent for each in EXAMPLES.glob("*/problem.toml"))
    rows = [json.dumps({"id": each.name, "folder": str(each)}) for each in folders]
    file.write_text("\n".join(rows) + "\n", encoding="utf-8")


def make(folder: Path, arguments: argparse.Namespace, *, gpu: bool) -> Recipe:
    tiny = arguments.tiny or not gpu
    write_model(folder / "model", tiny=tiny)
    write_problems(folder / "problems.jsonl")
    rollouts = {"kind": arguments.rollouts}
    if arguments.rollouts == "vllm-colocate":
        rollouts |= {"sleep": False}
    return make_recipe(
        {
            "model": {"path": str(folder / "model"), "random_seed": 0},
            "problems": {"set": str(folder / "problems.jsonl")},
            "sampling": {
                "max_tokens": arguments.max_tokens or (16 if tiny else 512),
                "group_size": arguments.group,
            },
            "optimiser": {"steps": arguments.steps, "prompts_per_step": arguments.prompts},
            "precision": {
                "compute": "bfloat16" if gpu else "float32",
                "device": "auto" if gpu else "cpu",
            },
            "parallelism": {"gradient_checkpointing": gpu, "micro_batch": arguments.micro_batch},
            "rollouts": rollouts,
            "checkpoints": {"every_steps": arguments.steps, "keep": 1},
            "logging": {"tensorboard": False},
        }
    )


def measure(recipe: Recipe, out: Path) -> list[StepRecord]:
    records: dict[int, StepRecord] = {}
    with Bar(console=Console(stderr=True)) as bar:
        task = bar.add_task("steps", total=recipe.optimiser.steps)

        def take(progress: Progress) -> None:
            if progress.record is not None:
                records[progress.record.step] = progress.record
            bar.update(task, completed=progress.step, description=progress.doing)

        train(recipe, out, show=take)
    return [records[step] for step in sorted(records)]


def figures(device: str, records: Sequence[StepRecord]) -> list[Figure]:
    warm = records[1:] or records
    steps, drawn = len(warm), sum(each.tokens for each in warm)
    step_s = sum(each.step_s for each in warm)
    drawing_s = sum(each.generation_s for each in warm)
    wait_s = sum(each.judge_wait_s for each in warm)
    return [
        Figure(
            f"{device}_tokens_per_s",
            drawn / step_s,
            "tokens/s",
            steps,
            {
                "step_s": statistics.median(each.step_s for each in warm),
                "tokens_per_step": drawn / steps,
            },
        ),
        Figure(
            f"{device}_drawn_tokens_per_s",
            drawn / drawing_s,
            "tokens/s",
            steps,
            {"drawing_s": drawing_s / steps},
        ),
        Figure(
            f"{device}_judge_wait_ratio", wait_s / step_s, "x", steps, {"wait_s": wait_s / steps}
        ),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--prompts", type=int, default=4, help="per step (default 4)")
    parser.add_argument("--group", type=int, default=8, help="completions per prompt (default 8)")
    parser.add_argument("--micro-batch", type=int, default=8, help="per pass (default 8)")
    parser.add_argument(
        "--max-tokens", type=int, help="of an answer; default 512 on a GPU, else 16"
    )
    parser.add_argument(
        "--rollouts", choices=["transformers", "vllm-colocate"], default="transformers"
    )
    parser.add_argument("--tiny", action="store_true", help="the tiny model on a GPU, too")
    parser.add_argument("--json", action="store_true", help="one JSON object per figure and line")
    arguments = parser.parse_args()
    import torch

    gpu = torch.cuda.is_available()
    name = torch.cuda.get_device_name() if gpu else "CPU"
    print(f"train_gpu: measuring on {name}", file=sys.stderr)
    try:
        with tempfile.TemporaryDirectory() as folder:
            recipe = make(Path(folder), arguments, gpu=gpu)
            records = measure(recipe, Path(folder) / "out")
    except (TrainerError, CupelError) as error:
        print(f"train_gpu: {error}", file=sys.stderr)
        return 2
    device = "gpu" if gpu else "cpu"
    model = "a tiny model" if arguments.tiny or not gpu else f"{LARGE}'s shape"
    show(f"GRPO on {name}, {model}", figures(device, records), as_json=arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Makes the two ends of a study in miniature: `low` and `high`, tiny models that write programs.

    python examples/study/make_checkpoints.py FOLDER

Nothing is downloaded, and a CPU does it in about a minute. A model of some 400,000 weights learns
the solutions of this repository's problems by heart, line by line: right ones, slow ones and wrong
ones. From this common start two copies go on: `low` mostly with slow programs, as after RL that
rewards the small tests only, and `high` mostly with fast ones, half of them wrong. This is plain
supervised learning, made to show Cupel's commands at work. It is no result, and no RL.
"""

from __future__ import annotations

import argparse
import copy
import tomllib
from pathlib import Path
from typing import Any

import torch

EXAMPLES = Path(__file__).resolve().parents[1]
FENCES = {".c": "c", ".cpp": "cpp", ".py": "python"}
END, PAD = "<|end|>", "<|pad|>"
SHARES = {
    "base": {"right": 1.0, "slow": 1.0, "wrong": 1.0},
    "low": {"right": 0.3, "slow": 1.0, "wrong": 0.1},
    "high": {"right": 0.5, "slow": 0.05, "wrong": 0.5},
}
"""How often each kind of solution is shown, in relation to the others."""
STEPS = {"base": 250, "low": 40, "high": 40}
LEARNING_RATE = {"base": 3e-3, "low": 1e-3, "high": 1e-3}
"""Small steps from the common start: they can be averaged, and gone on with beyond the ends."""


def read_solutions() -> list[tuple[str, str, str]]:
    """Title, kind and completion of every solution in the repository."""
    found = []
    for problem in sorted(EXAMPLES.glob("*/problem.toml")):
        title = tomllib.loads(problem.read_text("utf-8"))["title"]
        for path in sorted(problem.parent.glob("solutions/*")):
            fence = FENCES[path.suffix]
            found.append((title, path.stem, f"```{fence}\n{path.read_text('utf-8')}```\n"))
    return found


def make_tokenizer(texts: list[str]) -> Any:
    """One token for each line that occurs: the shortest way to models that write whole programs."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    lines = sorted({line for text in texts for line in text.splitlines(keepends=True)})
    vocabulary = {token: number for number, token in enumerate([END, PAD, *lines])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token=PAD))
    words.pre_tokenizer = pre_tokenizers.Split(Regex("\n"), "merged_with_previous")
    words.decoder = decoders.Fuse()
    fast: Any = PreTrainedTokenizerFast  # it has no types
    return fast(tokenizer_object=words, eos_token=END, pad_token=PAD, unk_token=PAD)


def make_model(tokenizer: Any, longest: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=2 * longest,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            tie_word_embeddings=False,
        )
    )


def teach(model: Any, name: str, ids: torch.Tensor, weights: torch.Tensor) -> float:
    """Shows all solutions, (N, T), at every step; each counts by its weight, (N,).

    Returns:
        The last loss, in nats per line.
    """
    pad = model.config.pad_token_id
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE[name], weight_decay=0.0)
    shown = (ids[:, 1:] != pad) * weights[:, None]  # (N, T - 1)
    loss = torch.zeros(())
    for _ in range(STEPS[name]):
        logits = model(input_ids=ids[:, :-1]).logits  # (N, T - 1, V)
        losses = torch.nn.functional.cross_entropy(
            logits.transpose(1, 2), ids[:, 1:], reduction="none"
        )
        loss = (losses * shown).sum() / shown.sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return loss.item()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="where `low` and `high` are written")
    folder = parser.parse_args().folder
    solutions = read_solutions()
    tokenizer = make_tokenizer([part for title, _, text in solutions for part in (title, text)])
    rows = [
        [*tokenizer(title)["input_ids"], *tokenizer(text)["input_ids"], tokenizer.eos_token_id]
        for title, _, text in solutions
    ]
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), tokenizer.pad_token_id)
    for row, tokens in zip(ids, rows, strict=True):
        row[: len(tokens)] = torch.tensor(tokens)

    def weights(name: str) -> torch.Tensor:
        return torch.tensor([SHARES[name][kind] for _, kind, _ in solutions])

    base = make_model(tokenizer, longest)
    print(f"{base.num_parameters()} weights, {len(rows)} solutions, {len(tokenizer)} lines")
    print(f"base: {teach(base, 'base', ids, weights('base')):.3f} nats per line")
    for name in ("low", "high"):
        model = copy.deepcopy(base)
        print(f"{name}: {teach(model, name, ids, weights(name)):.3f} nats per line")
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        print(f"wrote {folder / name}")


if __name__ == "__main__":
    main()

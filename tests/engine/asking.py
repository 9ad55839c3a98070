"""What every engine is asked, and how two engines' answers are compared.

Run as a program it starts a fresh engine on each checkpoint and prints the answers: the reference
that a swapped engine must equal.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm import LLM

TOLERANCE = 1e-4
# Longer than two blocks of the prefix cache, so that a stale block would be used.
PROMPT = [(7 * place) % 199 + 1 for place in range(80)]
BLOCK_TOKENS = 32  # the smallest that the CPU backend takes
NEW_TOKENS = 4
ENGINE = {
    "dtype": "float32",
    "enforce_eager": True,
    "kv_cache_memory_bytes": 256 * 2**20,
    "max_model_len": 128,
    "block_size": BLOCK_TOKENS,
    "disable_log_stats": True,
}


@dataclass(frozen=True)
class Answer:
    """Log-probabilities of the prompt's tokens, and of the greedy continuation's."""

    prompt: list[float]
    continuation: list[float]
    tokens: list[int]


def ask(llm: LLM) -> Answer:
    """Asks an engine in this process."""
    from vllm import SamplingParams

    # Prompt log-probabilities go past the prefix cache, the continuation through it.
    scored = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0)
    greedy = SamplingParams(max_tokens=NEW_TOKENS, temperature=0, logprobs=0, ignore_eos=True)
    prompt = {"prompt_token_ids": PROMPT}
    (first,) = llm.generate([prompt], scored, use_tqdm=False)
    (second,) = llm.generate([prompt], greedy, use_tqdm=False)
    places = zip(PROMPT[1:], first.prompt_logprobs[1:], strict=True)
    new = second.outputs[0]
    return Answer(
        [found[token].logprob for token, found in places],
        [found[token].logprob for token, found in zip(new.token_ids, new.logprobs, strict=True)],
        list(new.token_ids),
    )


def distance(one: Answer, other: Answer) -> float:
    """The largest difference of two log-probabilities; infinite if other tokens were drawn."""
    if one.tokens != other.tokens:
        return float("inf")
    pairs = zip(one.prompt + one.continuation, other.prompt + other.continuation, strict=True)
    return max(abs(mine - theirs) for mine, theirs in pairs)


def by_transformers(folder: str | Path) -> Answer:
    """The same, computed without vLLM."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokens = list(PROMPT)
    with torch.no_grad():
        for _ in range(NEW_TOKENS):
            scores = model(torch.tensor([tokens])).logits[0].log_softmax(-1)
            tokens.append(int(scores[-1].argmax()))
        scores = model(torch.tensor([tokens])).logits[0].log_softmax(-1)
    found = [float(scores[place - 1, tokens[place]]) for place in range(1, len(tokens))]
    split = len(PROMPT) - 1
    return Answer(found[:split], found[split:], tokens[len(PROMPT) :])


def fresh_answers(folders: list[Path]) -> list[tuple[Answer, Answer]]:
    """What a fresh engine and transformers answer on each checkpoint."""
    environment = os.environ | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    command = [sys.executable, __file__, *map(str, folders)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"engine"')]
    found = [json.loads(line) for line in lines]
    assert len(found) == len(folders), done.stdout[-4000:]
    return [(Answer(**each["engine"]), Answer(**each["transformers"])) for each in found]


def main() -> None:
    from vllm import LLM

    for folder in sys.argv[1:]:
        llm = LLM(folder, **ENGINE)
        answers = {"engine": asdict(ask(llm)), "transformers": asdict(by_transformers(folder))}
        print(json.dumps(answers), flush=True)  # noqa: T201  # the caller reads it
        del llm
        gc.collect()


if __name__ == "__main__":
    main()

"""The supervised start: the policy learns to write programs, in every setting's form."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cupel_trainer.evaluate.pass_at_k import CountArray
from cupel_trainer.evaluate.records import Record
from cupel_trainer.lab.lessons import Lesson
from cupel_trainer.lab.vocabulary import END

if TYPE_CHECKING:
    import torch

IGNORED = -100
"""The label of a token that is not learned, as `cross_entropy` knows it."""


class Teaching(Record):
    """How the supervised start goes."""

    lessons: int = Field(12_000, ge=64, description="Conversations, each on another problem.")
    steps: int = Field(700, ge=1, description="Optimiser steps on lessons of a single turn.")
    later_steps: int = Field(
        300, ge=0, description="Steps after them that show conversations of several turns, too."
    )
    later_share: float = Field(
        0.6, ge=0, le=1, description="Of conversations of several turns, in the later steps."
    )
    batch_size: int = Field(32, ge=1, description="Conversations per step.")
    learning_rate: float = Field(3e-3, gt=0, description="At its peak; falls in the later steps.")
    warm_up: int = Field(30, ge=0, description="Steps of rising learning rate.")
    number_weight: float = Field(
        4.0,
        gt=0,
        description="Of a token that is a number in the loss; others count 1. Numbers are copied "
        "from the statement, which is learned last.",
    )


def encode_lesson(tokenizer: Any, lesson: Lesson) -> tuple[list[int], list[int]]:
    """A lesson as tokens, and as labels: those of the policy's turns, with their ends."""
    ids: list[int] = []
    labels: list[int] = []
    for number, text in enumerate(lesson.texts):
        if number % 2 == 0:
            piece = tokenizer(f"<|user|>{text}<|assistant|>", add_special_tokens=False)["input_ids"]
            labels += [IGNORED] * len(piece)
        else:
            piece = tokenizer(f"{text}{END}", add_special_tokens=False)["input_ids"]
            labels += piece
        ids += piece
    return ids, labels


# Any: transformers has no types that mypy --strict can use.
def teach(
    model: Any,
    tokenizer: Any,
    lessons: Sequence[Lesson],
    teaching: Teaching,
    seed: int,
    show: Callable[[int, float], None] = lambda step, loss: None,
) -> float:
    """Trains a policy on lessons; it is changed in place.

    Args:
        model: The policy.
        tokenizer: Its tokenizer.
        lessons: What it is shown.
        teaching: How.
        seed: Of the order.
        show: Is told the number of steps done and the running loss, in nats per token.

    Returns:
        The running loss at the end.
    """
    import torch

    encoded = [encode_lesson(tokenizer, lesson) for lesson in lessons]
    single = np.array([len(lesson.texts) == 2 for lesson in lessons])
    batches = _course(np.array([len(ids) for ids, _ in encoded]), single, teaching, seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, weight_decay=0.01, betas=(0.9, 0.98))
    weights = _token_weights(tokenizer, teaching.number_weight)
    running = 0.0
    model.train()
    for step, rows in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(step, teaching)
        ids, labels = _padded([encoded[row] for row in rows], tokenizer.pad_token_id)
        logits = model(input_ids=ids).logits[:, :-1]  # (B, T - 1, V)
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1),
            labels[:, 1:].flatten(),
            weight=weights,  # the mean is weighted, too
            ignore_index=IGNORED,
        )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no type for it
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        value = float(loss.detach())
        running = value if step == 0 else 0.95 * running + 0.05 * value
        show(step + 1, running)
    model.eval()
    return running


def _token_weights(tokenizer: Any, number_weight: float) -> torch.Tensor:
    """What each token counts in the loss, (V,)."""
    import torch

    weights = torch.ones(len(tokenizer))
    for token, number in tokenizer.get_vocab().items():
        if token.strip().isdigit():
            weights[number] = number_weight
    return weights


def _learning_rate(step: int, teaching: Teaching) -> float:
    """Rises, stays, and falls along a cosine in the later steps, which must learn new words, too.

    Without later steps it falls in the last third.
    """
    if step < teaching.warm_up:
        return teaching.learning_rate * (step + 1) / teaching.warm_up
    whole = teaching.steps + teaching.later_steps
    falls_from = teaching.steps + teaching.later_steps // 3
    if not teaching.later_steps:
        falls_from = 2 * teaching.steps // 3
    done = max(0, step - falls_from) / max(1, whole - falls_from)
    return teaching.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def _course(
    lengths: CountArray, single: NDArray[np.bool_], teaching: Teaching, seed: int
) -> list[list[int]]:
    """Rows of each step: at first lessons of a single turn, which are short, then all kinds."""
    random = np.random.default_rng(seed)
    (short,), (long,) = np.nonzero(single), np.nonzero(~single)
    batches = _batches(short, lengths, teaching.steps, teaching.batch_size, random)
    share = teaching.later_share
    kept = len(short) if share == 0 else round(len(long) * (1 - share) / share)
    mixed = np.concatenate([random.permutation(short)[:kept], long if share else long[:0]])
    return batches + _batches(mixed, lengths, teaching.later_steps, teaching.batch_size, random)


def _batches(
    rows: CountArray,
    lengths: CountArray,
    steps: int,
    batch_size: int,
    random: np.random.Generator,
) -> list[list[int]]:
    """Batches of lessons of similar length, so that little is padding, in random order."""
    batches: list[list[int]] = []
    while len(batches) < steps:
        # Lengths are blurred: batches differ from one epoch to the next.
        order = rows[np.argsort(lengths[rows] + random.uniform(0, 8, len(rows)))]
        full = [
            order[start : start + batch_size].tolist() for start in range(0, len(order), batch_size)
        ]
        random.shuffle(full)
        batches += full
    return batches[:steps]


def _padded(
    rows: Sequence[tuple[list[int], list[int]]], pad_id: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and labels of a batch, (B, T) each, padded on the right, where causality hides it."""
    import torch

    width = max(len(ids) for ids, _ in rows)
    ids = torch.full((len(rows), width), pad_id)
    labels = torch.full((len(rows), width), IGNORED)
    for row, (tokens, wanted) in enumerate(rows):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        labels[row, : len(wanted)] = torch.tensor(wanted)
    return ids, labels

"""What TRL 1.16 does with what we hand it: the reasons for which it can be trusted."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")


def test_a_reward_of_none_is_left_out_of_the_baseline_and_moves_nothing(
    stage: Path, tmp_path: Path
) -> None:
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    import cupel_trainer.train.trl_trainer  # noqa: F401 (silences TRL's word on rollout_func)

    seen: list[torch.Tensor] = []

    class Spy(GRPOTrainer):
        def _compute_loss(self, model: Any, inputs: Any) -> Any:
            seen.append(torch.stack([inputs["completion_ids"][:, 0], inputs["advantages"]]))
            return super()._compute_loss(model, inputs)

    def roll_out(prompts: list[str], trainer: object) -> dict[str, Any]:
        ids = [[number] for number in range(len(prompts))]  # each completion is its own number
        return {"prompt_ids": [[5]] * 8, "completion_ids": ids, "logprobs": None, "mark": ids}

    def rewards(mark: list[list[int]], **_: object) -> list[float | None]:
        return [1.0, 0.0, None, 1.0, None, None, None, None]

    trainer = Spy(
        model=AutoModelForCausalLM.from_pretrained(stage / "model"),
        processing_class=AutoTokenizer.from_pretrained(stage / "model"),
        reward_funcs=rewards,
        rollout_func=roll_out,
        train_dataset=Dataset.from_dict({"prompt": ["a", "b"]}),
        args=GRPOConfig(
            output_dir=str(tmp_path),
            use_cpu=True,
            bf16=False,
            activation_checkpointing=False,
            max_steps=1,
            per_device_train_batch_size=8,
            num_generations=4,
            max_completion_length=1,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        ),
    )
    with pytest.warns(FutureWarning, match="is_gradient_checkpointing"):
        trainer.train()
    (batch,) = seen
    advantages = dict(zip(batch[0].int().tolist(), batch[1].tolist(), strict=True))
    # Rewards 1, 0 and 1 of three: their mean is 2/3, their (unbiased) deviation sqrt(1/3).
    deviation = math.sqrt(1 / 3) + 1e-4
    assert advantages[0] == advantages[3] == pytest.approx(1 / 3 / deviation, rel=1e-5)
    assert advantages[1] == pytest.approx(-2 / 3 / deviation, rel=1e-5)
    assert [advantages[number] for number in (2, 4, 5, 6, 7)] == [0.0] * 5

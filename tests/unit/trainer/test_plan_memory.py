from __future__ import annotations

import json
from pathlib import Path

import pytest

from cupel_trainer.errors import CheckpointError
from cupel_trainer.plan.architecture import Architecture, read_architecture
from cupel_trainer.plan.hardware import GPUS, decoding_speed, update_time_s
from cupel_trainer.plan.memory import serving_memory, training_memory

TINY = Architecture(
    name="tiny",
    parameters=1000,
    block_parameters=300,
    root_parameters=400,
    layers=2,
    windows=(None, 4),
    hidden=8,
    intermediate=16,
    query_width=8,
    key_value_width=4,
    vocabulary=50,
    context=64,
)


@pytest.mark.parametrize(
    ("model", "published"),
    [("Qwen/Qwen2.5-7B", 7.61e9), ("Qwen/Qwen2.5-0.5B", 0.49e9), ("facebook/cwm-sft", 32.6e9)],
)
def test_parameters_are_as_many_as_published(model: str, published: float) -> None:
    assert read_architecture(model).parameters == pytest.approx(published, rel=0.01)


def test_parameters_by_hand_with_tied_embeddings_counted_once(tmp_path: Path) -> None:
    config = {
        "model_type": "qwen2",
        "vocab_size": 10,
        "hidden_size": 8,
        "intermediate_size": 6,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "tie_word_embeddings": True,
        "max_position_embeddings": 64,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    # Of a layer: queries 8 x 8 + 8, keys and values (8 x 4 + 4) twice, output 8 x 8, three
    # feed-forward matrices of 8 x 6, two norms of 8.
    layer = 72 + 2 * 36 + 64 + 3 * 48 + 2 * 8
    found = read_architecture(str(tmp_path))
    assert found.block_parameters == layer
    assert found.root_parameters == 10 * 8 + 8
    assert found.parameters == 2 * layer + 88
    assert (found.query_width, found.key_value_width, found.windows) == (8, 4, (None, None))


def test_a_model_of_unknown_shape_is_refused_with_the_known_ones() -> None:
    with pytest.raises(CheckpointError, match=r"folder that holds its config\.json.*Qwen2.5-7B"):
        read_architecture("someone/some-model")


def test_a_broken_config_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "no-such-model"}')
    with pytest.raises(CheckpointError, match="no model can be built from it"):
        read_architecture(str(tmp_path))


def test_training_memory_by_hand() -> None:
    memory = training_memory(
        TINY, gpus=4, sequences=2, prompt_tokens=3, completion_tokens=5, checkpointing=True
    )
    assert memory.masters == 1000 * 4 // 4
    assert memory.gradients == 1000 * 4 // 4
    assert memory.moments == 1000 * 8 // 4
    # Two layers, embeddings and head in bfloat16, and one layer's gradient.
    assert memory.gathered == 2 * (2 * 300 + 400 + 300)
    assert memory.checkpoints == 2 * 16 * 8 * 2  # layers, tokens, width, bytes
    width = 6 * 8 + 3 * 8 + 3 * 4 + 4 * 16
    assert memory.layer_activations == 16 * width * 2
    assert memory.logits == 2 * 5 * 50 * 10
    state = 1000 + 1000 + 2000
    assert memory.total == state + 2600 + 512 + max(16 * width * 2, 5000) + 4 * 2**30


def test_without_checkpointing_every_layer_keeps_its_activations() -> None:
    memory = training_memory(
        TINY, gpus=1, sequences=1, prompt_tokens=1, completion_tokens=1, checkpointing=False
    )
    assert memory.checkpoints == 2 * 2 * (48 + 24 + 12 + 64) * 2
    assert memory.layer_activations == 0


def test_caches_end_at_a_layers_window() -> None:
    # Keys and values of width 4 in 2 bytes: one layer keeps 10 tokens, the other the last 4.
    assert TINY.cache_bytes(10) == 2 * 4 * 2 * (10 + 4)


def test_serving_memory_by_hand() -> None:
    gpu_bytes = 4 * 2**30
    memory = serving_memory(TINY, gpu_bytes=gpu_bytes, gpus=2, share=0.9, context_tokens=10)
    assert memory.weights == 1000
    assert memory.sequence == 2 * 4 * 2 * 14 // 2
    assert memory.cache == int(gpu_bytes * 0.9) - 1000 - 3 * 2**30
    assert memory.sequences == memory.cache // 112
    small = serving_memory(TINY, gpu_bytes=2**30, gpus=1, share=0.9, context_tokens=10)
    assert (small.cache, small.sequences) == (0, 0)


def test_speeds_by_hand() -> None:
    gpu = GPUS["H100-80GB"]
    speed = decoding_speed(
        TINY, gpu, 2, sequences_max=7, prompt_tokens=6, context_tokens=10, shared_prompts=3
    )
    bandwidth, arithmetic = 2 * 3.35e12 * 0.6, 2 * 989e12 * 0.4
    assert speed.base_s == pytest.approx(2000 / bandwidth + 0.004)
    assert speed.per_sequence_s == pytest.approx(224 / bandwidth + 2000 / arithmetic)
    assert speed.prefill_s == pytest.approx(2000 * 6 / arithmetic / 3)
    assert speed.sequences_max == 7
    # 8 operations per parameter and token for the update, 2 for old log-probabilities.
    assert update_time_s(TINY, gpu, 4, 100) == pytest.approx(10 * 1000 * 100 / (989e12 * 4 * 0.4))

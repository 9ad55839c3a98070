"""What of swapping engines can be told without vLLM; tests/engine has the rest."""

from __future__ import annotations

import base64
import importlib.util
import json
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch
import typer
from checkpoints import CONFIG, random_tensors, write_checkpoint, write_pair
from typer.testing import CliRunner

from cupel_trainer.engine import ServerEngine, WeightSwapper
from cupel_trainer.engine.served import model_differences, served_checkpoint
from cupel_trainer.engine.swap_command import swap_server
from cupel_trainer.errors import CheckpointError, EngineError
from cupel_trainer.merge.stream import Lerp

app = typer.Typer()
app.command()(swap_server)


def shapes_of(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def test_the_checkpoint_that_an_engine_serves_takes_the_same_tensors(tmp_path: Path) -> None:
    tensors = random_tensors(1)
    folder = write_checkpoint(tmp_path / "served", tensors, shards=3)
    served = served_checkpoint(str(folder))
    assert model_differences(served, shapes_of(tensors), CONFIG) == []


def test_every_difference_from_the_served_model_is_listed(tmp_path: Path) -> None:
    tensors = random_tensors(1)
    served = served_checkpoint(str(write_checkpoint(tmp_path / "served", tensors)))
    shapes = shapes_of(tensors)
    del shapes["model.layers.0.norm.weight"]
    shapes["model.layers.9.norm.weight"] = (24,)
    shapes["model.layers.1.norm.weight"] = (25,)
    assert model_differences(served, shapes, CONFIG | {"hidden_size": 9, "new": 1}) == [
        "tensor model.layers.0.norm.weight is missing",
        "tensor model.layers.9.norm.weight is not in the engine's model",
        "tensor model.layers.1.norm.weight: shape [25], the engine has [24]",
        "config.json: hidden_size is 9, the engine has 8",
        "config.json: new is 1, the engine has None",
    ]


def test_a_tied_output_embedding_may_be_stored_or_not_an_untied_one_must_be(
    tmp_path: Path,
) -> None:
    tensors = random_tensors(1)
    shapes = shapes_of(tensors)
    del shapes["lm_head.weight"]
    tied = CONFIG | {"tie_word_embeddings": True}
    served = served_checkpoint(str(write_checkpoint(tmp_path / "tied", tensors, config=tied)))
    assert model_differences(served, shapes, tied) == []
    served = served_checkpoint(str(write_checkpoint(tmp_path / "untied", tensors)))
    assert model_differences(served, shapes, CONFIG) == ["tensor lm_head.weight is missing"]


def test_an_engine_whose_checkpoint_cannot_be_seen_is_not_swapped(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="neither a folder nor in the hub's cache"):
        served_checkpoint("no-one/has-this-model")
    with pytest.raises(EngineError, match="neither a folder nor in the hub's cache"):
        served_checkpoint(str(tmp_path / "nowhere"))
    with pytest.raises(CheckpointError, match="no model.safetensors"):
        served_checkpoint(str(tmp_path))


class Recorder(BaseHTTPRequestHandler):
    """Answers as vLLM does; without its development mode, nothing of what a swap needs."""

    def answer(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(length)) if length else None
        self.server.seen.append((self.path, body, self.headers.get("Authorization")))
        path = self.path.partition("?")[0]
        documents = {
            "/weight_info": {"weight_version": "abc"},
            "/collective_rpc": {"results": [{"refused": []}]},
            "/reset_prefix_cache": {"success": self.server.cache_resets},
            "/pause": {},
            "/resume": {},
            "/update_weights": {"error": "worker said no"},
        }
        found = path in documents and self.server.development
        broken = path == "/update_weights"
        content = json.dumps(documents.get(path, {})).encode()
        self.send_response(500 if broken and found else 200 if found else 404)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = answer  # noqa: N815  # the names that http.server looks for

    def log_message(self, *_: object) -> None: ...


class Server(HTTPServer):
    """Keeps what it was asked."""

    development = True
    cache_resets = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Recorder)
        self.seen: list[tuple[str, object, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_server_is_paused_until_its_requests_ended_and_its_cache_is_empty(
    server: Server,
) -> None:
    with ServerEngine(server.url + "/v1", api_key="k") as engine:
        engine.pause()
        engine.resume()
        assert engine.weight_version() == "abc"
        assert engine.call_workers("check_swap", tensors=[]) == [{"refused": []}]
    assert [path for path, _, _ in server.seen] == [
        "/pause?mode=wait",
        "/reset_prefix_cache?reset_external=true",
        "/resume",
        "/weight_info",
        "/collective_rpc",
    ]
    assert server.seen[-1][1] == {"method": "check_swap", "kwargs": {"tensors": []}}
    assert {key for _, _, key in server.seen} == {"Bearer k"}


def test_a_server_that_keeps_old_results_goes_on_and_is_not_swapped(server: Server) -> None:
    server.cache_resets = False
    with (
        ServerEngine(server.url) as engine,
        pytest.raises(EngineError, match="cannot reset its prefix cache"),
    ):
        engine.pause()
    assert server.seen[-1][0] == "/resume"


def test_a_server_that_says_no_is_quoted(server: Server) -> None:
    with (
        ServerEngine(server.url) as engine,
        pytest.raises(EngineError, match="update_weights: 500: .*worker said no"),
    ):
        engine.update_weights({})


def test_handles_of_gpu_memory_travel_as_vllm_expects_them(server: Server) -> None:
    handles = [{"GPU-1": (b"\x00raw", 3)}]
    with ServerEngine(server.url) as engine, pytest.raises(EngineError):
        engine.update_weights({"names": ["a"], "ipc_handles": handles})
    ((_, document, _),) = server.seen
    assert document["update_info"].keys() == {"names", "ipc_handles_pickled"}
    raw = base64.b64decode(document["update_info"]["ipc_handles_pickled"])
    assert pickle.loads(raw) == handles  # noqa: S301  # written here


def test_a_server_without_its_development_mode_says_how_to_start_it(server: Server) -> None:
    server.development = False
    with (
        ServerEngine(server.url) as engine,
        pytest.raises(EngineError, match="VLLM_SERVER_DEV_MODE=1"),
    ):
        engine.pause()


def test_a_server_that_is_not_there_is_reported() -> None:
    with (
        ServerEngine("http://127.0.0.1:9", timeout_s=5) as engine,
        pytest.raises(EngineError, match="no answer from the server"),
    ):
        engine.weight_version()


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_a_swap_says_what_is_missing(tmp_path: Path, server: Server) -> None:
    low, high = write_pair(tmp_path)
    with (
        ServerEngine(server.url) as engine,
        pytest.raises(EngineError, match="vLLM cannot be imported here"),
    ):
        WeightSwapper(engine, Lerp(low, high))
    result = CliRunner().invoke(app, [low, high, "--alpha=-0.3", "--url", server.url])
    assert result.exit_code == 2
    assert "vLLM cannot be imported here" in result.output


def test_ends_that_do_not_fit_are_refused_before_the_server_is_asked(
    tmp_path: Path, server: Server
) -> None:
    low, _ = write_pair(tmp_path)
    other = write_checkpoint(tmp_path / "other", random_tensors(1, hidden=32))
    result = CliRunner().invoke(app, [low, str(other), "--alpha", "0.5", "--url", server.url])
    assert result.exit_code == 2
    assert "do not fit together" in result.output
    assert server.seen == []


def test_the_commands_help_needs_no_heavy_library() -> None:
    code = (
        "import sys, cupel_trainer.engine.swap_command; print({'torch', 'vllm'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

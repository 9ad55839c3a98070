"""`cupel merge swap`: brings a running vLLM server to another alpha."""

from __future__ import annotations

from typing import Annotated

import typer

from cupel_trainer.command_errors import errors_reported


def swap_server(
    low: Annotated[str, typer.Argument(metavar="LOW", help="The checkpoint at alpha 0.")],
    high: Annotated[str, typer.Argument(metavar="HIGH", help="The checkpoint at alpha 1.")],
    alpha: Annotated[
        float, typer.Option(help="0 is LOW, 1 is HIGH; others between and beyond: --alpha=-0.3")
    ],
    url: Annotated[str, typer.Option(help="Where the server listens.")] = "http://127.0.0.1:8000",
    api_key: Annotated[
        str | None,
        typer.Option(envvar="VLLM_API_KEY", help="What it was given as --api-key.", metavar="KEY"),
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=1, help="Seconds for one call, and for the requests in flight.")
    ] = 600.0,
) -> None:
    """Brings a running vLLM server to the weights at ALPHA, without a file and without a restart.

    Requests in flight end with the old weights; those that come meanwhile wait for the new ones.
    The server's weight version becomes the SHA-256 that names the same merge on disk. It must run
    on this machine, started so:

    VLLM_SERVER_DEV_MODE=1 python -m vllm.entrypoints.openai.api_server --model LOW
    --worker-extension-cls cupel_trainer.engine.swap_worker.SwapWorker
    --weight-transfer-config '{"backend": "cupel_shared_memory"}'
    """
    with errors_reported():
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

        from cupel_trainer.engine.control import ServerEngine
        from cupel_trainer.engine.swap import WeightSwapper
        from cupel_trainer.merge.stream import Lerp

        stream = Lerp(low, high)
        for warning in stream.warnings:
            typer.echo(f"cupel: warning: {warning}", err=True)
        columns = ("swapping", BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with (
            ServerEngine(url, api_key=api_key, timeout_s=timeout) as server,
            Progress(*columns, console=Console(stderr=True)) as bar,
            WeightSwapper(
                server, stream, on_bytes=lambda count: bar.advance(task, count)
            ) as swapper,
        ):
            task = bar.add_task("swapping", total=swapper.size_bytes)
            done = swapper.swap(alpha)
    typer.echo(
        f"alpha {done.alpha:g}: {done.tensors} tensors, {done.size_bytes / 1e6:.1f} MB "
        f"in {done.wall_s:.3f} s"
    )
    typer.echo(f"weight version {done.weight_version} (before: {done.previous_version})")

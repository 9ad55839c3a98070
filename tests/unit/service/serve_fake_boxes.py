"""A program: `cupel serve` with fake boxes, settings from the environment."""

from __future__ import annotations

import asyncio
import logging

from fake_boxes import FakePool

from cupel_service.serve import listening_socket, run_service
from cupel_service.settings import Settings

if __name__ == "__main__":
    logging.basicConfig(level="INFO")
    settings = Settings()
    with listening_socket(settings) as listener:
        asyncio.run(run_service(settings, listener, FakePool(1)))

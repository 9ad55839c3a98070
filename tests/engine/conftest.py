"""The trial that most tests share."""

from __future__ import annotations

import pytest
from stage import TIED, Trial, make_trial


@pytest.fixture(scope="session")
def tied_trial(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    """A model with tied embeddings: the one whose swap goes wrong most easily."""
    return make_trial(tmp_path_factory.mktemp(str(TIED)), TIED)

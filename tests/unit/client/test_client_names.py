from __future__ import annotations

import subprocess
import sys

import pytest

import cupel


def test_every_public_name_is_there_and_documented() -> None:
    assert sorted(cupel.__all__) == cupel.__all__
    for name in cupel.__all__:
        assert getattr(cupel, name).__doc__, name
    assert set(cupel.__all__) <= set(dir(cupel))


def test_the_package_has_no_other_public_names() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Cleint'"):
        _ = cupel.Cleint


def test_every_error_is_public_and_a_cupel_error() -> None:
    from cupel import errors

    assert set(errors.__all__) <= set(cupel.__all__)
    assert all(issubclass(getattr(errors, name), cupel.CupelError) for name in errors.__all__)


def test_import_cupel_loads_no_library() -> None:
    code = (
        "import sys, cupel; heavy = {'httpx', 'pydantic', 'rich', 'typer', 'asyncio'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules);"
        "import cupel.schema; assert 'httpx' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

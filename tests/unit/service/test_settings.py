from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from cupel.schema import Language
from cupel_service.api_keys import read_api_keys
from cupel_service.errors import CannotServe
from cupel_service.settings import Settings, explain, is_loopback

SECRET = "a-key-that-must-not-be-shown"  # noqa: S105 (not one of anything)


def test_every_setting_has_a_default_and_one_line_of_help() -> None:
    for name, field in Settings.model_fields.items():
        assert not field.is_required(), name
        assert field.description, name
        assert "\n" not in field.description, name


def test_settings_come_from_cupel_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUPEL_PORT", "9001")
    monkeypatch.setenv("CUPEL_SLOTS", "3")
    monkeypatch.setenv("CUPEL_ALLOW_DEGRADED", "cgroup, seccomp")
    monkeypatch.setenv("CUPEL_TIME_FACTORS", "python=3,cpp=1.5")
    settings = Settings()
    assert (settings.port, settings.slots) == (9001, 3)
    assert settings.allow_degraded == {"cgroup", "seccomp"}
    assert settings.time_factors == {Language.PYTHON: 3.0, Language.CPP: 1.5}


def test_given_values_win_over_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUPEL_PORT", "9001")
    assert Settings.model_validate({"port": 9002}).port == 9002


def test_data_lives_in_the_xdg_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert Settings().data_dir == tmp_path / "cupel"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])  # noqa: S104 (refused)
def test_listening_beyond_loopback_without_a_key_is_refused(host: str) -> None:
    with pytest.raises(ValidationError, match="CUPEL_API_KEYS"):
        Settings(host=host)
    assert Settings(host=host, api_keys=frozenset({SECRET})).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1", "[::1]"])
def test_loopback_needs_no_key(host: str) -> None:
    assert is_loopback(host)
    assert Settings(host=host).host == host


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "65536"),
        ("SLOTS", "0"),
        ("QUEUE_CAPACITY", "many"),
        ("STOP_GRACE_S", "-1"),
        ("TIME_FACTORS", "python"),
        ("TIME_FACTORS", "cobol=2"),
        ("MEMORY_FACTORS", "python=0"),
        ("BOX", "cardboard"),
        ("QUEUE", "http://127.0.0.1:6379"),
        ("QUEUE_PREFIX", "two words"),
        ("LEASE_S", "0"),
        ("LOG_LEVEL", "loud"),
    ],
)
def test_a_bad_value_is_named_by_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"CUPEL_{name}", value)
    with pytest.raises(ValidationError) as caught:
        Settings()
    assert explain(caught.value).startswith(f"CUPEL_{name}: ")


def test_errors_and_representations_show_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUPEL_API_KEYS", SECRET)
    assert SECRET not in repr(Settings())
    monkeypatch.setenv("CUPEL_PORT", "none")
    with pytest.raises(ValidationError) as caught:
        Settings()
    assert SECRET not in explain(caught.value) + str(caught.value)


@pytest.mark.parametrize("name", ["cluster.md", "sessions.md"])
def test_the_guides_name_settings_that_exist(name: str) -> None:
    guide = Path(__file__).parents[3] / "docs" / name
    named = set(re.findall(r"CUPEL_([A-Z_]+[A-Z])", guide.read_text()))
    assert named <= {name.upper() for name in Settings.model_fields}


def test_the_guide_to_sessions_names_their_defaults() -> None:
    guide = (Path(__file__).parents[3] / "docs" / "sessions.md").read_text()
    units = {"MiB": 2**20, "GiB": 2**30, "": 1}
    rows = re.findall(r"^\| `CUPEL_([A-Z_]+)` \| (\d+) ?(MiB|GiB|) \|", guide, re.MULTILINE)
    assert len(rows) == 7
    for name, number, unit in rows:
        assert Settings.model_fields[name.lower()].default == int(number) * units[unit], name


def test_a_file_of_keys_is_a_key(tmp_path: Path) -> None:
    assert Settings(host="192.0.2.1", api_keys_file=tmp_path / "keys").host == "192.0.2.1"


def test_keys_come_from_settings_and_file_alike(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(" first \n\nsecond\n")
    both = Settings(api_keys=frozenset({SecretStr("third")}), api_keys_file=file)
    assert read_api_keys(both) == ("first", "second", "third")
    assert read_api_keys(Settings()) == ()


@pytest.mark.parametrize("content", [None, b"", b"\n \n", b"\xff\xfe" + SECRET.encode()])
def test_a_file_without_a_key_is_refused_with_a_remedy(
    tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(CannotServe) as caught:
        read_api_keys(Settings(api_keys_file=file))
    assert str(file) in caught.value.reason
    assert caught.value.remedy
    assert SECRET not in str(caught.value)


def test_a_runtime_of_docker_without_docker_boxes_is_refused() -> None:
    with pytest.raises(ValidationError, match="CUPEL_BOX=docker"):
        Settings(docker_runtime="runsc")
    assert Settings(docker_runtime="runsc", box="docker").docker_runtime == "runsc"


def test_a_shared_store_without_a_queue_is_refused() -> None:
    with pytest.raises(ValidationError, match="CUPEL_QUEUE"):
        Settings(store="s3://bucket/problems")
    assert Settings(store="s3://bucket/problems", queue="redis://127.0.0.1").store


def test_representations_show_no_password_of_the_queue() -> None:
    settings = Settings(queue=f"redis://:{SECRET}@127.0.0.1:6379/0")
    assert SECRET not in repr(settings)


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate({"prot": 1})

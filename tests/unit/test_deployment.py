"""What the compose file, its settings and the images' sources promise, read as text."""

import re
from pathlib import Path

import pytest
import yaml

from cupel.schema import Language
from cupel_sandbox.toolchains import Toolchain
from cupel_service.languages import setup_languages
from cupel_service.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
COMPOSE_TEXT = (ROOT / "docker-compose.yml").read_text("utf-8")
COMPOSE = yaml.safe_load(COMPOSE_TEXT)
IMAGES = ROOT / "sandbox" / "images"

SUBSTITUTED = dict(re.findall(r"\$\{([A-Z_]+):-([^}]*)\}", COMPOSE_TEXT))
PASSED_ON = {
    name
    for service in COMPOSE["services"].values()
    for name, value in service.get("environment", {}).items()
    if value is None
}
EXPLAINED = dict(
    re.findall(r"^#([A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text("utf-8"), re.MULTILINE)
)


def test_the_example_of_env_lists_exactly_what_the_compose_file_uses():
    assert set(EXPLAINED) == set(SUBSTITUTED) | PASSED_ON


def test_every_substitution_has_a_default():
    assert len(re.findall(r"\$\{", COMPOSE_TEXT)) == len(
        re.findall(r"\$\{[A-Z_]+:-[^}]+\}", COMPOSE_TEXT)
    )


@pytest.mark.parametrize("name", sorted(SUBSTITUTED))
def test_the_example_of_env_shows_the_default_of_the_compose_file(name):
    assert EXPLAINED[name] == SUBSTITUTED[name]


@pytest.mark.parametrize("name", sorted(PASSED_ON))
def test_the_example_of_env_shows_the_default_of_the_service(name):
    default = Settings.model_fields[name.removeprefix("CUPEL_").lower()].get_default(
        call_default_factory=True
    )
    by_docker = {"CUPEL_DOCKER_RUNTIME": "runc"}  # None: what Docker's own default is
    shown = by_docker.get(name, str(default) if default else "")
    assert EXPLAINED[name] == shown


@pytest.mark.parametrize("name", sorted(COMPOSE["services"]))
def test_no_service_can_raise_its_rights_or_change_its_root(name):
    service = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service


def test_only_workers_reach_docker():
    reaching = {
        name
        for name, service in COMPOSE["services"].items()
        if any("docker.sock" in volume for volume in service.get("volumes", []))
    }
    assert reaching == {"worker"}


def test_only_the_api_can_be_reached_from_outside_and_by_default_from_this_machine_alone():
    published = {
        name: service["ports"]
        for name, service in COMPOSE["services"].items()
        if "ports" in service
    }
    assert set(published) == {"api"}
    assert SUBSTITUTED["CUPEL_ADDRESS"].startswith("127.0.0.1:")
    assert COMPOSE["networks"]["queue"] == {"internal": True}
    assert COMPOSE["services"]["redis"]["networks"] == ["queue"]


def test_workers_can_be_scaled():
    assert not {"container_name", "hostname", "ports"} & set(COMPOSE["services"]["worker"])


def test_every_language_of_the_list_is_installed_once():
    lines = (IMAGES / "packages.txt").read_text("utf-8").splitlines()
    listed = dict.fromkeys(line.split()[0] for line in lines if not line.startswith("#"))
    dockerfile = (IMAGES / "Dockerfile").read_text("utf-8")
    assert re.findall(r"/install (\w+)$", dockerfile, re.MULTILINE) == list(listed)
    assert f'cupel.languages="{" ".join(listed)}"' in dockerfile


def test_the_precompiled_header_is_made_with_the_flags_of_the_judge():
    toolchain = Toolchain("cpp", "/usr/bin/g++")
    compile_argv = setup_languages([toolchain], {}, {}, {})[Language.CPP].compile_argv
    assert compile_argv is not None
    flags = compile_argv[1 : compile_argv.index("-o")]
    assert f"g++ {' '.join(flags)} -x c++-header" in (IMAGES / "install").read_text("utf-8")


def test_the_table_of_settings_is_that_of_env():
    text = (ROOT / "docs" / "deploy.md").read_text("utf-8")
    table = re.findall(r"^\| `(CUPEL_[A-Z_]+)` \| (?:`([^`]*)`)? *\|", text, re.MULTILINE)
    assert dict(table) == EXPLAINED

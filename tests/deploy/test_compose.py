"""compose.yaml and the Dockerfile: as the tools read them, and each service run as its container would be."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from stack import PASSWORD, ROOT, Stack, compose

OURS = ("prepare", "web", "scheduler", "worker", "runner", "kat")
DOCUMENT = compose("0.1.0")
SERVICES: dict[str, dict[str, Any]] = DOCUMENT["services"]


def test_compose_is_valid_by_its_schema(tmp_path: Path) -> None:
    program = shutil.which("docker-compose")
    if program is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("docker-compose is not installed")
    # Debian's docker-compose is older than the key `name`, which newer ones need so that the folder does not matter.
    text = re.sub(r"^name: .*\n", "", (ROOT / "compose.yaml").read_text(), flags=re.MULTILINE)
    (tmp_path / "compose.yaml").write_text(text)
    command = [program, "--project-directory", str(ROOT), "-f", str(tmp_path / "compose.yaml"), "config"]
    environment = {"PATH": os.environ["PATH"], "KAT_RELEASE": "0.1.0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert set(yaml.safe_load(done.stdout)["services"]) == set(SERVICES)
    done = subprocess.run(command, env={**environment, "KAT_RELEASE": ""}, capture_output=True, text=True)
    assert done.returncode != 0
    assert "Name the release in the file .env" in done.stderr


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_a_service_has_no_more_than_it_needs(service: str) -> None:
    found = SERVICES[service]
    assert found["read_only"] is True
    assert found["cap_drop"] == ["ALL"]
    assert found["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "devices", "network_mode", "pid", "ipc"} & set(found)
    assert not [volume for volume in found.get("volumes", []) if "docker.sock" in volume]
    assert service in ("prepare", "kat") or {"test", "interval"} <= set(found["healthcheck"])
    assert service != "database" or found["user"] == "postgres"


@pytest.mark.parametrize("service", OURS)
def test_the_tag_of_the_image_is_the_release(service: str) -> None:
    assert SERVICES[service]["image"] == "kattegat:0.1.0"
    assert SERVICES[service]["build"]["args"] == {"KAT_RELEASE": "0.1.0"}


def test_the_runner_meets_neither_database_nor_evidence_nor_keys() -> None:
    runner = SERVICES["runner"]
    assert runner["networks"] == ["outside"]
    assert [name for name, found in SERVICES.items() if "outside" in found["networks"]] == ["runner"]
    assert SERVICES["database"]["networks"] == ["inside"]
    assert DOCUMENT["networks"]["inside"] == {"internal": True}
    assert {volume.split(":")[0] for volume in runner["volumes"]} == {"door", "token", "spool"}
    assert "secrets" not in runner
    assert not [name for name in runner["environment"] if "DATABASE" in name or "PASSWORD" in name]


def test_only_the_web_process_is_published_and_only_to_this_machine() -> None:
    assert {name: found["ports"] for name, found in SERVICES.items() if "ports" in found} == {
        "web": ["127.0.0.1:8480:8480"]
    }


def test_no_secret_stands_in_the_configuration() -> None:
    for found in SERVICES.values():
        for name, value in found.get("environment", {}).items():
            assert "PASSWORD" not in name or name.endswith("_FILE")
            assert not re.search(r"://[^/@]*:[^/@]*@", str(value))


def test_the_image_is_built_from_what_the_builder_is_sent() -> None:
    text = (ROOT / "Dockerfile").read_text()
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [line.split()[1:-1] for line in text.splitlines() if line.startswith("COPY ") and "--from" not in line]
    for name in (name for names in copied for name in names):
        assert (ROOT / name).exists()
        assert any(name == entry or name.startswith(f"{entry}/") for entry in sent), f"{name} is not sent"
    assert re.search(r"^ARG PYTHON_IMAGE=docker.io/library/python:3\.\d+-slim-\w+$", text, re.MULTILINE)
    assert text.count("\nUSER kattegat\n") == 1
    assert 'ENTRYPOINT ["/usr/local/bin/kat"]' in text
    assert "COPY deploy/container/kat /usr/local/bin/kat" in text
    # A volume that is empty takes over its owner from these.
    folders = {volume.split(":")[1] for name in OURS for volume in SERVICES[name].get("volumes", [])}
    assert folders <= set(re.findall(r"/(?:var/lib|run)/[\w-]+", text))


def test_every_service_runs_as_its_container_would(stack: Stack) -> None:
    document = json.loads(stack.run("web", "status", "--json"))
    assert document["release"] == stack.release == version("kattegat")
    alive = {(entry["role"], entry["host"]) for entry in document["processes"] if entry["alive"]}
    assert alive == {("web", "web"), ("scheduler", "scheduler"), ("worker", "worker")}
    stack.wait("runner", "service_healthy")
    runners = json.loads(stack.run("kat", "status", "--json"))["runners"]
    assert [(entry["name"], entry["alive"]) for entry in runners] == [("local", True)]


@pytest.mark.parametrize("service", ["database", "web", "scheduler", "worker", "runner"])
def test_the_health_check_finds_a_living_process(stack: Stack, service: str) -> None:
    stack.wait(service, "service_healthy")


@pytest.mark.parametrize("service", ["prepare", "web", "scheduler", "worker", "runner"])
def test_nothing_but_volumes_can_be_written_to(stack: Stack, service: str) -> None:
    said = stack.run(
        service, "/bin/sh", "-c", "touch /x /usr/x /opt/kattegat/x /etc/x 2>&1; id -u; touch /tmp/x", code=0
    )
    assert said.count("Read-only file system") == 4
    assert said.splitlines()[-1] == "10001"


def test_the_password_reaches_the_server_and_no_process_list(stack: Stack) -> None:
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert PASSWORD.encode() not in entry.read_bytes()
        except OSError:
            continue
    for service in ("prepare", "web", "scheduler", "worker", "runner"):
        assert PASSWORD not in stack.log(service)


def test_preparing_again_keeps_the_token_that_works(stack: Stack) -> None:
    token = stack.run("runner", "/bin/cat", "/run/kattegat-token/token")
    stack.run("prepare", *SERVICES["prepare"]["command"])
    assert stack.run("runner", "/bin/cat", "/run/kattegat-token/token") == token
    stack.run("kat", "process", "prepare", "--token-file", "/tmp/new/other", "--runner", "other", "--group")
    assert stack.healthy("runner") == 0


def test_the_login_is_no_superuser(stack: Stack) -> None:
    said = stack.run(
        "kat",
        "/opt/kattegat/bin/python",
        "-c",
        "import os, psycopg\n"
        "c = psycopg.connect(os.environ['KAT_DATABASE_URL'], password=open(os.environ['PGPASSWORD_FILE']).read())\n"
        "print(c.execute('SELECT rolsuper, rolcreaterole, rolcreatedb FROM pg_roles WHERE rolname = current_user')"
        ".fetchone())",
    )
    assert said.strip() == "(False, False, True)"


def test_a_scan_from_the_web_container_is_performed_by_the_runner(stack: Stack) -> None:
    site = stack.command(
        "runner", "/opt/kattegat/bin/python", "-m", "http.server", "8099", "--bind", "127.0.0.1", "--directory", "/tmp"
    )
    try:
        target = ("http://127.0.0.1:8099/", "--allow", "127.0.0.0/8")
        document = json.loads(stack.run("web", "scan", *target, "--json", code=1))
        assert "http://127.0.0.1:8099" in {finding["asset"]["key"] for finding in document["findings"]}
    finally:
        stack.end(site)
    stack.run("web", "evidence", "verify")


def test_the_wrong_password_is_one_sentence(stack: Stack) -> None:
    process = stack.command("kat", "/usr/bin/env", "PGPASSWORD=wrong", "/opt/bin/kat", "status", stderr=subprocess.PIPE)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 3
    assert said.startswith("kat: KAT_DATABASE_URL leads to no server that answers")
    assert len(said.splitlines()) == 1


@pytest.fixture
def certificate(stack: Stack) -> tuple[Path, Path]:
    """A certificate for the name in the examples, and its key."""
    cert, key = stack.folder / "cert.pem", stack.folder / "key.pem"
    subject = ["-subj", "/CN=kattegat.example.org", "-addext", "subjectAltName=DNS:kattegat.example.org"]
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    subprocess.run([*made, *subject, "-keyout", key, "-out", cert], check=True, capture_output=True)
    cert.chmod(0o644)
    return cert, key


def nginx_command(folder: Path, cert: Path, key: Path) -> list[str]:
    example = (ROOT / "deploy/proxy/nginx.conf").read_text()
    example = example.replace("/etc/ssl/kattegat/cert.pem", str(cert)).replace("/etc/ssl/kattegat/key.pem", str(key))
    (folder / "kattegat.conf").write_text(example)
    paths = "".join(
        f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    main = (
        f"daemon off; pid {folder}/pid; events {{}} http {{ {paths} access_log off; include {folder}/kattegat.conf; }}"
    )
    (folder / "nginx.conf").write_text(f"user root;\n{main}\n")
    return ["nginx", "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log"), "-p", str(folder)]


def caddy_command(folder: Path, cert: Path, key: Path) -> list[str]:
    example = (ROOT / "deploy/proxy/Caddyfile").read_text()
    # As the example says for a name that the internet can't see.
    site = "kattegat.example.org {\n"
    assert site in example
    (folder / "Caddyfile").write_text("{\n\tadmin off\n}\n" + example.replace(site, f"{site}\ttls {cert} {key}\n"))
    return ["caddy", "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]


@pytest.mark.parametrize("proxy", ["nginx", "caddy"])
def test_a_server_in_front_carries_pages_and_the_door_over_tls(
    stack: Stack, tmp_path: Path, certificate: tuple[Path, Path], proxy: str
) -> None:
    if shutil.which(proxy) is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"{proxy} is not installed")
    cert, key = certificate
    command = (nginx_command if proxy == "nginx" else caddy_command)(tmp_path, cert, key)
    if proxy == "nginx":
        tried = subprocess.run([*command, "-t"], capture_output=True, text=True)
        assert tried.returncode == 0, tried.stderr
    # In the network of the web process, where the ports are those of the example.
    enter = ["nsenter", f"--net=/run/netns/{stack.namespace('web')}"]
    environment = {**os.environ, "XDG_DATA_HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen([*enter, *command], env=environment, stdout=log, stderr=log)
    try:
        address = ["--resolve", "kattegat.example.org:443:127.0.0.1", "--resolve", "kattegat.example.org:80:127.0.0.1"]
        curl = [*enter, "curl", "--silent", "--show-error", "--cacert", str(cert), *address, "--retry", "20"]
        curl += ["--retry-connrefused", "--retry-delay", "1"]
        done = subprocess.run(
            [*curl, "--include", "https://kattegat.example.org/health"], capture_output=True, text=True, check=True
        )
        assert '"status":"ok"' in done.stdout
        assert "strict-transport-security: max-age=31536000" in done.stdout.lower()
        done = subprocess.run([*curl, "--head", "http://kattegat.example.org/"], capture_output=True, text=True)
        assert "location: https://kattegat.example.org/" in done.stdout.lower()
        # A runner on another machine: through the server in front, with its certificate alone.
        place = stack.folder / "volumes" / "data"
        shutil.copy(cert, place / "cert.pem")
        stack.run("prepare", "process", "prepare", "--token-file", "/var/lib/kattegat/far", "--runner", "far")
        door = ("--door", "https://kattegat.example.org", "--token-file", "/var/lib/kattegat/far")
        stack.run("web", "process", "health", "runner", *door, "--ca-file", "/var/lib/kattegat/cert.pem")
    finally:
        server.terminate()
        assert server.wait(30) == 0, (tmp_path / "log").read_text()


def test_a_database_of_another_release_stops_the_preparation_with_one_sentence(stack: Stack) -> None:
    change = (
        "import os, psycopg\n"
        "c = psycopg.connect(os.environ['KAT_DATABASE_URL'], password=open(os.environ['PGPASSWORD_FILE']).read())\n"
        "c.execute('SET ROLE kat_owner')\n"
        "c.execute(\"UPDATE alembic_version SET version_num = '{}'\")\n"
        "c.commit()"
    )
    before = json.loads(stack.run("kat", "status", "--json"))["revision"]
    stack.run("kat", "/opt/kattegat/bin/python", "-c", change.format("9999"))
    try:
        process = stack.command("prepare", *SERVICES["prepare"]["command"], stderr=subprocess.PIPE)
        _, said = process.communicate(timeout=120)
    finally:
        stack.run("kat", "/opt/kattegat/bin/python", "-c", change.format(before))
    assert process.returncode == 4
    assert len(said.splitlines()) == 1
    assert "9999" in said


@pytest.mark.parametrize("service", ["runner", "scheduler", "worker", "web", "database"])
def test_each_stops_cleanly_when_its_engine_says_so(stack: Stack, service: str) -> None:
    assert stack.stop(service) == 0, stack.log(service)

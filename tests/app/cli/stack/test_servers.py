"""The embedded servers: data survives, ports and folders are respected, nothing is left behind."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import psycopg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from app.cli.embedded import EmbeddedServers, StackError
from app.cli.stack.errors import AlreadyRunning, PortTaken
from app.cli.stack.state import STATE_FILE, StackState, exclusive, load_state, save_state
from app.storage import make_store


def _postgres(servers: EmbeddedServers) -> psycopg.Connection:
    address = servers.settings().database_url.replace("+psycopg", "", 1)
    return psycopg.connect(address, autocommit=True)


def _redis(servers: EmbeddedServers) -> "redis.Redis":
    return redis.Redis.from_url(servers.settings().redis_url, decode_responses=True)


def test_what_was_written_is_there_after_a_restart(stack_dir: Path) -> None:
    servers = EmbeddedServers(stack_dir)
    with servers:
        with _postgres(servers) as connection:
            connection.execute("CREATE TABLE kept (word text)")
            connection.execute("INSERT INTO kept VALUES ('row')")
        with _redis(servers) as client:
            client.set("kept", "message")
        make_store(servers.settings()).put_bytes("kept/object", b"bytes", "text/plain")
        first_environment = servers.environment()
        processes = [record.process() for record in servers.state.processes.values()]
    assert len(processes) == 3
    assert not any(process is not None and process.is_running() for process in processes)

    with EmbeddedServers(stack_dir) as again:
        assert again.environment() == first_environment
        with _postgres(again) as connection:
            assert connection.execute("SELECT word FROM kept").fetchall() == [("row",)]
        with _redis(again) as client:
            assert client.get("kept") == "message"
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert make_store(again.settings()).get_bytes("kept/object") == b"bytes"


def test_one_server_can_be_stopped_and_started_while_the_others_run(stack_dir: Path) -> None:
    with EmbeddedServers(stack_dir) as servers:
        assert servers.redis is not None
        servers.redis.stop()
        with pytest.raises(redis.ConnectionError), _redis(servers) as client:
            client.ping()
        with _postgres(servers) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        servers.redis.start()
        servers.redis.wait_ready()
        with _redis(servers) as client:
            assert client.ping()


def test_servers_are_closed_to_whoever_lacks_their_passwords(stack_dir: Path) -> None:
    with EmbeddedServers(stack_dir) as servers:
        settings = servers.settings()
        password = servers.state.secrets.postgres_password
        address = settings.database_url.replace("+psycopg", "", 1).replace(password, "guess")
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(address)
        stranger = redis.Redis(port=servers.state.ports["redis"], retry=Retry(NoBackoff(), 0))
        with stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()


def test_stack_json_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    save_state(tmp_path, StackState(api_key="lw_live_secret"))
    save_state(tmp_path, StackState(api_key="lw_live_other"))
    path = tmp_path / STATE_FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text())["api_key"] == "lw_live_other"


def test_each_folder_has_secrets_of_its_own() -> None:
    assert StackState().secrets != StackState().secrets


def test_a_damaged_stack_json_is_named_and_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / STATE_FILE).write_text("{")
    with pytest.raises(StackError, match=str(tmp_path / STATE_FILE)), EmbeddedServers(tmp_path):
        pass
    assert (tmp_path / STATE_FILE).read_text() == "{"


@pytest.mark.parametrize("server", ["postgres", "redis", "s3"])
def test_a_taken_port_names_the_port_the_server_and_the_option(
    stack_dir: Path, server: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        servers = EmbeddedServers(stack_dir, ports={server: port})
        with pytest.raises(PortTaken, match=rf"{server} .*port {port} .*--{server}-port"), servers:
            pass
    assert servers.children == []


def test_a_second_supervisor_is_refused_the_folder(tmp_path: Path) -> None:
    save_state(tmp_path, StackState(pid=4711, url="http://localhost:8000"))
    with (
        exclusive(tmp_path),
        pytest.raises(AlreadyRunning, match="http://localhost:8000 \\(process 4711\\)"),
        exclusive(tmp_path),
    ):
        pass
    with exclusive(tmp_path):
        pass


def test_servers_that_the_environment_names_are_used_instead(stack_dir: Path) -> None:
    with EmbeddedServers(stack_dir / "one") as one:
        provided = one.environment()
        with EmbeddedServers(stack_dir / "two", provided=provided) as two:
            assert two.children == []
            assert two.settings().database_url == one.settings().database_url


def test_a_named_server_that_does_not_answer_is_said_so(stack_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    provided = {"LORAWRIGHT_REDIS_URL": f"redis://127.0.0.1:{port}/0"}
    with (
        pytest.raises(StackError, match="LORAWRIGHT_REDIS_URL is set, but"),
        EmbeddedServers(stack_dir, provided=provided),
    ):
        pass


SUPERVISOR = """
import sys, time
from pathlib import Path
from app.cli.embedded import EmbeddedServers
with EmbeddedServers(Path(sys.argv[1])):
    print("up", flush=True)
    time.sleep(600)
"""


def test_the_next_start_works_after_a_supervisor_was_killed(stack_dir: Path) -> None:
    command = [sys.executable, "-c", SUPERVISOR, str(stack_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        assert supervisor.stdout.readline() == "up\n"
        state = load_state(stack_dir)
        supervisor.send_signal(signal.SIGKILL)
    assert state is not None
    orphans = [process for record in state.processes.values() if (process := record.process())]
    if sys.platform == "linux":
        _, alive = psutil.wait_procs(orphans, timeout=10)
        assert alive == []
    with EmbeddedServers(stack_dir) as servers, _postgres(servers) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to lend Postgres another user")
def test_root_runs_postgres_as_an_unprivileged_user(stack_dir: Path) -> None:
    with EmbeddedServers(stack_dir) as servers:
        assert servers.postgres is not None
        assert psutil.Process(servers.postgres.pid).uids().effective != 0

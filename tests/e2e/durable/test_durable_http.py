"""HTTP triggers, starting and stopping."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import redis

from devhost.testing import REPOSITORY, HostProcess
from tests.e2e.durable.client import Programs, wait_until
from tests.e2e.durable.conftest import PROGRAMS, NewHost
from tests.redis_process import free_port

APP = "import azure.functions as func\napp = func.FunctionApp()\n"


def test_stream_is_closed_when_its_client_leaves(programs: Programs) -> None:
    with programs.http.stream("GET", "stream") as answer:
        lines = answer.iter_lines()
        assert [next(lines), next(lines)] == ["0", "1"]
        assert not programs.journal("stream")
    wait_until(lambda: programs.journal("stream"), "the generator is closed")


def test_exception_in_a_handler(programs: Programs) -> None:
    answer = programs.http.get("broken")
    assert (answer.status_code, answer.text) == (500, "Internal Server Error")


@pytest.mark.parametrize(
    ("method", "route"), [("GET", "nowhere"), ("DELETE", "stream"), ("HEAD", "stream"), ("GET", "stream/")]
)
def test_unknown_route_or_method(programs: Programs, method: str, route: str) -> None:
    assert programs.http.request(method, route).status_code == 404


def test_literal_segment_wins_over_a_parameter(programs: Programs) -> None:
    assert programs.http.get("stream/word").json() == "word"


def test_the_console_is_left_to_the_app(new_host: NewHost, journal_dir: Path) -> None:
    with new_host() as host:
        programs = Programs(host.base_url, journal_dir)
        assert programs.http.get("stream/word").json() == "word"
        programs.open_gate("gate")
        assert programs.run("chain", {"gate": "gate"})["runtimeStatus"] == "Completed"
        host.stop()
    _, _, served = host.log.partition("Ready")
    assert [line for line in served.splitlines() if line and " INFO devhost." not in line] == [
        "Stopping; what is in progress goes on at the next start."
    ]
    assert "uvicorn" not in host.log.lower()


def test_failure_is_logged_once(new_host: NewHost, journal_dir: Path) -> None:
    with new_host() as host:
        assert Programs(host.base_url, journal_dir).http.get("broken").status_code == 500
        host.stop()
    assert host.log.count("ERROR uvicorn.error: Exception in ASGI application") == 1
    assert host.log.count("the broken function failed: RuntimeError: the handler is broken") == 1


def test_stops_promptly_with_open_streams_and_runs_and_goes_on_later(new_host: NewHost, journal_dir: Path) -> None:
    with new_host() as host:
        programs = Programs(host.base_url, journal_dir)
        run = programs.start("chain", {"gate": "gate"})
        programs.wait_at_gate("gate")
        with programs.http.stream("GET", "stream") as answer:
            lines = answer.iter_lines()
            next(lines)
            assert host.stop(timeout=5) == 0
            assert programs.journal("stream") == ["closed"]
            assert "Traceback" not in host.log
        host.start()
        programs.open_gate("gate")
        assert programs.wait(run)["runtimeStatus"] == "Completed"


def test_port_in_use(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, output = _run(PROGRAMS, tmp_path, port)
    assert status == 1
    assert output.splitlines()[-1].startswith(f"cannot listen on 127.0.0.1:{port}: Address already in use")
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("x = 1", "cannot load function_app.py: ValueError: "),
        (
            f"{APP}@app.queue_trigger(arg_name='message', queue_name='q', connection='c')\ndef take(message): ...",
            "cannot serve the take function: this host does not implement the trigger queueTrigger; it implements ",
        ),
        (
            f"{APP}@app.timer_trigger(arg_name='timer', schedule='* * * * *')\ndef tick(timer): ...",
            "cannot serve the tick function: its schedule '* * * * *' does not have 6 fields",
        ),
        (f"{APP}@app.route()\ndef get(request): ...", "cannot load the get function: "),
        (
            f"{APP}@app.route()\ndef get(req: 'Missing') -> str: ...",
            "cannot load function_app.py: NameError: name 'Missing' is not defined (the worker resolves annotations",
        ),
    ],
)
def test_app_that_cannot_be_loaded(tmp_path: Path, source: str, message: str) -> None:
    (tmp_path / "host.json").write_text("{}")
    (tmp_path / "function_app.py").write_text(source)
    status, output = _run(tmp_path, tmp_path / "state")
    assert status == 1
    assert output.splitlines()[-1].startswith(message)
    # Said once, without the worker library's own account of it.
    assert output.count("Traceback") <= 1
    assert "sys.path" not in output.lower().replace("sys path", "sys.path")


def test_settings_error_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "host.json").write_text("{}")
    (tmp_path / "function_app.py").write_text("class SettingsError(ValueError): ...\nraise SettingsError('wrong')")
    assert _run(tmp_path, tmp_path / "state") == (1, "cannot load function_app.py: SettingsError: wrong\n")


def test_directory_without_host_json(tmp_path: Path) -> None:
    status, output = _run(tmp_path, tmp_path / "state")
    assert status == 1
    assert "host.json not found" in output


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda state: state.write_text(""), "cannot keep state in {}: File exists; choose another --state-dir"),
        (lambda state: (state / "durable.sqlite").mkdir(parents=True), "cannot use the durable state in {}/durable"),
        (lambda state: _write(state / "durable.sqlite", "x" * 9999), "cannot use the durable state in {}/durable"),
    ],
    ids=["file", "directory", "no database"],
)
def test_state_that_cannot_be_used(tmp_path: Path, prepare: Callable[[Path], object], message: str) -> None:
    state = tmp_path / "state"
    prepare(state)
    status, output = _run(PROGRAMS, state)
    assert status == 1
    assert output.splitlines()[-1].startswith(message.format(state))
    assert "Traceback" not in output


def test_state_directory_in_which_nothing_can_be_written(tmp_path: Path) -> None:
    status, output = _run(PROGRAMS, Path("/proc"))
    assert status == 1
    assert output.splitlines()[-1].startswith("cannot keep state in /proc: ")
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("valkey", "cannot keep state in {state}/valkey: File exists"),
        ("valkey/appendonlydir/appendonly.aof.manifest", "the embedded Valkey on {address} did not start: "),
    ],
)
def test_embedded_valkey_whose_data_cannot_be_used(tmp_path: Path, path: str, message: str) -> None:
    state = tmp_path / "state"
    _write(state / path, "not a manifest")
    address = f"127.0.0.1:{free_port()}"
    status, output = _run(PROGRAMS, state, redis_url=f"redis://{address}")
    assert status == 1
    assert output.splitlines()[-1].startswith(message.format(state=state, address=address))
    assert "Traceback" not in output


def test_embedded_valkey_keeps_its_data(tmp_path: Path) -> None:
    url = f"redis://127.0.0.1:{free_port()}/0"
    env = {"JOURNAL_DIR": str(tmp_path), "REDIS_CONNECTION_STRING": url}
    host = HostProcess(tmp_path / "state", app_dir=PROGRAMS, port=free_port(), env=env)
    with host, redis.Redis.from_url(url, decode_responses=True) as client:
        assert "embedded Valkey" in host.log
        client.set("key", "kept")
        host.stop()
        with pytest.raises(redis.ConnectionError):
            client.ping()
        host.start()
        assert client.get("key") == "kept"
        client.set("key", "kept over a kill")
        host.restart()
        assert "already listening" in host.log
        assert client.get("key") == "kept over a kill"
        client.shutdown(nosave=True)


def test_local_settings_reach_the_app_and_the_environment_wins(tmp_path: Path) -> None:
    (tmp_path / "host.json").write_text('{"extensions": {"http": {"routePrefix": ""}}}')
    (tmp_path / "local.settings.json").write_text('{"Values": {"FROM_FILE": "file", "FROM_BOTH": "file"}}')
    (tmp_path / "function_app.py").write_text(
        "import os\nimport azure.functions as func\napp = func.FunctionApp()\n"
        "@app.route('values')\ndef values(req: func.HttpRequest) -> str:\n"
        "    return os.environ['FROM_FILE'] + ' ' + os.environ['FROM_BOTH']"
    )
    with HostProcess(tmp_path / "state", app_dir=tmp_path, env={"FROM_BOTH": "environment"}) as host:
        assert httpx.get(f"{host.base_url}/values").text == "file environment"
        assert "Function keys are not checked" in host.log


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(text)


def _run(app_dir: Path, state_dir: Path, port: int = 0, redis_url: str = "") -> tuple[int, str]:
    """A host that is expected to end by itself: its exit status and its output."""
    ended = subprocess.run(
        [sys.executable, "-m", "devhost", "--port", str(port), "--state-dir", str(state_dir)],
        cwd=app_dir,
        env={
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "JOURNAL_DIR": str(state_dir),
            "REDIS_CONNECTION_STRING": redis_url,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return ended.returncode, ended.stdout + ended.stderr

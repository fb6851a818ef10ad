"""Ray's runner: its errors against a Ray of our own, and once against the real one, a worker of which is killed."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

from offline import by_ray
from offline.__main__ import Options
from offline.by_ray import RayRunner, _use_token
from offline.errors import BackboneError, EncodingError, OfflineError, WorkerError
from offline.ray_config import RayConfig
from offline.runners import LocalRunner, make_runner
from tests.live import free_port
from tests.scale import ray as scale_ray
from tests.scale.ray import alone

ROOT = Path(__file__).parents[2]


class RayError(Exception):
    pass


class RayTaskError(RayError):
    def __init__(self, cause):
        self.cause = cause


class WorkerCrashedError(RayError):
    pass


class FakeRay:
    """Does each task when it is asked for, the last handed over first; ``dies`` is raised in place of every result."""

    def __init__(self, dies=None, init_fails=None):
        self.exceptions = SimpleNamespace(
            RayError=RayError,
            RayTaskError=RayTaskError,
            WorkerCrashedError=WorkerCrashedError,
            NodeDiedError=type("NodeDiedError", (Exception,), {}),
            OutOfMemoryError=type("OutOfMemoryError", (Exception,), {}),
        )
        self.dies, self.init_fails = dies, init_fails
        self.options, self.started, self.most, self.waiting = {}, None, 0, 0

    def is_initialized(self):
        return False

    def init(self, **options):
        if self.init_fails is not None:
            raise self.init_fails
        self.started = options

    def nodes(self):
        return [{"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0}}, {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}]

    def shutdown(self):
        self.started = "ended"

    def remote(self, **options):
        self.options = options
        return lambda function: SimpleNamespace(remote=lambda *arguments: self._hand_over(function, arguments))

    def _hand_over(self, function, arguments):
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        return (function, arguments)

    def wait(self, under_way, num_returns):
        return [under_way[-1]], under_way[:-1]

    def get(self, reference):
        self.waiting -= 1
        if self.dies is not None:
            raise self.dies
        function, arguments = reference
        try:
            return function(*arguments)
        except Exception as error:
            raise RayTaskError(error) from error


@pytest.fixture
def use(monkeypatch):
    def replace(ray):
        monkeypatch.setattr(by_ray, "_import_ray", lambda: ray)
        monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # whoever runs this may have a token
        return ray

    return replace


def square(number):
    return number * number


def test_every_task_comes_back_once_and_no_more_are_handed_over_than_workers_need(use):
    ray = use(FakeRay())
    config = RayConfig(workers=3, cpus=1.5, gpus=0.5, retries=2)
    found = dict(RayRunner(config).run(square, iter(range(20))))
    assert found == dict(LocalRunner().run(square, range(20)))
    assert ray.most == 3
    assert ray.options == {"num_cpus": 1.5, "num_gpus": 0.5, "max_retries": 2, "retry_exceptions": False}
    assert ray.started == "ended"


@pytest.mark.parametrize("wanted", [{"gpus": 2.0}, {"cpus": 8.0}])
def test_what_no_node_has_room_for_is_said_and_not_waited_for(wanted, use, capsys):
    use(FakeRay())
    with pytest.raises(WorkerError, match=r"no node has what a shard takes, .*; there: 4 cores, 1 GPUs; ask for less"):
        dict(RayRunner(RayConfig(**wanted)).run(square, range(3)))
    assert dict(RayRunner(RayConfig(address="auto", **wanted)).run(square, range(3))), "a cluster may get another node"
    assert "warning: no node has what a shard takes" in capsys.readouterr().err


@pytest.fixture
def listening():
    """HOST:PORT where somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("form", [None, "auto", "{}", "ray://{}"])
def test_a_cluster_of_this_machine_unless_one_is_named(form, listening, use):
    ray = use(FakeRay())
    address = form and form.format(listening)
    expected = {"num_cpus": 4} if address is None else {"address": address}
    results = RayRunner(RayConfig(workers=2, cpus=1.5, address=address)).run(square, range(3))
    next(results)
    assert expected.items() <= ray.started.items()
    assert ("num_cpus" in ray.started) == (address is None)


def fails(error):
    def raise_it(_task):
        raise error

    return raise_it


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (EncodingError("row 3"), EncodingError, "row 3"),
        (
            BackboneError("/models/tower: no tower"),
            BackboneError,
            "worker .*: /models/tower: no tower.* under the same path",
        ),
        (ModuleNotFoundError("no", name="torch"), WorkerError, r"torch is not installed; .*pip install '\.\[offline,ray\]'"),
        (ValueError("bad\nworse"), WorkerError, "a worker failed: ValueError: worse; every node needs this software"),
    ],
)
def test_what_goes_wrong_on_a_worker_is_told_in_a_line(error, kind, said, use):
    use(FakeRay())
    with pytest.raises(kind, match=said):
        list(RayRunner(RayConfig()).run(fails(error), range(3)))


def test_a_task_that_kills_its_workers_ends_the_run(use):
    ray = use(FakeRay(dies=WorkerCrashedError("it died")))
    with pytest.raises(WorkerError, match=r"4 workers died of one shard .*it died.*finished shards stay"):
        list(RayRunner(RayConfig()).run(square, range(3)))
    assert ray.started == "ended"


def test_a_cluster_that_ends_in_the_middle_is_told_in_a_line(use):
    use(FakeRay(dies=RayError("the local raylet died")))
    with pytest.raises(WorkerError, match=r"the cluster is gone .*raylet died.*run the same command again"):
        list(RayRunner(RayConfig()).run(square, range(3)))


def test_a_cluster_that_does_not_answer_is_named(listening, use):
    use(FakeRay(init_fails=ConnectionError("nobody")))
    with pytest.raises(WorkerError, match=rf"ray\.address: {listening}: no cluster answers .*nobody"):
        list(RayRunner(RayConfig(address=listening)).run(square, range(3)))


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied", "/home/.ray"), ValueError("AF_UNIX path too long")])
def test_a_cluster_of_this_machine_that_cannot_be_started_is_a_line(error, use):
    use(FakeRay(init_fails=error))
    with pytest.raises(WorkerError, match=r"cannot start a cluster of this machine .*(denied|long).*HOME, TMPDIR"):
        list(RayRunner(RayConfig()).run(square, range(3)))


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}", "[::1]:{}", "127.0.0.1:port", "head..node:{}"])
def test_an_address_where_nobody_listens_is_refused_before_ray_waits_for_it(form, use):
    ray = use(FakeRay())
    address = form.format(free_port())
    with pytest.raises(WorkerError, match=rf"ray\.address: {re.escape(address)}: no cluster answers .*ray start --head"):
        list(RayRunner(RayConfig(address=address)).run(square, range(3)))
    assert ray.started is None


@pytest.mark.parametrize(
    ("environment", "has_file", "mode"),
    [
        ({}, True, "token"),
        ({}, False, None),
        ({"RAY_AUTH_TOKEN": "secret"}, False, "token"),
        ({"RAY_AUTH_TOKEN_PATH": "/run/token"}, False, "token"),
        ({"RAY_AUTH_MODE": "disabled"}, True, "disabled"),
    ],
)
def test_a_cluster_that_is_named_is_told_the_token_that_there_is(tmp_path, environment, has_file, mode):
    if has_file:
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text("secret")
    _use_token(environment, tmp_path)
    assert environment.get("RAY_AUTH_MODE") == mode


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(OfflineError, match=r"Ray is not installed .*pip install '\.\[offline,ray\]'"):
        make_runner("ray", RayConfig())


def test_the_command_says_so_before_any_stage_runs(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('name = "toy"\n')
    options = Options(recipe, None, None, tmp_path / "work", tmp_path / "registry", (), "ray")
    with pytest.raises(OfflineError, match="Ray is not installed"):
        options.walk()
    assert not (tmp_path / "work").exists()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install '.[ray]'")
def test_a_worker_that_is_killed_costs_one_task_and_changes_nothing(tmp_path):
    """In a network of its own: Ray's workers listen elsewhere than on loopback, too."""
    run = [sys.executable, "-m", "tests.scale.ray", "--light", str(tmp_path)]
    done = subprocess.run([*alone(), *run], check=False, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stdout.splitlines() if line.startswith("GOAL")]
    assert told == ["GOAL ray_results_equal_to_local 1 >=1 ok", "GOAL ray_tasks_repeated_after_kill 1 <=1 ok"]


@pytest.mark.parametrize(("rows", "victim"), [(2_000, 7), (701, 7), (700, 6), (500, 4), (101, 1)])
def test_the_worker_that_is_killed_has_a_shard_that_there_is(rows, victim):
    assert scale_ray.victim_of(rows) == victim


@pytest.mark.parametrize("rows", ["100", "0", "-5", "x"])
def test_too_few_documents_to_kill_a_worker_of_two_are_refused(rows, capsys):
    with pytest.raises(SystemExit) as ended:
        scale_ray.main(["--rows", rows])
    assert ended.value.code == 2
    assert "--rows" in capsys.readouterr().err

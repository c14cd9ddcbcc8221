"""Scripts as users write them: functions of `__main__`, globals that cannot travel, a missing guard."""

from __future__ import annotations

import json
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Script, command, liteflow, run_python, wait_until

Make = Callable[..., Script]

GLOBALS = """
import dataclasses, enum, logging, threading
from liteflow import Dag, task

lock = threading.Lock()
log = logging.getLogger(__name__)
table = list(range(200_000))

class Colour(enum.Enum):
    RED = 1

@dataclasses.dataclass
class Row:
    size: int
    colour: Colour = Colour.RED

class Plain:
    def __init__(self, row):
        self.row = row

def helper(rows):
    with lock:
        return sum(row.size for row in rows)

@task
def make(n: int) -> list[Row]:
    log.info("making %d", n)
    return [Row(table[i]) for i in range(n)]

@task
def count(rows):
    assert all(type(row) is Row and row.colour is Colour.RED for row in rows)
    return Plain(Row(helper(rows)))

with Dag("globals", db_path="globals.db") as dag:
    rows = make(4)
    count(rows)
    task(lambda rows: helper(rows) + table[1], task_id="with_lambda")(rows)

if __name__ == "__main__":
    run = dag.run(progress=False)
    plain = run.xcom("count")
    assert type(plain) is Plain and plain.row == Row(6), plain
    assert run.xcom("make") == [Row(0), Row(1), Row(2), Row(3)]
    assert run.xcom("with_lambda") == 7
    print(run.state, run.logs("make")[0].message)
"""


def test_functions_of_a_script_may_use_its_globals(script: Make) -> None:
    done = script(GLOBALS).run()
    assert (done.returncode, done.stdout, done.stderr) == (0, "success making 4\n", "")


def test_another_process_reads_the_values_of_a_script(script: Make, tmp_path: Path) -> None:
    made = script(GLOBALS)
    assert made.run().returncode == 0
    reader = (
        "from liteflow import Dag\n"
        "run = Dag.load('globals', 'globals.db').latest_run()\n"
        "print(run.xcom('make')[3], run.xcom('count').row.size)\n"
    )
    done = run_python("-c", reader, cwd=tmp_path)
    assert (done.stderr, done.stdout) == ("", "Row(size=3, colour=<Colour.RED: 1>) 6\n")
    made.path.unlink()
    gone = run_python("-c", reader, cwd=tmp_path)
    assert "XComDecodeError" in gone.stderr
    assert str(made.path) in gone.stderr


def test_the_same_script_through_the_command_line(script: Make, tmp_path: Path) -> None:
    made = script(GLOBALS)
    done = liteflow("run", str(made.path), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("globals/manual__")
    assert done.stdout.endswith(" success\n")


def test_code_from_standard_input_goes_by_value(tmp_path: Path) -> None:
    text = """
from liteflow import Dag, task
def helper(x): return x + 1
@task
def one(): return helper(1)
with Dag("stdin", db_path="stdin.db") as dag:
    one()
print(dag.run(progress=False).xcom("one"))
"""
    done = run_python("-c", text, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr


def test_a_module_run_with_dash_m(tmp_path: Path) -> None:
    package = tmp_path / "flows"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "helper.py").write_text("def value():\n    return 5\n")
    (package / "nightly.py").write_text(
        "from liteflow import Dag, task\nfrom flows.helper import value\n"
        "@task\ndef get():\n    return value()\n"
        "with Dag('nightly', db_path='n.db') as dag:\n    get()\n"
        "if __name__ == '__main__':\n    print(dag.run(progress=False).xcom('get'))\n"
    )
    done = run_python("-m", "flows.nightly", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "5\n"), done.stderr


NO_GUARD = """
from liteflow import Dag, task

@task
def one():
    return 1

with Dag("unguarded", db_path="u.db") as dag:
    one()

dag.run()
"""


def test_a_missing_main_guard_is_explained(script: Make, tmp_path: Path) -> None:
    made = script(NO_GUARD)
    done = made.run(timeout=30)
    assert done.returncode == 2
    assert f"{made.path}:11" in done.stderr
    assert '    if __name__ == "__main__":\n        dag.run()' in done.stderr
    assert "Traceback" not in done.stderr
    states = [row[0] for row in sqlite3.connect(tmp_path / "u.db").execute("SELECT state FROM liteflow_dag_run")]
    assert states == ["failed"], "no run is left running"


def test_a_missing_main_guard_under_the_command_line(script: Make, tmp_path: Path) -> None:
    made = script(NO_GUARD)
    done = liteflow("run", str(made.path), cwd=tmp_path)
    assert done.returncode == 2
    assert f"{made.path}:11" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "u.db").exists()


def test_a_service_started_without_a_guard(script: Make) -> None:
    text = NO_GUARD.replace(
        "dag.run()",
        "from liteflow import ExecutorService\nwith ExecutorService('u.db') as s:\n    s.submit(dag).wait()",
    )
    done = script(text).run(timeout=30)
    assert done.returncode == 2, done.stderr
    assert "ExecutorService.start()" in done.stderr


BAD_IMPORT = """
import os
from liteflow import Dag, task

if os.environ.get("LITEFLOW_SLOT"):
    import no_such_module_at_all

@task
def one():
    return 1

@task
def two():
    return 2

with Dag("bad_import", db_path="b.db") as dag:
    one() >> two.override(trigger_rule="all_done")()

if __name__ == "__main__":
    run = dag.run()
    print(run.state)
"""


def test_a_module_that_fails_to_import_in_the_worker(script: Make, tmp_path: Path) -> None:
    done = script(BAD_IMPORT).run()
    assert done.stdout == "failed\n"
    assert "cannot load" in done.stderr
    assert "ModuleNotFoundError: No module named 'no_such_module_at_all'" in done.stderr
    log = command("logs", "bad_import", "--db", "b.db", cwd=tmp_path).stdout
    assert "line 6" in log, "the traceback is in the log"


CHANGED = """
from liteflow import Dag, task

@task
def one():
    return "{version}"

with Dag("changed", db_path="c.db") as dag:
    one()

if __name__ == "__main__":
    from pathlib import Path
    path = Path(__file__)
    path.write_text(path.read_text().replace("first", "second"))
    run = dag.run(progress=False)
    print(run.state, run.task_instance("one").error)
"""


def test_a_file_that_changed_after_it_was_loaded_is_an_error_and_not_another_function(script: Make) -> None:
    done = script(CHANGED.format(version="first")).run()
    assert done.stdout.startswith("failed cannot load"), done.stderr
    assert "has changed since" in done.stdout


WAITING = """
import sys, threading
from pathlib import Path
from liteflow import Dag, task

@task(kill_grace_s=10)
def wait():
    try:
        Path("begun").touch()
        threading.Event().wait(60)
    finally:
        Path("cleaned").touch()

@task
def after():
    pass

with Dag("waiting", db_path="w.db") as dag:
    wait() >> after()

if __name__ == "__main__":
    dag.run()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_the_command_line_and_leaves_the_run_to_be_resumed(
    script: Make, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    made = script(WAITING)
    runner = script(
        f"import sys\nsys.argv[1:] = ['run', {str(made.path)!r}]\nfrom liteflow.cli import main\nmain()\n", "cli.py"
    )
    process = runner.start()
    wait_until((tmp_path / "begun").exists, "the task runs")
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == code, err
    assert (tmp_path / "cleaned").exists(), "the task could clean up"
    assert f"Go on with it: liteflow run {made.path}:waiting --resume manual__" in err
    shown = json.loads(command("show", "waiting", "--db", "w.db", "--json", cwd=tmp_path).stdout)
    assert shown["interrupted"]
    assert [(one["state"], one["end_reason"]) for one in shown["task_instances"]] == [
        ("queued", "cancelled"),
        ("pending", None),
    ]
    made.path.write_text(WAITING.replace("threading.Event().wait(60)", "pass"))
    resumed = liteflow("run", str(made.path), "--resume", "latest", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr


def test_a_run_whose_process_was_killed_shows_as_interrupted(script: Make, tmp_path: Path) -> None:
    made = script(WAITING)
    process = made.start()
    wait_until((tmp_path / "begun").exists, "the task runs")
    assert "running" in command("runs", "--db", "w.db", cwd=tmp_path).stdout
    process.kill()
    process.communicate()
    assert "interrupted" in command("runs", "--db", "w.db", cwd=tmp_path).stdout
    deleted = command("delete", "waiting", "--yes", "--db", "w.db", cwd=tmp_path)
    assert deleted.returncode == 0, deleted.stderr


def test_a_run_of_the_same_id_in_another_process_is_waited_for(script: Make, tmp_path: Path) -> None:
    text = WAITING.replace(
        "threading.Event().wait(60)", "exec(\"while not Path('go').exists(): threading.Event().wait(0.01)\")"
    )
    text = text.replace("dag.run()", "run = dag.run(run_id='x', progress=False)\n    print(run.state, len(dag.runs()))")
    made = script(text)
    first = made.start()
    wait_until((tmp_path / "begun").exists, "the task runs")
    second = made.start()
    (tmp_path / "go").touch()
    for process in (first, second):
        out, err = process.communicate(timeout=60)
        assert (out, err) == ("success 1\n", "")


def test_the_host_process_is_left_as_it_was(script: Make) -> None:
    text = """
import logging, os, signal, sys, warnings, multiprocessing
from liteflow import Dag, task

@task
def one():
    return 1

with Dag("guest", db_path="g.db") as dag:
    one()

def snapshot():
    return (
        [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE)],
        list(logging.getLogger().handlers), logging.getLogger().level, list(warnings.filters),
        multiprocessing.get_start_method(allow_none=True), os.getcwd(), dict(os.environ),
        list(sys.path), sys.stdout, sys.stderr,
        "multiprocessing.resource_tracker" in sys.modules,
    )

if __name__ == "__main__":
    before = snapshot()
    run = dag.run()
    after = snapshot()
    assert before == after, [(a, b) for a, b in zip(before, after) if a != b]
    print(len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0)
    for _ in range(3):
        dag.run(progress=False)
    print(len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0)
"""
    done = script(text).run()
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.split()
    assert first == second, "no descriptor is left open by a run"


def test_children_that_a_task_spawns_find_the_functions_of_its_file(script: Make) -> None:
    done = script(
        "import multiprocessing\nfrom liteflow import Dag, task\n"
        "def square(x):\n    return x * x\n"
        "@task\ndef spawn():\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        return pool.map(square, range(4))\n"
        "with Dag('spawning', db_path='s.db') as dag:\n    spawn()\n"
        "if __name__ == '__main__':\n    run = dag.run(progress=False)\n    print(run.state, run.xcom('spawn'))\n"
    ).run(timeout=40)
    assert done.stdout == "success [0, 1, 4, 9]\n", done.stderr


def test_the_import_of_the_file_is_not_part_of_a_tasks_time(script: Make) -> None:
    done = script(
        "import os, threading\nfrom liteflow import Dag, task\n"
        "if os.environ.get('LITEFLOW_SLOT'):\n    threading.Event().wait(0.6)\n"
        "@task(timeout=0.5)\ndef quick():\n    return 1\n"
        "with Dag('slow_import', db_path='s.db') as dag:\n    quick()\n"
        "if __name__ == '__main__':\n    print(dag.run(progress=False).state)\n"
    ).run()
    assert done.stdout == "success\n", done.stderr


def test_a_host_with_many_open_files(script: Make) -> None:
    done = script(
        "import os, resource\nfrom liteflow import Dag, task\n"
        "@task\ndef one():\n    return 1\n"
        "with Dag('files', db_path='f.db') as dag:\n    one()\n"
        "if __name__ == '__main__':\n"
        "    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))\n"
        "    kept = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]\n"
        "    print(dag.run(progress=False).state)\n"
    ).run()
    assert done.stdout == "success\n", done.stderr


def test_too_many_workers_are_one_clear_error(script: Make) -> None:
    done = script(
        "import resource\nfrom liteflow import Dag, task\nfrom liteflow.errors import ServiceError\n"
        "@task\ndef one():\n    return 1\n"
        "with Dag('files', db_path='f.db') as dag:\n    [one() for _ in range(30)]\n"
        "if __name__ == '__main__':\n"
        "    resource.setrlimit(resource.RLIMIT_NOFILE, (60, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))\n"
        "    try:\n        dag.run(progress=False, max_workers=30)\n"
        "    except ServiceError as error:\n        print(error)\n"
    ).run()
    assert done.stdout.startswith("cannot start 30 workers: [Errno 24]"), done.stderr


def test_json_is_not_spoilt_by_what_the_file_prints(script: Make, tmp_path: Path) -> None:
    import json

    made = script("print('hello')\nfrom liteflow import Dag\nDag('noise')\n")
    done = liteflow("run", str(made.path), "--json", "-q", cwd=tmp_path)
    assert json.loads(done.stdout)["state"] == "success"


def test_ctrl_c_is_heard_after_a_signal_whose_handler_took_long(script: Make) -> None:
    made = script(
        "import os, signal, time\nfrom liteflow import Dag, task\n@task\ndef nap():\n    time.sleep(300)\n"
        "with Dag('naps', db_path='naps.db') as dag:\n    nap()\n"
        "def first(*_):\n"
        "    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))\n"
        "    signal.setitimer(signal.ITIMER_REAL, 1)\n"
        "    time.sleep(0.7)  # longer than the display waits at a time\n"
        "if __name__ == '__main__':\n"
        "    signal.signal(signal.SIGALRM, first)\n"
        "    signal.setitimer(signal.ITIMER_REAL, 2)\n"
        "    dag.run(progress=True)\n"
    )
    assert "is not finished. Go on with it" in made.run().stderr

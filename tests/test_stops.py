"""Signals, small limits and kills: a sentence, the right exit code, nothing lost, and the same latents when resumed."""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path

import pytest

from blockvid_cli.project.history import read_history
from tests.conftest import STORY

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "hung up"}
RUN = "from blockvid_cli.__main__ import main; main()"
HEARD = (
    "import signal; [signal.signal(s, signal.SIG_DFL) for s in (1, 2, 15)]"  # whoever runs the tests may ignore them
)
SENT_AT_AN_IMPORT = """
    import os, sys, {heard}
    from importlib.abc import MetaPathFinder

    class Sender(MetaPathFinder):
        def find_spec(self, name, path, target=None):
            if name == "{module}":
                sys.meta_path.remove(self)
                os.kill(os.getpid(), {number})

    import blockvid_cli.__main__
    sys.meta_path.insert(0, Sender())
    sys.argv = ["blockvid", "render", "{story}", "--model", "{model}"]
    blockvid_cli.__main__.main()
"""


@pytest.mark.parametrize(
    ("number", "module"),
    [
        (signal.SIGINT, "rich.console"),
        (signal.SIGTERM, "yaml"),
        (signal.SIGHUP, "numpy"),
        (signal.SIGINT, "torch"),
        (signal.SIGTERM, "torch.nn.functional"),
        (signal.SIGINT, "transformers"),
    ],
)
def test_a_signal_while_modules_are_loaded_ends_with_a_sentence(story, model, number, module):
    code = textwrap.dedent(SENT_AT_AN_IMPORT).replace("import os, sys, {heard}", "import os, sys; " + HEARD)
    code = code.replace("{module}", module).replace("{number}", str(int(number)))
    code = code.replace("{story}", str(story)).replace("{model}", str(model))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == CODES[number], done
    assert done.stderr.startswith(f"blockvid: {WORDS[number]}; ") and done.stderr.count("\n") == 1, done
    assert f"blockvid render {story}" in done.stderr and not story.with_suffix(".mp4").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_render_says_what_is_finished_and_is_in_the_history(story, model, blockvid, monkeypatch, number):
    from blockvid_cli.project.project import Project

    save, saved = Project.save_take, []

    def stopped(self, *arguments, **options):
        save(self, *arguments, **options)
        saved.append(arguments)
        if len(saved) == 4:
            os.kill(os.getpid(), number)

    before = signal.signal(number, signal.SIG_DFL)  # whoever runs the tests may ignore it
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Project, "save_take", stopped)
            done = blockvid("render", story, "--model", model, "--fresh")
        assert done.code == CODES[number] and signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, before)
    assert f"{WORDS[number]}; 2 of 3 chunks finished and kept. This goes on from there: blockvid render" in done.err
    assert "--fresh" not in done.err and done.err.count("\n") == 1
    (record,) = read_history(story.with_suffix(".blockvid")).renders.values()
    assert record.result == "interrupted"
    assert blockvid("render", story, "--model", model).code == 0
    assert [record.rendered for record in read_history(story.with_suffix(".blockvid")).renders.values()] == [2, 1]


def test_several_films_stop_together(story, model, blockvid, monkeypatch):
    def stopped(*_, **__):
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("blockvid_cli.commands.film.render_film", stopped)
    done = blockvid("render", story, "--model", model, "--seeds", "1,2", "--json")
    rows = json.loads(done.out)["films"]
    assert done.code == 143 and [row["result"] for row in rows] == ["terminated", "not begun"]


def test_a_signal_that_python_drops_is_sent_again(tmp_path):
    """What is raised in a finalizer is only printed; the command must end all the same."""
    code = f"""
    import os, time; {HEARD}
    import blockvid_cli.__main__ as program
    from blockvid_cli.commands import app

    class Finalized:
        def __del__(self):
            os.kill(os.getpid(), 15)
            time.sleep(0)

    def run():
        Finalized()
        for _ in range(1000):
            time.sleep(0.01)

    app.run = run
    program.main()
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=30)
    assert done.returncode == 143 and done.stderr.startswith("blockvid: terminated; "), done


def test_a_signal_that_the_caller_ignores_stays_ignored():
    code = f"import signal; signal.signal(1, signal.SIG_IGN); import os\nfrom blockvid_cli.commands import app\n{RUN}"
    code = code.replace("import app\n", "import app\napp.run = lambda: os.kill(os.getpid(), 1) or 0\n")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def limited(kind: int, limit: int):
    """Sets a limit of the process that is about to be started."""
    return lambda: resource.setrlimit(kind, (limit, limit))


@pytest.mark.parametrize("mebibytes", [300, 700, 1200])
def test_too_little_address_space_is_said_before_it_runs_out(story, mebibytes):
    command = [sys.executable, "-m", "blockvid_cli", "render", str(story)]
    limit = limited(resource.RLIMIT_AS, mebibytes * 2**20)
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit)
    assert done.returncode == 4 and done.stderr.count("\n") == 1, done
    assert f"{mebibytes} MiB are all the memory" in done.stderr and "1500 MiB are needed" in done.stderr


def test_a_container_with_too_little_memory_is_noticed(tmp_path, monkeypatch):
    from blockvid_cli import __main__ as program

    monkeypatch.setattr(program, "CGROUPS", tmp_path)
    assert program._container_memory() == sys.maxsize
    (tmp_path / "memory.max").write_text("max\n")
    assert program._container_memory() == sys.maxsize
    (tmp_path / "memory.max").write_text("104857600\n")
    with pytest.raises(program.OutOfMemoryError, match="100 MiB are all the memory that this container"):
        program._MemoryLimits().find_spec("torch", None, None)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
        RuntimeError("can't start new thread"),
        ImportError("libx.so: failed to map segment from shared object"),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_memory_that_runs_out_anywhere_is_exit_code_4(story, model, blockvid, monkeypatch, error):
    def fails(*_, **__):
        raise error

    for place in ("blockvid_cli.job.prepare", "blockvid_cli.session.load_vae", "blockvid_cli.render.mux_film"):
        with monkeypatch.context() as patch:
            patch.setattr(place, fails)
            done = blockvid("render", story, "--model", model)
        assert done.code == 4 and "memory" in done.err and "Traceback" not in done.err, (place, done)


@pytest.mark.parametrize("kibibytes", [1, 6, 12, 40])
def test_a_limit_on_file_sizes_is_a_full_disk(story, model, blockvid, kibibytes):
    command = [sys.executable, "-m", "blockvid_cli", "render", str(story), "--model", str(model), "--no-report"]
    limit = limited(resource.RLIMIT_FSIZE, kibibytes * 1024)
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit)
    assert done.returncode == 5 and "ulimit -f" in done.stderr and "Traceback" not in done.stderr, done
    assert blockvid(*command[3:]).code == 0


KILLER = """
    import json, os, random, shutil, signal, sys, time
    from pathlib import Path
    import blockvid_cli.__main__ as program
    import blockvid_cli.commands.app, blockvid_cli.preview, blockvid_cli.report.render_report
    import blockvid_cli.models.sentence_encoder, transformers, sentence_transformers

    def start(words, log):
        child = os.fork()
        if child == 0:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
            for stream in (sys.stdout, sys.stderr):
                os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream.fileno())
            sys.argv = ["blockvid", *words]
            code = 1
            try:
                program.main()
            except SystemExit as end:
                code = end.code
            finally:
                os._exit(code)
        return child

    def ended(child):
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    for trial in json.loads(Path(sys.argv[1]).read_text()):
        began = time.monotonic()
        child = start(trial["words"], trial["log"])
        time.sleep(trial["delay"])
        os.kill(child, trial["signal"])
        code, waited = ended(child), time.monotonic() - began - trial["delay"]
        finished = [ended(start(words, trial["log"] + ".again")) for words in trial["again"]]
        print(json.dumps({"code": code, "finished": finished, "waited": waited}), flush=True)
"""
WORDS_OF = {  # a command that is stopped: in a rendered project with a second take of chunk 2, or in none
    "render": (["render"], False),
    "edit": (["render", "--set", "chunks.2.seed=9"], True),
    "only": (["render", "--only", "2"], True),
    "from": (["render", "--from-chunk", "2"], True),
    "preview": (["preview", "--chunk", "2", "--takes", "2"], False),
    "choose": (["takes", "choose", "{story}", "2", "1"], True),
}


def latents_of(project: Path) -> dict[str, str]:
    """The hash of the latents of each whole take, by file."""
    from safetensors.torch import load_file

    files = sorted(project.glob("chunks/*/take-*.safetensors"))
    return {
        str(f.relative_to(project)): hashlib.sha256(load_file(f)["latents"].numpy().tobytes()).hexdigest()
        for f in files
    }


def command_line(kind: str, story: Path, model: Path) -> list[str]:
    words = WORDS_OF[kind][0]
    if words[0] == "takes":
        return [word.format(story=story) for word in words]
    return [words[0], str(story), "--model", str(model), *words[1:]]


@pytest.mark.parametrize("trials", [6, pytest.param(200, marks=pytest.mark.slow)])
def test_stopped_at_random_moments_every_command_goes_on_to_the_same_latents(tmp_path, model, blockvid, trials):
    """The killer forks from a process that has torch already and never computes, so that a trial takes a second."""
    trials = int(os.environ.get("BLOCKVID_STOPS", trials))
    rendered, wanted, plan = tmp_path / "rendered", {}, []
    rendered.mkdir()
    (rendered / "story.yaml").write_text(STORY)
    for more in ([], ["--only", "2"]):
        assert blockvid("render", rendered / "story.yaml", "--model", model, *more).code == 0

    def prepared(name: str, kind: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        shutil.copy(rendered / "story.yaml", folder)
        if WORDS_OF[kind][1]:
            shutil.copytree(rendered, folder, dirs_exist_ok=True, copy_function=shutil.copy2)
        return folder / "story.yaml"

    longest = {}
    for kind in WORDS_OF:
        story = prepared(f"whole-{kind}", kind)
        began = time.monotonic()
        for words in (command_line(kind, story, model), ["render", str(story), "--model", str(model)]):
            assert blockvid(*words).code == 0
            longest.setdefault(kind, time.monotonic() - began)
        wanted[kind] = latents_of(story.with_suffix(".blockvid"))
    generator = random.Random(int(os.environ.get("BLOCKVID_STOPS_SEED", 5)))
    numbers = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
    for trial in range(trials):
        kind, number = list(WORDS_OF)[trial % len(WORDS_OF)], generator.choice(numbers)
        story = prepared(f"trial-{trial}", kind)
        # the whole commands took longer than these will, whose modules are loaded; choosing does nothing else
        line, share = command_line(kind, story, model), 0.2 if kind == "choose" else 1
        delay = generator.uniform(0.02, share * longest[kind])  # before the program's first line nothing can be said
        again = [line, ["render", str(story), "--model", str(model)]]
        log = str(story.with_name("log.txt"))
        values = {"words": line, "again": again, "delay": delay, "signal": int(number), "log": log}
        plan.append((kind, number, story, values))
    (tmp_path / "plan.json").write_text(json.dumps([values for *_, values in plan]))
    command = [sys.executable, "-c", textwrap.dedent(KILLER), str(tmp_path / "plan.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20 + 20 * trials)
    assert done.returncode == 0, done.stderr
    counts = Counter()
    for (kind, number, story, values), line in zip(plan, done.stdout.splitlines(), strict=True):
        result, log = json.loads(line), story.with_name("log.txt")
        said, told = log.read_text() if log.exists() else "", (kind, number.name, round(values["delay"], 3), story)
        assert result["code"] in (0, CODES.get(number, -9)) and "Traceback" not in said, (told, result, said)
        if result["code"] > 0:
            assert WORDS[number] in said and "blockvid " in said, (told, said)
        assert result["finished"] == [0, 0] and result["waited"] < 15, (told, result)
        assert "Traceback" not in (story.parent / "log.txt.again").read_text(), told
        now = latents_of(story.with_suffix(".blockvid"))
        assert wanted[kind].items() <= now.items(), told
        # a film that was whole before the signal came gets one take more when a new take is asked for again
        assert len(now) == len(wanted[kind]) or kind in ("only", "from"), told
        assert not list(story.parent.rglob("*.part*")) and not list(story.parent.rglob("*.tmp")), told
        counts[f"{kind} {'finished before' if result['code'] == 0 else number.name}"] += 1
    print(dict(counts))
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert str(tmp_path) not in "".join(line for line in running.splitlines() if "ffmpeg" in line), "left running"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_processes_that_score_films_end_with_the_command(tmp_path, number):
    """The signal reaches only the command itself, as that of a service manager does."""
    code = f"""
    import os, sys, threading, time; {HEARD}
    import blockvid_cli.__main__ as program
    from blockvid_cli.commands import app
    from blockvid_cli.evaluation.films import worker_pool

    def run():
        with worker_pool(2, time.sleep, 0) as pool:
            waiting = [pool.submit(time.sleep, 0), *(pool.submit(time.sleep, 300) for _ in range(3))]
            waiting[0].result()
            os.kill(os.getpid(), {int(number)})
            waiting[1].result()

    app.run = run
    if __name__ == "__main__":
        program.main()
    """
    script = tmp_path / "stopped.py"
    script.write_text(textwrap.dedent(code))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert done.returncode == CODES[number] and "Traceback" not in done.stderr, done


def test_waiting_threads_sleep_unless_the_environment_says_otherwise(blockvid, monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY")
    assert blockvid("--version").code == 0 and os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert blockvid("--version").code == 0 and os.environ["OMP_WAIT_POLICY"] == "ACTIVE"

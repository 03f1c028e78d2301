"""Training by several processes: equal to one process, resumed by any number of them, after a kill as well."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from blockvid_cli.errors import UsageError
from blockvid_cli.training.distributed import World, join_world

SCRIPT = ["-m", "tests.distributed_run"]


def train(run: Path, steps: int, ranks: int, kill_at: int = -1) -> int:
    """Trains in ``ranks`` processes; returns the exit code."""
    run.mkdir(exist_ok=True)
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "--master-port", "0"]
    launcher += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    command = [sys.executable, *(launcher if ranks > 1 else []), *SCRIPT, str(run), str(steps), str(kill_at)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode and kill_at < 0:
        print(done.stderr[-3000:])
    return done.returncode


def losses(run: Path) -> list[dict[str, float]]:
    return json.loads((run / "losses.json").read_text())


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "weights.pt", weights_only=True)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Path, Path]:
    """Four steps by one process and by two."""
    folder = tmp_path_factory.mktemp("runs")
    for ranks in (1, 2):
        assert train(folder / str(ranks), 4, ranks) == 0
    return folder / "1", folder / "2"


def test_two_processes_give_the_losses_of_one_with_the_doubled_batch(runs):
    one, two = (losses(run) for run in runs)
    assert [row["step"] for row in one] == [row["step"] for row in two] == [1, 2, 3, 4]
    for first, second in zip(one, two, strict=True):
        for name in ("loss", "critic_loss", "held_out_flow"):
            assert first[name] == pytest.approx(second[name], abs=1e-5)
    assert one[0]["loss"] != one[3]["loss"]
    for name, value in weights(runs[0]).items():
        assert torch.allclose(value, weights(runs[1])[name], atol=1e-4), name


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_a_checkpoint_is_loaded_by_another_number_of_processes(runs, before, after, tmp_path):
    assert train(tmp_path / "run", 4, before, kill_at=3) != 0
    assert train(tmp_path / "run", 4, after) == 0
    expected = weights(runs[0])
    resumed = weights(tmp_path / "run")
    assert all(torch.allclose(expected[name], resumed[name], atol=1e-4) for name in expected)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_killed_run_goes_on_to_the_same_weights(runs, ranks, tmp_path):
    assert train(tmp_path / "run", 4, ranks, kill_at=3) != 0
    assert not (tmp_path / "run" / "weights.pt").exists()
    assert train(tmp_path / "run", 4, ranks) == 0
    expected, resumed = weights(runs[ranks - 1]), weights(tmp_path / "run")
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)


def test_torchruns_variables_must_be_complete(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert join_world("cpu") == World()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(UsageError, match="LOCAL_RANK, MASTER_ADDR, MASTER_PORT missing"):
        join_world("cpu")

"""The arithmetic of the benchmarks on made-up figures, and the peers on tiny data."""

import importlib
import json
import os
import signal
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks import data, exports, faults, table
from benchmarks.contenders import JOBS, Contender, Size
from benchmarks.measure import our_arguments, read_run
from benchmarks.peers import Options, cnn, mlp, vgg
from benchmarks.peers import main as main_of_peers
from benchmarks.processes import ROOT, RunError, last_json, run
from benchmarks.results import add_ratios, contender_summary, drifted, learns_less, whole_job
from benchmarks.rounds import Progress, Section, Task, medians, run_rounds, runs_of
from project.cli import main
from tests.conftest import CONFIGS

SPLITS = ("train", "test")
CSV_ALONE = ("--trainer.logger=CSVLogger", "--trainer.logger.name=", "--trainer.logger.version=")


def figures(epochs: Sequence[float], accuracy: float | None = 0.9, **more: Any) -> dict[str, Any]:
    own = {"epoch_seconds": list(epochs), "accuracy": accuracy, "images": 100}
    return own | {"preparation_seconds": 0.0, "wall_seconds": sum(epochs) + 7} | more


def test_whole_job() -> None:
    """The first epoch is left out of the median, but not out of the sum."""
    found = whole_job(figures([5, 2, 4, 3]), images=100, epochs=4, extent="epochs")
    assert found == {
        "epoch_seconds": [2, 4, 3],
        "training_seconds": 14,
        "process_seconds": 21,
        "extrapolated": False,
    }
    found = whole_job(figures([5, 2, 4]), images=100, epochs=10, extent="epochs")
    assert found["training_seconds"] == 5 + 2 + 4 + 7 * 3
    assert found["extrapolated"]


def test_steps_stand_for_epochs() -> None:
    """100 images took 3 s after a warm-up of 9 s: 10 epochs of 2,000 take 10 × 20 × 3 s."""
    run = figures([9, 3], wall_seconds=9 + 3 + 1 + 7, preparation_seconds=1.0)
    found = whole_job(run, images=2000, epochs=10, extent="steps")
    assert found["epoch_seconds"] == [60]
    assert found["training_seconds"] == 600 + 1
    assert found["process_seconds"] == 600 + 1 + 7


def test_phases_and_recipes() -> None:
    """The rest of the phases' job is extrapolated; a recipe has no more epochs than it has."""
    run = figures([2, 1, 1], preparation_seconds=30.0, wall_seconds=41)
    found = whole_job(run, images=100, epochs=10, extent="phases")
    assert (found["training_seconds"], found["process_seconds"]) == (30 + 4 + 7, 41 + 7)
    found = whole_job(run, images=100, epochs=10, extent="recipe")
    assert (found["training_seconds"], found["process_seconds"]) == (34, 41)
    assert not found["extrapolated"]


def test_summary_over_rounds() -> None:
    runs = [
        figures([9, 2, 3], accuracy=0.8),
        figures([9, 4], accuracy=0.1),  # fewer epochs: tells nothing of the accuracy
        {"error": "out of memory"},
        figures([9, 5, 6], accuracy=0.9),
    ]
    found = contender_summary(runs, images=100, epochs=3, extent="epochs")
    assert found["epoch_seconds"] == 4
    assert found["epoch_seconds_range"] == [2, 6]
    assert found["training_seconds"] == (14 + 20) / 2
    assert found["accuracy"] == pytest.approx(0.85)
    assert found["errors"] == ["out of memory"]
    assert contender_summary(runs[2:3], 100, 3, "epochs") == {"errors": ["out of memory"]}


def summaries(**accuracies: float | None) -> dict[str, dict[str, Any]]:
    found = {}
    for place, (name, accuracy) in enumerate(accuracies.items()):
        found[name] = contender_summary([figures([8 / 2**place], accuracy)], 100, 1, "epochs")
    return found


def test_ratios_and_gate() -> None:
    found = summaries(base=0.9, same=0.891, less=0.889, unknown=None) | {"broken": {"errors": []}}
    add_ratios(found, "base")
    assert found["base"]["ratios"]["epoch_seconds"] == 1
    assert found["same"]["ratios"]["epoch_seconds"] == 2
    assert found["same"]["ratios"]["process_seconds"] == 15 / 11
    assert found["less"]["learns_less"] and "ratios" not in found["less"]
    assert found["unknown"]["ratios"]["epoch_seconds"] == 8
    assert "ratios" not in found["broken"]


def test_the_gate_knows_chance() -> None:
    """0.02 below the base is a fault, unless the rounds of one differ by more than that."""

    def over_rounds(*accuracies: float) -> dict[str, Any]:
        runs = [figures([1.0], accuracy) for accuracy in accuracies]
        return contender_summary(runs, 100, 1, "epochs")

    base = over_rounds(0.901, 0.899, 0.9)
    assert learns_less(over_rounds(0.881, 0.879, 0.88), base)
    assert not learns_less(over_rounds(0.85, 0.91, 0.88), base)
    assert not learns_less(over_rounds(0.95), base)


def test_a_broken_base_gives_no_ratios() -> None:
    found = {"base": {"errors": ["no"]}} | summaries(other=0.9)
    add_ratios(found, "base")
    assert "ratios" not in found["other"]


@pytest.mark.parametrize(("after", "moved"), [(109.0, False), (111.0, True), (89.0, True)])
def test_drift(after: float, moved: bool) -> None:
    assert drifted({"copy": 5.0, "matmul": 100.0}, {"copy": 5.0, "matmul": after}) == moved


def test_rounds_are_interleaved_and_survive_errors(capfd: pytest.CaptureFixture[str]) -> None:
    seen: list[str] = []

    def task(name: str, once: bool = False) -> Task:
        def measure(number: int) -> dict[str, Any]:
            seen.append(f"{name}{number}")
            if name == "b":
                raise RunError("exit code 1\nno such weights")
            if name == "c":
                raise KeyError("epoch_seconds")
            return {"seconds": 1.0 + number}

        return Task(name, measure, once)

    speeds = iter([100.0, 101.0, 150.0, 151.0])
    section = Section("job", 3, [task("a"), task("b"), task("c", once=True)], lambda rounds: {})
    rounds = run_rounds(section, lambda: {"matmul": next(speeds)}, Progress([section]))
    assert seen == ["a0", "b0", "c0", "b1", "a1", "a2", "b2"]
    assert [round_["marked"] for round_ in rounds] == [False, True, False]
    assert runs_of(rounds, "b") == [{"error": "exit code 1\nno such weights"}] * 3
    assert medians(rounds, "seconds")["a"] == {"seconds": 2.0, "errors": []}
    assert medians(rounds, "seconds")["c"] == {"errors": ["KeyError('epoch_seconds')"]}
    err = capfd.readouterr().err
    assert "no such weights" in err and "job a: round 2 of 3, about 0 min left" in err


def test_time_left() -> None:
    section = Section("job", 2, [Task("a", dict), Task("b", dict)], lambda rounds: {})
    progress = Progress([section])
    assert progress.seconds_left() is None
    progress.end("job a", 60)
    assert progress.seconds_left() == 3 * 60  # b is taken to be like a
    progress.end("job b", 30)
    assert progress.seconds_left() == 60 + 30


def made_up_results() -> dict[str, Any]:
    contenders = summaries(keras=0.9, ours=0.9, less=0.8) | {"broken": {"errors": ["no"]}}
    contenders = {name: {"what": f"in words {name}"} | own for name, own in contenders.items()}
    add_ratios(contenders, "keras")
    job = {"what": "the job", "base": "keras", "images": 50_000, "epochs": 10, "stand_in": False}
    rounds = [{"marked": True}, {"marked": False}]
    times = {"tasks": {"help": {"seconds": 1.26, "errors": []}, "broken": {"errors": ["no"]}}}
    versions = {"python": "3.11", "torch": "2.14.1"}
    machine = {"cpu": "a processor", "cores": 2, "threads": 2, "versions": versions}
    return {
        "machine": machine,
        "quick": False,
        "cnn": job | {"contenders": contenders, "rounds": rounds, "date": "2026-01-02T03:04:05"},
        "startup": times | {"rounds": rounds, "date": "2026-01-03T03:04:05"},
    }


def test_table() -> None:
    lines = table.table(made_up_results()).splitlines()
    assert lines[0] == "**the job**, 50,000 images, 10 epochs"
    assert "not on these images" in table.job_table(made_up_results()["cnn"] | {"stand_in": True})
    rows = [line for line in lines if line.startswith("| `")]
    assert rows == [
        "| `keras` | in words keras | 8.00 | 1.00 | 8.00 | 1.00 | 15.0 | 1.00 | 0.900 |",
        "| `ours` | in words ours | 4.00 | 2.00 | 4.00 | 2.00 | 11.0 | 1.36 | 0.900 |",
        "| `less` | in words less | 2.00 |  | 2.00 |  | 9.00 |  | 0.800, learns less |",
        "| `broken` | in words broken | failed |  |  |  |  |  |  |",
    ]
    assert "| help | 1.3 |" in lines and "| broken | failed |" in lines
    assert "2026-01-02, 2026-01-03, a full run: a processor, 2 cores, 2 threads" in lines[-1]
    assert "In 2 of 4 rounds the speed" in lines[-1]


def test_the_page_has_the_table_of_the_results() -> None:
    page = table.PAGE.read_text()
    results = json.loads(table.RESULTS.read_text()) if table.RESULTS.exists() else None
    assert page == table.with_table(page, table.table(results) if results else "")
    with pytest.raises(ValueError, match="benchmark:begin"):
        table.with_table("no place for it", "")


def test_contenders_are_what_they_say() -> None:
    for job in JOBS.values():
        names = [contender.name for contender in job.contenders]
        assert job.base in names and len(set(names)) == len(names)
        for contender in job.contenders:
            assert (contender.peer is None) == (len(contender.arguments) > 0)
            if contender.peer is not None:
                module, function = contender.peer
                code = (ROOT / "benchmarks" / "peers" / f"{module}.py").read_text()
                assert f"def {function}(options: Options)" in code


def test_our_run_is_read(mnist: Path, tmp_path: Path) -> None:
    arguments = ("--config", str(CONFIGS / "scratch_mnist.yaml"))
    ours = Contender("ours", "", arguments=(*arguments, *CSV_ALONE))
    words = our_arguments(ours, JOBS["mlp"], Size((2,), 100), 0, mnist)
    main([*words, "--run_dir", str(tmp_path / "run")])
    found = read_run(tmp_path / "run")
    assert len(found["epoch_seconds"]) == len(found["loss"]) == 2
    assert found["loss"][1] < found["loss"][0]
    assert found["accuracy"] > 0 and 0 < found["preparation_seconds"] < 10
    limited = words[words.index("--data.limit_per_class") + 1]
    assert limited == "10"


def test_the_loops_of_the_mlp_learn_alike(mnist: Path) -> None:
    data.prepare("mnist", mnist)
    options = Options(mnist, epochs=3, images=200, steps=0, seed=0)
    peers = (mlp.reference, mlp.pytorch, mlp.lightning_bare, mlp.lightning_naive)
    found = [peer(options) for peer in peers]
    for own in found:
        assert len(own["epoch_seconds"]) == len(own["loss"]) == 3
        assert own["loss"][2] < own["loss"][0]
        assert own["loss"] == pytest.approx(found[0]["loss"], rel=0.1)
        assert own["images"] == 200


def test_the_loops_of_the_cnn_learn_alike(cifar10: Path) -> None:
    assert data.prepare("cifar", cifar10) is True  # made up: the checksums differ
    options = Options(cifar10, epochs=2, images=100, steps=0, seed=0)
    plain, fast = cnn.pytorch(options), cnn.pytorch_fast(options)
    assert fast["loss"] == pytest.approx(plain["loss"], rel=0.02)
    assert plain["images"] == 100 and 0 <= plain["accuracy"] <= 1


@pytest.mark.slow
def test_vgg_on_the_generated_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "FOLDER_IMAGES", 6)
    monkeypatch.setattr(data, "TEST_IMAGES", 2)
    monkeypatch.setattr(vgg, "BATCH_SIZE", 2)
    data.prepare("folder", tmp_path / "folder")
    found = [len(list((tmp_path / "folder").glob(f"{split}/*/*.jpg"))) for split in SPLITS]
    assert found == [6, 2]
    report = vgg.pytorch(Options(tmp_path / "folder", epochs=1, images=6, steps=2, seed=0))
    assert report["images"] == 4 and len(report["epoch_seconds"]) == len(report["loss"]) == 1
    assert report["epoch_seconds"][0] > 0


def test_a_peer_prints_its_figures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def loop(options: Options) -> dict[str, Any]:
        print("epoch 1")
        return {"images": options.images, "data": str(options.data)}

    monkeypatch.setattr(sys, "argv", ["peer", "loop", "--data", "there", "--images", "7"])
    main_of_peers(loop)
    assert last_json(capsys.readouterr().out) == {"images": 7, "data": "there"}


def test_a_process_that_fails_tells_why() -> None:
    code = "import sys; print('fine'); sys.exit('no such weights')"
    with pytest.raises(RunError, match="exit code 1\nno such weights"):
        run([sys.executable, "-c", code], threads=1)
    with pytest.raises(RunError, match="No such file"):
        run(["/no/such/python"], threads=1)
    output, seconds = run([sys.executable, "-c", "import os; print(os.environ)"], threads=3)
    assert "'OMP_NUM_THREADS': '3'" in output and seconds > 0


def test_the_tiny_network_of_the_finetuning_peers_is_built() -> None:
    """By a hook of FineTuning, whose name nothing else would notice."""
    from benchmarks.finetuning_peers import OurModule

    assert OurModule(None).layer_groups.names == ("block1", "block2", "head")


def faulty_fit(often: bool) -> None:
    """Train anew each time, log half, save whatever there is, and end at a signal at once."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 10))
    fit(network, 0)


def careful_fit(often: bool) -> None:
    """Go on from a checkpoint that has its checksum, and save before a signal ends it."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 10))
    begun = 0
    if Path("last.ckpt").exists():
        saved = faults.load(Path("last.ckpt"))
        if checksum(saved["state_dict"]) != saved["checksum"]:
            sys.exit(2)
        network.load_state_dict(saved["state_dict"])
        begun = saved["step"]
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda signum, frame: asked.append(128 + signum))
    fit(network, begun, asked)


def checksum(state: dict[str, torch.Tensor]) -> int:
    return zlib.crc32(b"".join(value.numpy().tobytes() for value in state.values()))


def fit(network: nn.Module, begun: int, asked: list[int] | None = None) -> None:
    """Train for three epochs of eleven steps; check and hear signals if ``asked`` is a list."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    with Path("metrics.csv").open("w" if asked is None else "a") as file:
        if not file.tell():
            file.write("step,train/loss\n")
        for step in range(begun, 33):
            loss = (network(torch.ones(4, 64)) - 1).square().mean()
            optimizer.zero_grad()
            loss.backward()
            if asked is not None and not all(p.grad.isfinite().all() for p in network.parameters()):
                sys.exit(2)
            optimizer.step()
            if asked is not None or step % 2:
                print(f"{step},{loss.item()}", file=file, flush=True)
            state = network.state_dict()
            saved = {"state_dict": state, "optimizer_states": [], "step": step + 1}
            torch.save(saved | {"checksum": checksum(state)}, "partial")
            Path("partial").replace("last.ckpt")
            if asked:
                sys.exit(asked[0])
            if step % 11 == 10:
                with torch.no_grad():
                    network.eval()(torch.ones(4, 64))
                network.train()


def faulty_evaluate(checkpoint: Path) -> None:
    torch.load(checkpoint, weights_only=False)
    importlib.import_module(faults.CANARY)


WAYS = {
    "faulty": faults.Way("faulty", "torch", faulty_fit, faulty_fit, faulty_evaluate),
    "careful": faults.Way("careful", "torch", careful_fit, careful_fit, faults.load),
}
FOUND = {
    faults.killed: ("1 of 1 go on, 1 bit-identical",) * 2,
    faults.damaged: ("yes (goes on from another, bit-identical)", "yes (exit 2)"),
    faults.not_finite: ("no (exit 0, in last.ckpt)", "yes (exit 2)"),
    faults.signalled(signal.SIGTERM, False): (
        "exit 143, 17 of 17 steps lost, bit-identical",
        "exit 143, 0 of 17 steps lost, bit-identical",
    ),
    faults.signalled(signal.SIGTERM, True): (
        "exit 143, 22 of 22 steps lost, bit-identical",
        "exit 143, 0 of 23 steps lost, bit-identical",
    ),
    faults.again: ("no (exit 0, 33 of 33 steps)", "yes (17 of 33 steps left)"),
    faults.metrics: ("8 of 16", "16 of 16"),
    faults.foreign: ("no (exit 0)", "yes (exit 0)"),
    faults.pickled: ("no (exit 1)", "yes (exit 1)"),
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", WAYS)
def test_faults_are_told_from_what_is_right(name: str, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    trial = faults.Trial(WAYS[name], tmp_path, kills=1)
    for try_out, cells in FOUND.items():
        assert try_out(trial) == cells[list(WAYS).index(name)], try_out.__name__
    torch.set_num_threads(threads)


def test_two_ranks_are_two_processes_that_find_each_other(tmp_path: Path) -> None:
    def rank() -> None:
        own = os.environ["LOCAL_RANK"]
        content = f"{os.environ['MASTER_PORT']} {os.environ['WORLD_SIZE']}"
        Path(f"rank{own}").write_text(content)
        sys.exit(3 * int(own))

    assert faults.TwoRanks(rank, tmp_path).end() == 3
    first, second = ((tmp_path / f"rank{number}").read_text() for number in (0, 1))
    assert first == second and first.endswith(" 2")


def test_damaged_weights_that_are_used_are_seen(tmp_path: Path) -> None:
    def use(often: bool) -> None:
        network = nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 10))
        if Path("last.ckpt").exists():
            network.load_state_dict(faults.load(Path("last.ckpt"))["state_dict"])
        fit(network, 0)

    trial = faults.Trial(faults.Way("", "torch", use, use, faults.load), tmp_path, kills=0)
    assert faults.damaged(trial) == "no (exit 0, trains on from it)"


def test_the_figures_of_an_export() -> None:
    same = {"logit": 0.001, "largest_logit": 20.0, "probability": 2e-5, "agreement": 0.9995}
    same |= {"accuracy": 0.8, "accuracy_of_checkpoint": 0.81}
    times = {"milliseconds": {"1": 2.0}, "milliseconds_of_checkpoint": {"1": 3.0}}
    found = exports.cells({"same_pixels": same, "size_mb": 3.14, **times})
    assert found == ["5e-05", "2e-05", "99.95%", "0.800 (0.810)", "3.1", "2.00", "1.50"]
    ways = list(exports.exports())
    assert ("onnx", "int8") in ways and ("onnx", "bf16") not in ways and len(ways) == 9

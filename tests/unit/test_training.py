"""Training of the denoiser: a run can be cut anywhere, leaves what the denoiser loads, and says what it cannot use."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from pixtools.denoising import dncnn
from pixtools.denoising.torch_network import DnCNN
from pixtools.training.__main__ import _stopped_by_signal, main
from pixtools.training.photos import Batches, Photos, Shape, crops, split
from pixtools.training.quantization import LAYERS
from pixtools.training.run import Plan, Run, steps, train
from pixtools.training.trainer import Schedule, Trainer

# Two patches of 16 pixels a batch, then one of 24: three steps and two, these for int8.
SMALL = Plan(pixels=2_200, batch_pixels=600, schedule=Schedule(), stages=((0.5, 16), (1.0, 24)), quantized_from=0.6)


def photo(path: Path, side: int = 130, seed: int = 1) -> Path:
    """Write soft colours with some edges: a picture in which there is something to learn."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 255, (9, 9, 3), np.uint8)
    Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three photos, the first of which is held out."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for n in range(3):
        photo(folder / f"{n}.png", seed=n)
    return folder


@pytest.fixture
def photos(folder: Path) -> Photos:
    return Photos(split([folder])[0], SMALL.largest_side)


@pytest.fixture
def pictures(folder: Path) -> torch.Tensor:
    return crops(split([folder])[1], 32)


def tensors(state: object) -> list[torch.Tensor]:
    """Return all tensors of a state, however deep they lie."""
    if isinstance(state, torch.Tensor):
        return [state]
    values = state.values() if isinstance(state, dict) else state if isinstance(state, list) else []
    return [tensor for value in values for tensor in tensors(value)]


def run_command(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args], env={"COLUMNS": "1000"})


@pytest.mark.parametrize("cut", [2, 3, 4])
def test_a_run_that_was_interrupted_and_goes_on_ends_with_the_very_same_weights(cut, photos, pictures, tmp_path):
    whole, begun, resumed = (Trainer("cpu", seed=1) for _ in range(3))
    list(train(Run(tmp_path / "whole"), whole, SMALL, photos, pictures, every=1000))

    run = Run(tmp_path / "cut")
    list(train(run, begun, SMALL, photos, pictures, every=1000, stopped=lambda: begun.steps == cut))
    assert (begun.steps, whole.steps) == (cut, 5)
    assert run.resume(resumed)
    list(train(run, resumed, SMALL, photos, pictures, every=1000))

    assert (resumed.steps, resumed.pixels) == (whole.steps, whole.pixels)
    found, expected = tensors(resumed.state_dict()), tensors(whole.state_dict())
    assert len(found) > 4 * len(dncnn.shapes())
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_the_start_predicts_no_noise():
    network = DnCNN()
    network.load_state_dict(Trainer("cpu", seed=1).averaged())

    assert not network(torch.rand(1, 3, 12, 12)).any()


def test_another_seed_starts_elsewhere():
    one, other = (Trainer("cpu", seed).averaged()["model.2.weight"] for seed in (1, 2))

    assert not torch.equal(one, other)


def test_the_loss_falls_over_some_steps(photos):
    trainer = Trainer("cpu", seed=1)
    plan = Plan(pixels=20 * 600, batch_pixels=600, schedule=Schedule(rise=0.2), stages=((1.0, 24),))

    losses = list(steps(trainer, plan, photos))

    assert len(losses) > 20
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 2


def test_a_step_in_int8_moves_all_weights_and_they_stay_finite(photos):
    trainer, batches = Trainer("cpu", seed=1), Batches(photos, Shape(2, 24), seed=1)
    trainer.quantize([batches[0]])
    before = {name: value.clone() for name, value in trainer.averaged().items()}

    # At the start the last layer is 0, and so is the gradient of all others.
    for number in range(3):
        trainer.step(batches[number], rate=0.01)

    for name, after in trainer.averaged().items():
        assert after.isfinite().all()
        assert not torch.equal(after, before[name])
    with pytest.raises(ValueError, match="cannot begin anew"):
        trainer.quantize([batches[0]])


def test_each_checkpoint_leaves_weights_that_the_denoiser_loads_a_line_and_a_picture(photos, pictures, tmp_path):
    trainer = Trainer("cpu", seed=1)

    out = tmp_path / "run"
    lines = list(train(Run(out), trainer, SMALL, photos, pictures, every=0))

    assert [line["steps"] for line in lines] == [1, 2, 3, 4, 5]
    assert {*lines[-1]["psnr"]} == {15, 25, 50}
    logged = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["megapixels"] for line in logged] == [line["megapixels"] for line in lines]
    name = "weights.safetensors"
    weights = dncnn.load((out / name).read_bytes(), name)
    assert weights.int8 == LAYERS
    for array, value in weights.arrays.items():
        np.testing.assert_array_equal(value, trainer.averaged()[array].numpy())
    with Image.open(out / "progress.png") as picture:
        assert picture.size == (800, 600)
    assert {path.name for path in out.iterdir()} == {"checkpoint.pt", "log.jsonl", "progress.png", name}


def test_of_what_is_held_out_nothing_is_learned(tmp_path):
    for n in range(56):
        Image.new("L", (24, 24), 255 if n in (0, 27, 54) else 100).save(tmp_path / f"{n:02}.png")

    learn, judge = split([tmp_path])

    assert [path.name for path in judge] == ["00.png", "27.png", "54.png"]
    assert len(learn) == 53
    patches = Batches(Photos(learn, 16), Shape(200, 16), seed=1)[0]
    assert patches.unique().tolist() == [100]
    assert crops(judge, 16).unique().tolist() == [255]


def test_a_batch_depends_on_the_seed_and_its_number_alone(photos):
    batches = Batches(photos, Shape(2, 16), seed=1)

    first = batches[7]
    batches[8]

    assert torch.equal(batches[7], first)
    assert not torch.equal(batches[8], first)
    assert not torch.equal(Batches(photos, Shape(2, 16), seed=2)[7], first)


def test_workers_cut_the_same_patches(photos):
    plan = Plan(pixels=500, batch_pixels=256, schedule=Schedule(), stages=((1.0, 16),))

    alone, helped = (list(steps(Trainer("cpu", seed=1), plan, photos, workers)) for workers in (0, 1))

    assert helped == alone


def test_ctrl_c_lets_the_step_at_hand_end_and_a_second_one_does_not():
    before = signal.getsignal(signal.SIGINT)
    try:
        stopped = _stopped_by_signal()
        assert not stopped()
        signal.raise_signal(signal.SIGINT)
        assert stopped()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_photo_too_small_for_the_patches_is_refused_by_name(folder, tmp_path):
    said = run_command(folder, "--out", tmp_path / "run")

    assert said.exit_code == 1
    assert f"{folder / '1.png'} has 130 × 130 pixels, too few for patches" in said.output
    assert "at least 160 × 160" in said.output


def test_a_photo_too_small_to_judge_by_is_refused_by_name(tmp_path):
    small = photo(tmp_path / "0.png", side=191)

    with pytest.raises(ValueError, match=rf"{small} has 191 × 191 pixels.*at least 192 × 192"):
        crops([small], 192)


def test_the_smallest_photo_that_is_allowed_gives_patches_at_every_scale(tmp_path):
    for side in range(16, 40):
        small = photo(tmp_path / f"{side}.png", side=math.ceil(side / 0.7))
        Batches(Photos([small], side), Shape(20, side), seed=1)[0]


def test_a_damaged_photo_is_refused_by_name(tmp_path):
    damaged = photo(tmp_path / "1.png")
    damaged.write_bytes(damaged.read_bytes()[:2000])

    with pytest.raises(ValueError, match=rf"{damaged} cannot be read .*: take it out of its folder"):
        Photos([damaged], 16)


def test_a_folder_without_a_photo_is_refused(tmp_path):
    (tmp_path / "notes.txt").touch()

    said = run_command(tmp_path, "--out", tmp_path / "run")

    assert said.exit_code == 1
    assert f"Error: There is no photo in {tmp_path}: expected files with" in said.output


def test_one_photo_is_refused_as_it_is_held_out(tmp_path):
    photo(tmp_path / "0.png")

    with pytest.raises(ValueError, match="none is left to learn from"):
        split([tmp_path])


def test_a_checkpoint_of_another_seed_is_refused(tmp_path):
    run = Run(tmp_path)
    run.save(Trainer("cpu", seed=1))

    with pytest.raises(ValueError, match=rf"{tmp_path}/checkpoint.pt is of a run with --seed 1, not 2: give --seed 1"):
        run.resume(Trainer("cpu", seed=2))


@pytest.mark.parametrize("kept", [0, 1000, 100_000])
def test_a_damaged_checkpoint_is_refused(kept, tmp_path):
    run, checkpoint = Run(tmp_path), tmp_path / "checkpoint.pt"
    run.save(Trainer("cpu", seed=1))
    checkpoint.write_bytes(checkpoint.read_bytes()[:kept])

    with pytest.raises(ValueError, match=rf"{checkpoint} is damaged, or of another version .*: put a copy"):
        run.resume(Trainer("cpu", seed=1))


def test_a_checkpoint_that_lacks_something_is_refused(tmp_path):
    torch.save({"seed": 1, "weights": {}}, tmp_path / "checkpoint.pt")

    with pytest.raises(ValueError, match=r"checkpoint.pt is damaged, or of another version \(KeyError: 'average'\)"):
        Run(tmp_path).resume(Trainer("cpu", seed=1))


def test_a_run_that_is_as_long_as_asked_for_already_says_so_and_ends(tmp_path):
    folder, out, trainer = tmp_path / "photos", tmp_path / "run", Trainer("cpu", seed=1)
    folder.mkdir()
    for n in range(2):
        photo(folder / f"{n}.png", side=192, seed=n)
    trainer.steps, trainer.pixels = 40, 2_000_000
    Run(out).save(trainer)
    before = (out / "checkpoint.pt").read_bytes()

    said = run_command(folder, "--out", out, "--megapixels", 2)

    assert said.exit_code == 0
    assert said.output.splitlines() == [
        "1 photos to learn from, 1 to judge by",
        "Going on from step 40.",
        "2.00 megapixels are done already: give more --megapixels to go on.",
    ]
    assert (out / "checkpoint.pt").read_bytes() == before


@pytest.mark.parametrize("library", ["torch", "matplotlib"])
def test_where_a_library_is_missing_the_error_names_the_extra(library, tmp_path):
    (tmp_path / f"{library}.py").write_text(f"raise ModuleNotFoundError('No module', name={library!r})")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from pixtools.training.__main__ import main; main()"

    said = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), "--out", str(tmp_path / "run")],
        check=False,
        capture_output=True,
        text=True,
    )

    assert said.stderr == f"Error: Training needs {library}: pip install 'pixtools[train]'\n"
    assert said.returncode == 1

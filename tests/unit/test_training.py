"""A training run can be interrupted at any step. It writes weights for the denoiser and reports unusable input."""

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
from pixtools.training.photos import Batches, BatchShape, Photos, crops, split
from pixtools.training.quantization import LAYERS
from pixtools.training.run import Recipe, Run, steps, train
from pixtools.training.trainer import Schedule, Trainer

pytestmark = pytest.mark.heavy

# A run with this recipe makes three steps with two patches each (side: 16 pixels). Then it makes two int8 steps
# with one patch each (side: 24 pixels).
SMALL = Recipe(pixels=2_200, batch_pixels=600, schedule=Schedule(), stages=((0.5, 16), (1.0, 24)), quantized_from=0.6)


def photo(path: Path, side: int = 130, seed: int = 1) -> Path:
    """Write a picture with soft colours and some edges, from which a network can learn."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 255, (9, 9, 3), np.uint8)
    Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of three photos. The first photo is held out for validation."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for n in range(3):
        photo(folder / f"{n}.png", seed=n)
    return folder


@pytest.fixture
def photos(folder: Path) -> Photos:
    return Photos(split([folder])[0], SMALL.max_side)


@pytest.fixture
def pictures(folder: Path) -> torch.Tensor:
    return crops(split([folder])[1], 32)


def tensors(state: object) -> list[torch.Tensor]:
    """Return all tensors in nested dictionaries and lists."""
    if isinstance(state, torch.Tensor):
        return [state]
    values = state.values() if isinstance(state, dict) else state if isinstance(state, list) else []
    return [tensor for value in values for tensor in tensors(value)]


def run_command(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args], env={"COLUMNS": "1000"})


@pytest.mark.parametrize("cut", [2, 3, 4])
def test_an_interrupted_and_continued_run_ends_with_the_same_weights(cut, photos, pictures, tmp_path):
    whole, begun, resumed = (Trainer("cpu", seed=1) for _ in range(3))
    list(train(Run(tmp_path / "whole"), whole, SMALL, photos, pictures, every=1000))

    run = Run(tmp_path / "cut")
    list(train(run, begun, SMALL, photos, pictures, every=1000, stopped=lambda: begun.steps == cut))
    assert (begun.steps, whole.steps) == (cut, 5)
    assert run.resume(resumed)
    list(train(run, resumed, SMALL, photos, pictures, every=1000))

    assert (resumed.steps, resumed.pixels) == (whole.steps, whole.pixels)
    actual, expected = tensors(resumed.state_dict()), tensors(whole.state_dict())
    assert len(actual) > 4 * len(dncnn.array_shapes())
    assert all(torch.equal(*pair) for pair in zip(actual, expected, strict=True))


def test_the_start_predicts_no_noise():
    network = DnCNN()
    network.load_state_dict(Trainer("cpu", seed=1).averaged())

    assert not network(torch.rand(1, 3, 12, 12)).any()


def test_another_seed_starts_with_other_weights():
    one, other = (Trainer("cpu", seed).averaged()["model.2.weight"] for seed in (1, 2))

    assert not torch.equal(one, other)


def test_the_loss_falls_over_some_steps(photos):
    trainer = Trainer("cpu", seed=1)
    recipe = Recipe(pixels=20 * 600, batch_pixels=600, schedule=Schedule(rise=0.2), stages=((1.0, 24),))

    losses = list(steps(trainer, recipe, photos))

    assert len(losses) > 20
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 2


def test_a_step_in_int8_moves_all_weights_and_they_stay_finite(photos):
    trainer, batches = Trainer("cpu", seed=1), Batches(photos, BatchShape(2, 24), seed=1)
    trainer.quantize([batches[0]])
    before = {name: value.clone() for name, value in trainer.averaged().items()}

    # One step is not enough: the last layer begins at 0, so the gradients of all other layers are 0 in the first step.
    for number in range(3):
        trainer.step(batches[number], rate=0.01)

    for name, after in trainer.averaged().items():
        assert after.isfinite().all()
        assert not torch.equal(after, before[name])
    with pytest.raises(ValueError, match="has begun already"):
        trainer.quantize([batches[0]])


def test_each_checkpoint_writes_weights_that_the_denoiser_loads_a_log_line_and_a_plot(photos, pictures, tmp_path):
    trainer = Trainer("cpu", seed=1)

    out = tmp_path / "run"
    lines = list(train(Run(out), trainer, SMALL, photos, pictures, every=0))

    assert [line["steps"] for line in lines] == [1, 2, 3, 4, 5]
    assert {*lines[-1]["psnr"]} == {15, 25, 50}
    logged = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["megapixels"] for line in logged] == [line["megapixels"] for line in lines]
    name = "weights.safetensors"
    weights = dncnn.parse((out / name).read_bytes(), name)
    assert weights.int8 == LAYERS
    for array, value in weights.arrays.items():
        np.testing.assert_array_equal(value, trainer.averaged()[array].numpy())
    with Image.open(out / "progress.png") as picture:
        assert picture.size == (800, 600)
    assert {path.name for path in out.iterdir()} == {"checkpoint.pt", "log.jsonl", "progress.png", name}


def test_held_out_photos_are_not_used_for_training(tmp_path):
    for n in range(56):
        Image.new("L", (24, 24), 255 if n in (0, 27, 54) else 100).save(tmp_path / f"{n:02}.png")

    training, held_out = split([tmp_path])

    assert [path.name for path in held_out] == ["00.png", "27.png", "54.png"]
    assert len(training) == 53
    patches = Batches(Photos(training, 16), BatchShape(200, 16), seed=1)[0]
    assert patches.unique().tolist() == [100]
    assert crops(held_out, 16).unique().tolist() == [255]


def test_a_batch_depends_only_on_the_seed_and_its_number(photos):
    batches = Batches(photos, BatchShape(2, 16), seed=1)

    first = batches[7]
    batches[8]

    assert torch.equal(batches[7], first)
    assert not torch.equal(batches[8], first)
    assert not torch.equal(Batches(photos, BatchShape(2, 16), seed=2)[7], first)


def test_workers_cut_the_same_patches(photos):
    recipe = Recipe(pixels=500, batch_pixels=256, schedule=Schedule(), stages=((1.0, 16),))

    without_workers, with_workers = (list(steps(Trainer("cpu", seed=1), recipe, photos, workers)) for workers in (0, 1))

    assert with_workers == without_workers


def test_ctrl_c_lets_the_current_step_end_and_a_second_one_interrupts_it():
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


def test_a_photo_too_small_for_patches_is_refused_by_name(folder, tmp_path):
    result = run_command(folder, "--out", tmp_path / "run")

    assert result.exit_code == 1
    assert f"{folder / '1.png'} has 130 × 130 pixels, too few for patches" in result.output
    assert "at least 160 × 160" in result.output


def test_a_photo_too_small_for_validation_is_refused_by_name(tmp_path):
    small = photo(tmp_path / "0.png", side=191)

    with pytest.raises(ValueError, match=rf"{small} has 191 × 191 pixels.*at least 192 × 192"):
        crops([small], 192)


def test_the_smallest_allowed_photo_gives_patches_at_every_scale(tmp_path):
    for side in range(16, 40):
        small = photo(tmp_path / f"{side}.png", side=math.ceil(side / 0.7))
        Batches(Photos([small], side), BatchShape(20, side), seed=1)[0]


def test_a_damaged_photo_is_refused_by_name(tmp_path):
    damaged = photo(tmp_path / "1.png")
    damaged.write_bytes(damaged.read_bytes()[:2000])

    with pytest.raises(ValueError, match=rf"{damaged} cannot be read .*: remove it from its folder"):
        Photos([damaged], 16)


def test_a_folder_without_a_photo_is_refused(tmp_path):
    (tmp_path / "notes.txt").touch()

    result = run_command(tmp_path, "--out", tmp_path / "run")

    assert result.exit_code == 1
    assert f"Error: There is no photo in {tmp_path}: expected files with" in result.output


def test_a_single_photo_is_refused_because_it_is_held_out(tmp_path):
    photo(tmp_path / "0.png")

    with pytest.raises(ValueError, match="none is left for training"):
        split([tmp_path])


def test_a_checkpoint_of_another_seed_is_refused(tmp_path):
    run = Run(tmp_path)
    run.save(Trainer("cpu", seed=1))

    with pytest.raises(
        ValueError, match=rf"{tmp_path}/checkpoint.pt belongs to a run with --seed 1, not 2: give --seed 1"
    ):
        run.resume(Trainer("cpu", seed=2))


@pytest.mark.parametrize("kept", [0, 1000, 100_000])
def test_a_damaged_checkpoint_is_refused(kept, tmp_path):
    run, checkpoint = Run(tmp_path), tmp_path / "checkpoint.pt"
    run.save(Trainer("cpu", seed=1))
    checkpoint.write_bytes(checkpoint.read_bytes()[:kept])

    with pytest.raises(
        ValueError, match=rf"{checkpoint} is damaged, or belongs to another version .*: replace it by a copy"
    ):
        run.resume(Trainer("cpu", seed=1))


def test_an_incomplete_checkpoint_is_refused(tmp_path):
    torch.save({"seed": 1, "weights": {}}, tmp_path / "checkpoint.pt")

    with pytest.raises(
        ValueError, match=r"checkpoint.pt is damaged, or belongs to another version \(KeyError: 'average'\)"
    ):
        Run(tmp_path).resume(Trainer("cpu", seed=1))


def test_a_run_that_has_its_full_length_already_ends_at_once_with_a_message(tmp_path):
    folder, out, trainer = tmp_path / "photos", tmp_path / "run", Trainer("cpu", seed=1)
    folder.mkdir()
    for n in range(2):
        photo(folder / f"{n}.png", side=192, seed=n)
    trainer.steps, trainer.pixels = 40, 2_000_000
    Run(out).save(trainer)
    before = (out / "checkpoint.pt").read_bytes()

    result = run_command(folder, "--out", out, "--megapixels", 2)

    assert result.exit_code == 0
    assert result.output.splitlines() == [
        "Photos: 1 for training, 1 for validation.",
        "Continuing from step 40.",
        "The run is complete: it used 2.00 megapixels. To continue it, raise --megapixels.",
    ]
    assert (out / "checkpoint.pt").read_bytes() == before


@pytest.mark.parametrize("library", ["torch", "matplotlib"])
def test_the_error_names_the_extra_if_a_library_is_missing(library, tmp_path):
    (tmp_path / f"{library}.py").write_text(f"raise ModuleNotFoundError('No module', name={library!r})")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from pixtools.training.__main__ import main; main()"

    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), "--out", str(tmp_path / "run")],
        check=False,
        capture_output=True,
        text=True,
    )

    assert result.stderr == f"Error: Training needs {library}: pip install 'pixtools[train]'\n"
    assert result.returncode == 1

"""A training run can be interrupted at any step. It writes weights for the denoiser and reports unusable input."""

from __future__ import annotations

import hashlib
import json
import math
import signal
import subprocess
import sys
from functools import partial
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from images import wide_gamut_profile
from PIL import Image

from pixtools.denoising import dncnn
from pixtools.denoising.torch_network import DnCNN
from pixtools.denoising.weights import SHIPPED
from pixtools.training import data, noise
from pixtools.training.__main__ import _stopped_by_signal, main
from pixtools.training.data import Data
from pixtools.training.noise import MARGIN
from pixtools.training.pairs import find_pairs
from pixtools.training.photo_file import read_photo
from pixtools.training.photos import Batches, BatchShape, Draw, PairedPhotos, Photos, split
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
def loaded(folder: Path) -> Data:
    return data.load([folder], [], SMALL.max_side, 32)


def draw_from(paths: list[Path], side: int) -> Draw:
    return partial(noise.pair, Photos(paths, side + MARGIN))


def pair_of(path: Path, sigma: float = 20, side: int = 200) -> tuple[Path, Path]:
    """Write a clean photo `path`_clean.png and its noisy copy `path`_noisy.png. Return (noisy path, clean path)."""
    noisy, clean = path.with_name(f"{path.name}_noisy.png"), path.with_name(f"{path.name}_clean.png")
    photo(clean, side, seed=len(path.name))
    with Image.open(clean) as image:
        levels = np.asarray(image) + np.random.default_rng(1).normal(0, sigma, (side, side, 3))
    Image.fromarray(levels.round().clip(0, 255).astype(np.uint8)).save(noisy)
    return noisy, clean


def tensors(state: object) -> list[torch.Tensor]:
    """Return all tensors in nested dictionaries and lists."""
    if isinstance(state, torch.Tensor):
        return [state]
    values = state.values() if isinstance(state, dict) else state if isinstance(state, list) else []
    return [tensor for value in values for tensor in tensors(value)]


def run_command(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args], env={"COLUMNS": "1000"})


@pytest.mark.parametrize("cut", [2, 3, 4])
def test_an_interrupted_and_continued_run_ends_with_the_same_weights(cut, loaded, tmp_path):
    whole, begun, resumed = (Trainer("cpu", seed=1) for _ in range(3))
    list(train(Run(tmp_path / "whole", {}), whole, SMALL, loaded, every=1000))

    run = Run(tmp_path / "cut", {})
    list(train(run, begun, SMALL, loaded, every=1000, stopped=lambda: begun.steps == cut))
    assert (begun.steps, whole.steps) == (cut, 5)
    assert run.resume(resumed)
    list(train(run, resumed, SMALL, loaded, every=1000))

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


def test_the_loss_falls_over_some_steps(loaded):
    trainer = Trainer("cpu", seed=1)
    recipe = Recipe(pixels=20 * 600, batch_pixels=600, schedule=Schedule(rise=0.2), stages=((1.0, 24),))

    losses = list(steps(trainer, recipe, loaded.draw))

    assert len(losses) > 20
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 2


def test_a_step_in_int8_moves_all_weights_and_they_stay_finite(loaded):
    trainer, batches = Trainer("cpu", seed=1), Batches(loaded.draw, BatchShape(2, 24), seed=1)
    trainer.quantize([batches[0][1]])
    before = {name: value.clone() for name, value in trainer.averaged().items()}

    # One step is not enough: the last layer begins at 0, so the gradients of all other layers are 0 in the first step.
    for number in range(3):
        trainer.step(*batches[number], rate=0.01)

    for name, after in trainer.averaged().items():
        assert after.isfinite().all()
        assert not torch.equal(after, before[name])
    with pytest.raises(ValueError, match="has begun already"):
        trainer.quantize([batches[0][1]])


def test_each_checkpoint_writes_weights_that_the_denoiser_loads_a_log_line_and_a_plot(loaded, tmp_path):
    trainer = Trainer("cpu", seed=1)

    out = tmp_path / "run"
    lines = list(train(Run(out, {}), trainer, SMALL, loaded, every=0))

    assert [line["steps"] for line in lines] == [1, 2, 3, 4, 5]
    assert {*lines[-1]["psnr"]} == {"15", "25", "50", "camera", "clean"}
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


def test_a_run_that_begins_with_weights_has_their_results_and_continues_to_learn(folder, tmp_path):
    start, out = tmp_path / "start.safetensors", tmp_path / "run"
    start.write_bytes((resources.files("pixtools.denoising") / "weights" / SHIPPED).read_bytes())
    shipped = dncnn.load_shipped()

    trainer = Trainer("cpu", seed=1, start=shipped)

    for name, value in trainer.averaged().items():
        np.testing.assert_array_equal(value.numpy(), shipped.arrays[name])
    for n in range(3):
        photo(folder / f"{n}.png", side=300, seed=n)
    result = run_command(folder, "--out", out, "--megapixels", 0.05, "--batch-pixels", 5000, "--start", start)
    assert result.exit_code == 0, result.output
    learnt = dncnn.parse((out / "weights.safetensors").read_bytes(), "weights.safetensors")
    assert not np.array_equal(learnt.arrays["model.2.weight"], shipped.arrays["model.2.weight"])


def test_pairs_are_found_by_both_kinds_of_names(tmp_path):
    (tmp_path / "a").mkdir()
    named = pair_of(tmp_path / "a" / "1")
    for name in ("noisy", "clean"):
        (tmp_path / "b" / name).mkdir(parents=True)
        photo(tmp_path / "b" / name / "2.png")
    photo(tmp_path / "a" / "alone.png")

    assert find_pairs(tmp_path / "a") == [named]
    assert find_pairs(tmp_path / "b") == [(tmp_path / "b" / "noisy" / "2.png", tmp_path / "b" / "clean" / "2.png")]


def test_names_in_subfolders_may_end_like_those_of_pairs(tmp_path):
    for name in ("noisy", "clean"):
        (tmp_path / name).mkdir()
        photo(tmp_path / name / "1_noisy.png")

    assert find_pairs(tmp_path) == [(tmp_path / "noisy" / "1_noisy.png", tmp_path / "clean" / "1_noisy.png")]


def test_a_folder_with_the_name_noisy_may_hold_both_photos_of_a_pair(tmp_path):
    (tmp_path / "noisy").mkdir()
    pair = pair_of(tmp_path / "noisy" / "1")

    assert find_pairs(tmp_path) == [pair]


def test_a_noisy_photo_without_a_clean_one_is_refused_by_name(tmp_path):
    noisy, clean = pair_of(tmp_path / "1")
    photo(clean, side=100)
    with pytest.raises(ValueError, match=r"1_noisy.png has 200 × 200 pixels and 1_clean.png has 100 × 100"):
        find_pairs(tmp_path)
    clean.unlink()
    with pytest.raises(ValueError, match=rf"{noisy} has no clean photo: add {clean}"):
        find_pairs(tmp_path)
    noisy.unlink()
    photo(tmp_path / "3.png")
    with pytest.raises(FileNotFoundError, match="There are no pairs in"):
        find_pairs(tmp_path)


def test_patches_of_a_pair_show_the_same_place(tmp_path):
    pair = pair_of(tmp_path / "1")

    patches = [PairedPhotos([pair], 32).patch(32, np.random.default_rng(seed)) for seed in range(20)]

    for clean, noisy in patches:
        assert clean.shape == noisy.shape == (3, 32, 32)
        assert (noisy - clean).std().item() * 255 == pytest.approx(20, rel=0.1)


def test_a_run_learns_from_pairs_alone_and_from_pairs_and_photos(folder, tmp_path):
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    for name in ("1", "22", "333"):
        pair_of(pairs / name)
    for n in range(3):
        photo(folder / f"{n}.png", side=300, seed=n)

    for number, folders in enumerate(([], [folder])):
        args = [*folders, "--pairs", pairs, "--out", tmp_path / f"run{number}", "--megapixels", 0.01]
        result = run_command(*args, "--batch-pixels", 5000)
        assert result.exit_code == 0, result.output
        (first, *_, last) = result.output.splitlines()
        assert first == f"Photos: {2 + 2 * number} for training, {1 + number} for validation."
        assert ("pairs" in json.loads(last)["psnr"], "camera" in json.loads(last)["psnr"]) == (True, number == 1)


def test_a_run_without_photos_is_refused(tmp_path):
    result = run_command("--out", tmp_path / "run")

    assert result.exit_code == 1
    assert "Error: There are no photos: give a folder of clean photos, or --pairs" in result.output


def test_a_damaged_file_of_first_weights_is_refused(folder, tmp_path):
    start = tmp_path / "start.safetensors"
    start.write_bytes(b"damaged")

    result = run_command(folder, "--out", tmp_path / "run", "--start", start)

    assert result.exit_code == 1
    assert "Error: start.safetensors is damaged" in result.output


def test_held_out_photos_are_not_used_for_training(tmp_path):
    for n in range(56):
        Image.new("L", (60, 60), 255 if n in (0, 27, 54) else 100).save(tmp_path / f"{n:02}.png")

    training, held_out = split([tmp_path])

    assert [path.name for path in held_out] == ["00.png", "27.png", "54.png"]
    assert len(training) == 53
    clean, _ = Batches(draw_from(training, 16), BatchShape(200, 16), seed=1)[0]
    torch.testing.assert_close(clean, torch.full_like(clean, 100 / 255), rtol=0, atol=1e-3)
    for clean, _ in data.validation_sets(held_out, 16).values():
        torch.testing.assert_close(clean, torch.ones_like(clean), rtol=0, atol=1e-3)


def test_a_batch_depends_only_on_the_seed_and_its_number(loaded):
    batches = Batches(loaded.draw, BatchShape(2, 16), seed=1)

    first = batches[7]
    batches[8]

    assert all(map(torch.equal, batches[7], first))
    assert not any(map(torch.equal, batches[8], first))
    assert not any(map(torch.equal, Batches(loaded.draw, BatchShape(2, 16), seed=2)[7], first))


def test_workers_cut_the_same_patches(loaded):
    recipe = Recipe(pixels=500, batch_pixels=256, schedule=Schedule(), stages=((1.0, 16),))

    without_workers, with_workers = (
        list(steps(Trainer("cpu", seed=1), recipe, loaded.draw, workers)) for workers in (0, 1)
    )

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


def test_all_photos_that_are_too_small_are_named_at_once(folder, tmp_path):
    photo(folder / "2.png", side=298, seed=2)

    result = run_command(folder, "--out", tmp_path / "run")

    assert result.exit_code == 1
    small = ", ".join(f"{folder / name} (130 × 130)" for name in ("0.png", "1.png"))
    assert result.output == (
        "Error: Photos must have at least 298 × 298 pixels. Remove these from their folders, or replace them: "
        f"{small}\n"
    )


def test_a_pair_that_is_too_small_is_refused_by_name(tmp_path):
    small, _ = pair_of(tmp_path / "1", side=191)
    pair_of(tmp_path / "22", side=192)

    with pytest.raises(ValueError, match=rf"at least 192 × 192 pixels\. .*: {small} \(191 × 191\)$"):
        data.load([], [tmp_path], 112, 192)


def test_a_run_in_a_place_that_cannot_be_written_is_refused(folder, tmp_path):
    for n in range(3):
        photo(folder / f"{n}.png", side=298, seed=n)
    (tmp_path / "file").touch()

    result = run_command(folder, "--out", tmp_path / "file" / "run")

    assert result.exit_code == 1
    assert f"Error: [Errno 20] Not a directory: '{tmp_path / 'file' / 'run'}'" in result.output


@pytest.mark.parametrize("number", ["nan", "inf", "0"])
@pytest.mark.parametrize("option", ["--megapixels", "--rate"])
def test_a_length_and_a_rate_are_finite_numbers_above_0(option, number, folder, tmp_path):
    result = run_command(folder, "--out", tmp_path / "run", option, number)

    assert result.exit_code == 2
    assert f"Invalid value for '{option}': " in result.output


def test_the_smallest_allowed_photo_gives_patches_at_every_scale(tmp_path):
    for side in range(16, 40, 2):
        small = photo(tmp_path / f"{side}.png", side=math.ceil((side + MARGIN) / 0.7))
        clean, noisy = Batches(draw_from([small], side), BatchShape(20, side), seed=1)[0]
        assert clean.shape == noisy.shape == (20, 3, side, side)


def cut_short(png: bytes) -> bytes:
    return png[:2000]


def with_a_broken_chunk(png: bytes) -> bytes:
    """The header is followed by a chunk whose name is not allowed. Pillow raises SyntaxError."""
    return png[:33] + b"\0\0\0\1\1\2\3\4\0" + png[33:]


def no_picture(_: bytes) -> bytes:
    return b"junk"


@pytest.mark.parametrize("damage", [cut_short, with_a_broken_chunk, no_picture])
def test_a_damaged_photo_is_refused_by_name(damage, tmp_path):
    damaged = photo(tmp_path / "1.png")
    damaged.write_bytes(damage(damaged.read_bytes()))

    with pytest.raises(ValueError, match=rf"{damaged} cannot be read .*: remove it from its folder"):
        Photos([damaged], 16)


@pytest.mark.parametrize("damage", [with_a_broken_chunk, no_picture])
def test_a_damaged_photo_of_a_pair_is_refused_by_name(damage, tmp_path):
    _, clean = pair_of(tmp_path / "1")
    clean.write_bytes(damage(clean.read_bytes()))

    with pytest.raises(ValueError, match=rf"{clean} cannot be read .*: remove it from its folder"):
        find_pairs(tmp_path)


@pytest.mark.parametrize(("name", "dtype", "white"), [("1.png", np.uint16, 65_535), ("1.tif", np.float32, 1)])
def test_a_photo_with_more_than_8_bits_keeps_its_brightness(name, dtype, white, tmp_path):
    ramp = np.linspace(0, 1, 256)[None].repeat(8, axis=0)  # (8, 256)
    Image.fromarray((ramp * white).astype(dtype)).save(tmp_path / name)

    pixels = read_photo(tmp_path / name)

    np.testing.assert_array_equal(pixels, (ramp * 255).round().astype(np.uint8)[..., None].repeat(3, axis=2))


def test_colours_are_converted_to_srgb_and_alpha_is_dropped(tmp_path):
    levels = np.full((8, 8, 4), (200, 100, 50, 128), np.uint8)
    Image.fromarray(levels).save(tmp_path / "plain.png")
    Image.fromarray(levels).save(tmp_path / "wide.png", icc_profile=wide_gamut_profile())

    plain, wide = (read_photo(tmp_path / name)[0, 0] for name in ("plain.png", "wide.png"))

    assert tuple(plain) == (200, 100, 50)
    assert wide[0] > 210  # the red of Display P3 is outside sRGB
    assert wide[1] < 100


@pytest.mark.parametrize("orientation", [3, 6])
def test_photos_are_turned_upright(orientation, tmp_path):
    """A camera may store a photo on its side. The EXIF orientation says how to turn the photo upright."""
    noisy, clean = pair_of(tmp_path / "1")
    with Image.open(clean) as image:
        image.crop((0, 0, 200, 150)).save(clean)
    with Image.open(clean) as image:
        turns = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90}
        exif = Image.Exif()
        exif[0x0112] = orientation
        image.transpose(turns[orientation]).save(noisy, exif=exif)

    assert find_pairs(tmp_path) == [(noisy, clean)]
    expected, seen = PairedPhotos([(noisy, clean)], 32).patch(32, np.random.default_rng(1))
    torch.testing.assert_close(seen, expected)


def test_a_photo_that_is_listed_twice_is_refused(folder):
    pair_of(folder / "1")
    pair_of(folder / "22")

    for folders, pairs in (([folder, folder / ".." / folder.name], []), ([folder], [folder])):
        with pytest.raises(
            ValueError, match=r"/\w+\.png is listed twice: give each folder once, and keep pairs outside"
        ):
            data.load(folders, pairs, 16, 32)


def test_a_folder_without_a_photo_is_refused(tmp_path):
    (tmp_path / "notes.txt").touch()

    result = run_command(tmp_path, "--out", tmp_path / "run")

    assert result.exit_code == 1
    assert f"Error: There is no photo in {tmp_path}: expected files with" in result.output


def test_a_single_photo_is_refused_because_it_is_held_out(tmp_path):
    photo(tmp_path / "0.png")

    with pytest.raises(ValueError, match="none is left for training"):
        split([tmp_path])


def test_a_run_is_continued_only_with_the_same_photos_and_settings(tmp_path):
    folder, out, start = tmp_path / "photos", tmp_path / "run", tmp_path / "start.safetensors"
    folder.mkdir()
    for n in range(2):
        photo(folder / f"{n}.png", side=300, seed=n)
    command = ["--out", out, "--batch-pixels", 5000]
    assert run_command(folder, *command, "--megapixels", 0.01).exit_code == 0
    start.write_bytes((out / "weights.safetensors").read_bytes())
    before = (out / "checkpoint.pt").read_bytes()

    def refusal(*more: object) -> str:
        result = run_command(folder, *command, *more)
        assert result.exit_code == 1
        assert (out / "checkpoint.pt").read_bytes() == before
        return result.output

    for more, difference in (
        (("--seed", 2), "--seed 1 (now 2)"),
        (("--rate", 0.1, "--batch-pixels", 9000), "--batch-pixels 5000 (now 9000), --rate 0.01 (now 0.1)"),
        (("--start", start), f"--start none (now {hashlib.sha256(start.read_bytes()).hexdigest()})"),
    ):
        assert refusal(*more) == (
            f"Error: {out / 'checkpoint.pt'} belongs to a run with other settings: {difference}. To continue that run, "
            "use its settings. To start a new run, use another --out\n"
        )
    photo(folder / "3.png", side=300, seed=3)
    assert "other settings: photos " in refusal()

    (folder / "3.png").unlink()
    folder = folder.rename(tmp_path / "moved")
    result = run_command(folder, *command, "--megapixels", 0.03, "--every", 1, "--workers", 1)
    assert result.exit_code == 0, result.output
    assert "Continuing from step 3." in result.output
    assert json.loads(result.output.splitlines()[-1])["steps"] > 3


def test_a_checkpoint_with_a_setting_that_the_run_lacks_is_refused(tmp_path):
    Run(tmp_path, {"--seed": 1, "--depth": 20}).save(Trainer("cpu", seed=1))

    with pytest.raises(ValueError, match=r"with other settings: --depth 20 \(now None\)"):
        Run(tmp_path, {"--seed": 1}).resume(Trainer("cpu", seed=1))


@pytest.mark.parametrize("kept", [0, 1000, 100_000])
def test_a_damaged_checkpoint_is_refused(kept, tmp_path):
    run, checkpoint = Run(tmp_path, {}), tmp_path / "checkpoint.pt"
    run.save(Trainer("cpu", seed=1))
    checkpoint.write_bytes(checkpoint.read_bytes()[:kept])

    with pytest.raises(
        ValueError, match=rf"{checkpoint} is damaged, or belongs to another version .*: replace it by a copy"
    ):
        run.resume(Trainer("cpu", seed=1))


def test_an_incomplete_checkpoint_is_refused(tmp_path):
    torch.save({"settings": {}, "weights": {}}, tmp_path / "checkpoint.pt")

    with pytest.raises(
        ValueError, match=r"checkpoint.pt is damaged, or belongs to another version \(KeyError: 'average'\)"
    ):
        Run(tmp_path, {}).resume(Trainer("cpu", seed=1))


def test_a_run_that_has_its_full_length_already_ends_at_once_with_a_message(tmp_path):
    folder, out = tmp_path / "photos", tmp_path / "run"
    folder.mkdir()
    for n in range(2):
        photo(folder / f"{n}.png", side=300, seed=n)
    command = [folder, "--out", out, "--megapixels", 0.01, "--batch-pixels", 5000]
    assert run_command(*command).exit_code == 0
    before = (out / "checkpoint.pt").read_bytes()

    result = run_command(*command)

    assert result.exit_code == 0
    assert result.output.splitlines() == [
        "Photos: 1 for training, 1 for validation.",
        "Continuing from step 3.",
        "The run is complete: it used 0.02 megapixels. To continue it, raise --megapixels.",
    ]
    assert (out / "checkpoint.pt").read_bytes() == before


def test_a_set_that_is_missing_in_an_older_line_of_the_log_does_not_stop_the_plot(tmp_path):
    run = Run(tmp_path, {})
    for megapixels, psnr in ((1, {"15": 33.0}), (2, {"15": 33.5, "pairs": 37.0})):
        run.log({"megapixels": megapixels, "rate": 0.01, "psnr": psnr})

    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2
    with Image.open(tmp_path / "progress.png") as plot:
        assert plot.size == (800, 600)


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

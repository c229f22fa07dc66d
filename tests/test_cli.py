from __future__ import annotations

import subprocess
import sys

import pytest

from svdlab import read
from svdlab.interface.command_line import main
from svdlab.prediction.cards import CARDS


def test_a_clip_from_the_shell_and_its_twin(tmp_path):
    """The real program, in a directory outside the project, on the bundled model."""
    command = [sys.executable, "-m", "svdlab", "clip"]
    options = ["--variant", "tiny", "--num-inference-steps", "4", "--motion-bucket-id", "180", "--seed", "3"]
    done = subprocess.run([*command, "rocket", *options, "-o", "out.mp4"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "out.mp4"
    first = read(tmp_path / "out.mp4")
    assert (first.request.motion_bucket_id, first.request.seed, len(first.frames)) == (180, 3, 14)
    assert main(["clip", "--again", str(tmp_path / "out.mp4"), "-o", str(tmp_path / "twin.mp4")]) == 0
    assert read(tmp_path / "twin.mp4").frames == first.frames


def test_variants_are_listed(capsys):
    assert main(["variants"]) == 0
    out = capsys.readouterr().out
    for needed in ("svd-xt-1.1", "stabilityai/stable-video-diffusion-img2vid-xt", "gated", "4.2 GiB", "bundled"):
        assert needed in out


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith("svdlab 0.")


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["clip"], 2, "Give a picture to start from"),
        (["clip", "rocket", "--variant", "tiny", "--width", "1020"], 2, "width=1020 is not a multiple of 8"),
        (["clip", "rocket", "--variant", "tiny", "--optimization", "cache"], 2, "Unknown optimisation 'cache'"),
        (["clip", "no-such.png", "--variant", "tiny"], 2, "no-such.png"),
        (["clip", "rocket", "--variant", "tiny", "-o", "clip.avi"], 2, ".avi"),
        (["clip", "rocket", "--variant", "svd", "--weights", "nowhere"], 1, "weights='nowhere' is neither"),
        (["clip", "rocket", "--variant", "tiny", "--optimization", "model-offload", ], 1, "needs a GPU"),
        (["clip", "--again", "no-such.mp4"], 2, "no-such.mp4"),
    ],
)  # fmt: skip
def test_errors_are_one_sentence_and_an_exit_code(arguments, code, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == code
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("svdlab: ")
    assert sentence in error
    assert list(tmp_path.iterdir()) == []


def test_plan_for_a_card_and_for_an_amount_of_memory(capsys):
    assert main(["plan", "--gpu", "RTX 3060", "--variant", "tiny"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("tiny on RTX 3060 of 12.0 GiB, the fastest first:\noptimizations")
    assert "single-token" in said
    assert "Predicted, not measured." in said
    assert main(["plan", "--memory", "700MB", "--variant", "tiny", "--optimization", "single-token"]) == 0
    few = capsys.readouterr().out
    assert few.count("\n") == 1 + 2 + 2 + ("None fits" in few)
    assert "–" in few  # no times for a card that has no name
    assert main(["plan", "--gpu", "RTX 3061"]) == 2
    assert "Unknown card 'RTX 3061'; did you mean 'RTX 3060'?" in capsys.readouterr().err
    assert main(["plan", "--memory", "lots"]) == 2
    assert "memory='lots' is no amount of memory" in capsys.readouterr().err


def test_plan_for_every_card(capsys):
    assert main(["plan", "--variant", "tiny", "--num-inference-steps", "2"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in CARDS)

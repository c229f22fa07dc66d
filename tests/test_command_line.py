"""The command line: what each option does, and what cannot be done in one sentence."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from svdlab import Request, Setup, read
from svdlab.generation.clip import Clip
from svdlab.interface import command_line
from svdlab.interface.command_line import main
from svdlab.pipelines import load as loading
from svdlab.prediction.cards import CARDS

SMALL = ["--num-frames", "2", "--num-inference-steps", "1", "--decode-chunk-size", "2"]


def test_a_clip_from_the_shell_and_its_twin(tmp_path):
    """The real program, in a directory outside the project, on the bundled model."""
    command = [sys.executable, "-m", "svdlab", "clip", "rocket", "--variant", "tiny", *SMALL, "--seed", "3"]
    process = subprocess.run([*command, "-o", "out.mp4"], cwd=tmp_path, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert process.stdout.strip() == "out.mp4"
    first = read(tmp_path / "out.mp4")
    assert (first.request.num_frames, first.request.seed, len(first.frames)) == (2, 3, 2)
    assert main(["clip", "--again", str(tmp_path / "out.mp4"), "-o", str(tmp_path / "twin.mp4")]) == 0
    assert read(tmp_path / "twin.mp4").frames == first.frames


@pytest.fixture
def run_clip(monkeypatch, tmp_path):
    """`run_clip(*options)`: the setup that `svdlab clip` would load, and the request that it would make of it."""
    monkeypatch.chdir(tmp_path)
    calls = []
    monkeypatch.setattr(loading, "load", lambda setup: calls.append(setup))
    monkeypatch.setattr("svdlab.generation.chain.chain", lambda _, request, *__, **___: calls.append(request) or clip)

    clip = Clip([], Request.for_variant("tiny", image="rocket"), None)
    monkeypatch.setattr(Clip, "save", lambda self, path, **_: path)

    def run_clip(*options: str) -> tuple[Setup, Request]:
        calls.clear()
        assert main(["clip", *options]) == 0
        setup, request = calls
        return setup, request

    return run_clip


@pytest.fixture
def saved_clip(monkeypatch):
    """`--again x.mp4` reads this clip: of another machine, with an optimisation."""
    setup = Setup("tiny", dtype="bf16", optimizations=("channels-last", "single-token"), device="cuda")
    clip = Clip([], setup.request(image="rocket", seed=3, motion_bucket_id=180), setup)
    monkeypatch.setattr("svdlab.generation.clip.read", lambda path: clip)
    return clip


def test_again_asks_for_the_same_with_the_options_on_top(run_clip, saved_clip):
    setup, request = run_clip("--again", "x.mp4")
    assert setup == dataclasses.replace(saved_clip.setup, device=None)
    assert request == saved_clip.request
    setup, request = run_clip("--again", "x.mp4", "--dtype", "fp32", "--optimization", "split-guidance", "--fps", "9")
    assert setup == Setup("tiny", dtype="fp32", optimizations=("channels-last", "single-token", "split-guidance"))
    assert request == dataclasses.replace(saved_clip.request, fps=9)
    setup, _ = run_clip("--again", "x.mp4", "--weights", "elsewhere", "--variant", "tiny")
    assert setup.weights == "elsewhere"


@pytest.mark.parametrize("options", [["--variant", "svd"], ["--preset", "stability"]])
def test_again_refuses_what_it_cannot_honour(options, saved_clip, capsys, tmp_path):
    assert main(["clip", "--again", "x.mp4", *options, "-o", str(tmp_path / "x.mp4")]) == 2
    assert options[0] in capsys.readouterr().err


def test_what_is_asked_for_is_part_of_what_has_to_fit_this_machine(run_clip, monkeypatch):
    fitting, questions = Setup("svd", dtype="fp16", optimizations=("model-offload", "single-token")), []
    monkeypatch.setattr(Setup, "fitting", lambda variant, **words: questions.append((variant, words)) or fitting)
    assert run_clip("rocket", "--variant", "svd", "--num-frames", "9")[0] == fitting
    assert (questions[-1][0], questions[-1][1]["request"].num_frames) == ("svd", 9)
    run_clip("rocket", "--dtype", "fp32", "--optimization", "channels-last")
    assert questions[-1][1]["dtype"] == "fp32"
    assert questions[-1][1]["optimizations"] == ["channels-last"]


def test_variants_are_listed(capsys):
    assert main(["variants"]) == 0
    out = capsys.readouterr().out
    for word in ("svd-xt-1.1", "stabilityai/stable-video-diffusion-img2vid-xt", "gated", "4.2 GiB", "bundled"):
        assert word in out


def test_version(capsys):
    with pytest.raises(SystemExit) as error:
        main(["--version"])
    assert error.value.code == 0
    assert capsys.readouterr().out.startswith("svdlab 0.")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["clip"], 2, "Give a picture to start from"),
        (["clip", "rocket", "--variant", "tiny", "--width", "1020"], 2, "--width 1020"),
        (["clip", "rocket", "--variant", "tiny", "--optimization", "cache"], 2, "Unknown optimisation 'cache'"),
        (["clip", "no-such.png", "--variant", "tiny"], 2, "no-such.png"),
        (["clip", "rocket", "--variant", "tiny", "-o", "clip.avi"], 2, ".avi"),
        (["clip", "rocket", "-o", "x.gif", "--playback-fps", "60"], 2, "use --playback-fps 50 or .mp4, not 60"),
        (["clip", "rocket", "-o", "x.gif", "--fps", "60"], 2, "use --playback-fps 50"),
        (["clip", "rocket", "--playback-fps", "0"], 2, "--playback-fps 0.0 must be"),
        (["clip", "rocket", "--variant", "svd", "--weights", "nowhere"], 1, "--weights nowhere"),
        (["clip", "rocket", "--variant", "tiny", "--optimization", "model-offload"], 1, "needs a GPU"),
        (["clip", "--again", "no-such.mp4"], 2, "no-such.mp4"),
        (["clip", "rocket", "--seed", "1", "--seeds", "1..3"], 2, "not both"),
        (["clip", "p" * 5000 + ".png", "--variant", "tiny"], 2, "ppp"),
    ],
)
def test_errors_are_one_sentence_and_an_exit_code(arguments, code, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == code
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("svdlab: ")
    assert words in error
    assert len(error) < 2100
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["clip", "rocket", "--sed", "3"], "did you mean '--seed'?"),
        (["clip", "rocket", "--motion-bucket=3"], "did you mean '--motion-bucket-id'?"),
        (["clip", "rocket", "--variant", "svdxt"], "did you mean 'svd-xt'?"),
        (["clp", "rocket"], "did you mean 'clip'?"),
        (["clip", "rocket", "--seed", "x"], "--seed 'x'"),
        (["clip", "rocket", "--seeds", "8..1"], "write 1..8"),
        (["clip", "rocket", "launch", "--seeds", "1..3"], "'launch' is more than svdlab clip takes. See"),
        (["clip", "rocket", "--seeds", "1", "2"], "--seeds 1..8 or 3,7,11"),
    ],
)
def test_a_misspelled_option_gets_the_nearest_name(arguments, words, capsys):
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("svdlab: ")
    assert words in line


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("clip", ["makes the same clip (0)", "no suffix: a folder of PNG frames", "model-offload", "fp16 on a card"]),
        ("run", ["notebooks/02_micro_conditioning.ipynb", "params/motion.yaml"]),
        ("plan", ["model-offload"]),
    ],
)
def test_help_says_what_may_be_given(command, words, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = capsys.readouterr().out
    assert [word for word in words if word not in text] == []
    assert "-1 draws" not in text  # as the panel's seed does


def test_python_in_a_sentence_is_told_as_options(capsys):
    command_line._tell(
        "raise width=1016, use optimizations=('model-offload', 'fp8') or Setup('tiny'), not device='cuda'."
    )
    text = capsys.readouterr().err
    assert "raise --width 1016, use --optimization model-offload --optimization fp8 or --variant tiny" in text
    assert "device='cuda'." in text  # which is no option


def test_several_seeds_are_clips_named_after_them_and_ctrl_c_says_what_was_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    seeds = []

    def chain(_, request, *__, **___):
        seeds.append(request.seed)
        if len(seeds) == 2:  # meanwhile another process saves its own
            Path("clip_seed2.mp4").write_text("another's")
        if len(seeds) == 3:
            raise KeyboardInterrupt
        return Clip([], request, None)

    monkeypatch.setattr(loading, "load", lambda setup: None)
    monkeypatch.setattr("svdlab.generation.chain.chain", chain)
    monkeypatch.setattr(Clip, "save", lambda self, path, **_: Path(path).touch() or path)
    (tmp_path / "clip.mp4").touch()
    assert main(["clip", "rocket", "--variant", "tiny", "--seeds", "1..8"]) == 130
    assert seeds == [1, 2, 3]
    out, err = capsys.readouterr()
    assert out.split() == ["clip_seed1.mp4", "clip_seed2-2.mp4"]
    assert "kept: clip_seed1.mp4, clip_seed2-2.mp4" in err
    assert Path("clip_seed2.mp4").read_text() == "another's"
    assert main(["clip", "rocket", "--variant", "tiny", "-o", "clip.mp4"]) == 0
    assert "replaces clip.mp4" in capsys.readouterr().err


def test_a_defect_is_told_in_one_line_too(capsys, monkeypatch):
    monkeypatch.setattr(command_line, "VARIANTS", None)
    assert main(["variants"]) == 1
    assert capsys.readouterr().err.startswith("svdlab: AttributeError")


def test_the_picture_is_read_first(capsys, monkeypatch):
    monkeypatch.setattr(loading, "load", lambda setup: pytest.fail("weights were loaded"))
    monkeypatch.setattr(Setup, "fitting", lambda **_: pytest.fail("a setup was looked for"))
    assert main(["clip", "no-such.png"]) == 2
    assert "no-such.png" in capsys.readouterr().err


def test_plan_for_a_card_and_for_an_amount_of_memory(capsys):
    assert main(["plan", "--gpu", "RTX 3060"]) == 0
    table = capsys.readouterr().out
    assert re.match(
        r"svd-xt on RTX 3060 \(11.8 GiB, of which 11.. are free\), those that fit first:\noptimizations", table
    )
    assert re.search(r"\nmodel-offload, single-token .* tight +4\.\d to .* minutes", table)
    assert main(["plan", "--gpu", "RTX 3060", "--no-desktop"]) == 0
    assert "tight " not in capsys.readouterr().out.partition("Predicted")[0]
    assert main(["plan", "--memory", "8GB", "--optimization", "lean-decode"]) == 0
    table = capsys.readouterr().out
    assert all("lean-decode" in line for line in table.splitlines()[2:-4])
    fits = re.findall(r" (yes|tight|no)\n", table)
    assert fits == sorted(fits, key=["yes", "tight", "no"].index)
    assert {"yes", "tight", "no"} == {*fits}
    assert "minutes" not in table  # no times for a card that has no name
    assert main(["plan", "--memory", "2GB"]) == 0
    sentence = capsys.readouterr().out
    assert re.search(r"None fits\. The nearest needs .* GiB: group-offload", sentence)
    assert main(["plan", "--gpu", "RTX 3061"]) == 2
    assert "RTX 3060" in capsys.readouterr().err
    assert main(["plan", "--memory", "lots"]) == 2
    assert "memory='lots' is no amount of memory" in capsys.readouterr().err


def test_plan_for_every_card(capsys):
    assert main(["plan", "--num-inference-steps", "2"]) == 0
    table = capsys.readouterr().out
    assert all(name in table for name in CARDS)

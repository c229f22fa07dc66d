"""What `svdlab doctor` says of this machine, and of machines made worse on purpose: the real program in each case."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from svdlab.interface import doctor as readiness
from svdlab.interface.doctor import Check, Readiness, doctor

SECRET = "hf_DoNotShowThisToAnybody"


def shell(*options: str, code: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """`svdlab doctor` in a process of its own, after `code`."""
    program = [
        "-c",
        f"{code}\nfrom svdlab.interface.command_line import main\nraise SystemExit(main({['doctor', *options]!r}))",
    ]
    command = [sys.executable, *(program if code else ["-m", "svdlab", "doctor", *options])]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def here() -> Readiness:
    return doctor()


def state(found: dict, name: str) -> str:
    return next(check["state"] for check in found["checks"] if check["name"] == name)


def test_this_machine_makes_clips_and_every_line_says_what_to_do_where_it_is_not_well(here):
    assert here.ready
    names = [check.name for check in here.checks]
    assert {"Python", "torch", "attention", "device", "versions", "token", "weights", "disk", "video"} <= set(names)
    for check in here.checks:
        assert check.state in ("ok", "note", "problem")
        assert check.found
        assert check.todo or check.state == "ok", check
    assert str(here).endswith("This machine is ready.")
    assert repr(here) == str(here)
    assert "tiny is bundled" in str(here)


def test_json_is_for_a_bug_report_and_shows_no_token_and_touches_no_cache(tmp_path):
    home = tmp_path / "somebody"
    home.mkdir()
    done = shell("--json", HOME=str(home), HF_HOME=str(home / "hub"), HF_TOKEN=SECRET)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["ready"], bool(found["svdlab"])) == (True, True)
    assert "present (never shown)" in done.stdout
    assert SECRET not in done.stdout + done.stderr
    assert str(home) not in done.stdout
    assert "~" in next(check["found"] for check in found["checks"] if check["name"] == "disk")
    assert not (home / "hub").exists()


def test_a_token_that_cannot_be_sent_is_not_shown_either(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", f"{SECRET} {SECRET}")
    said = "\n".join(map(str, readiness._weights()))
    assert "another character that no token has" in said
    assert SECRET not in said


@pytest.mark.parametrize(
    ("code", "name", "sentence"),
    [
        ("import torch.nn.functional as f; del f.scaled_dot_product_attention", "attention", "Install torch 2.6"),
        ("import sys; sys.modules['av'] = None", "video", "cannot be told (ModuleNotFoundError"),
        ("import sys; sys.modules['torch'] = None", "torch", "cannot be told (ModuleNotFoundError"),
        ("import diffusers; import importlib.metadata as m; real = m.version\n"
         "m.version = lambda name: '0.20' if name == 'diffusers' else real(name)", "versions", "diffusers 0.20 ("),
    ],
    ids=["no fused attention", "no video library", "no torch", "an old library"],
)  # fmt: skip
def test_what_is_broken_is_a_problem_the_rest_is_still_told_and_scripts_see_it(code, name, sentence):
    done = shell("--json", code=code)
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    assert not found["ready"]
    assert state(found, name) == "problem"
    assert sentence in done.stdout
    assert state(found, "token") == "ok"


def test_a_card_that_this_torch_cannot_use_is_noticed(tmp_path):
    """A driver that answers, beside a torch that sees no card."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 580.95.05\n")
    program.chmod(0o755)
    import torch

    if torch.cuda.is_available():
        pytest.skip("this torch sees a card")
    found = json.loads(shell("--json", PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}").stdout)
    [driver] = [check for check in found["checks"] if check["name"] == "driver"]
    assert "580.95.05" in driver["found"]
    assert "sees no card" in driver["found"]
    assert driver["state"] in ("note", "problem")


def test_weights_that_are_cached_whole_or_cut_short(checkpoint, tmp_path, monkeypatch):
    from huggingface_hub import constants

    commit, folder = "0" * 40, tmp_path / "models--stabilityai--stable-video-diffusion-img2vid-xt"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    (folder / "snapshots").mkdir()
    copied = folder / "snapshots" / commit
    subprocess.run(["cp", "-r", str(checkpoint), str(copied)], check=True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))

    def weights() -> str:
        return "\n".join(map(str, readiness._weights()))

    assert "ok       weights       svd-xt is in the cache" in weights()
    assert "not in the cache: svd, svd-xt-1.1" in weights()
    assert "svd-xt-1.1 asks for a token" in weights()
    file = next((copied / "unet").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:300])
    assert "svd-xt is in the cache, not whole" in weights()
    assert "fetch it again" in weights()


def test_too_little_disk_is_a_note(monkeypatch, tmp_path):
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2**30))
    [disk] = [check for check in readiness._weights() if check.name == "disk"]
    assert disk.state == "note"
    assert "set HF_HOME to a larger disk" in disk.todo


def test_what_fits_is_predicted_where_there_is_time(monkeypatch):
    [fitting] = readiness.fits(["tiny"], 24 * 2**30)
    assert fitting.state == "ok"
    assert fitting.found.startswith('Setup("tiny") needs ')
    [none] = readiness.fits(["tiny"], 2**20)
    assert (none.state, "svdlab plan --variant tiny" in none.todo) == ("note", True)
    monkeypatch.setattr(readiness, "FITS_SECONDS", -1)
    [late] = readiness.fits(["svd-xt"], 24 * 2**30)
    assert "not predicted yet" in late.found
    assert "svdlab plan --variant svd-xt" in late.todo


def test_a_check_reads_well():
    assert str(Check("disk", "note", "1 GiB free", "Make room.")) == (
        "note     disk          1 GiB free\n                       -> Make room."
    )
    assert not Readiness((Check("video", "problem", "gone", "pip install av"),)).ready
    assert "problems to solve: 1." in str(Readiness((Check("video", "problem", "gone", "x"),)))

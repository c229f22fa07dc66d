"""What `svdlab doctor` says of this machine, and of machines made worse on purpose."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import pytest

from svdlab.interface import doctor as module
from svdlab.interface.command_line import main
from svdlab.interface.doctor import Check, Readiness, doctor
from svdlab.prediction.cards import find_card

SECRET = "hf_DoNotShowThisToAnybody"
GiB = 2**30


def by_name(text: str) -> dict[str, dict]:
    """The checks of `svdlab doctor --json` by name; of several one."""
    return {check["name"]: check for check in json.loads(text)["checks"]}


def test_this_machine_makes_clips_and_every_line_says_what_to_do_where_it_is_not_well():
    readiness = doctor()
    assert readiness.ready
    names = {check.name for check in readiness.checks}
    assert {"Python", "torch", "device", "versions", "token", "weights", "disk", "video"} <= names
    for check in readiness.checks:
        assert check.state in ("ok", "note", "problem")
        assert check.fact
        assert bool(check.todo) == (check.state != "ok"), check
    assert repr(readiness) == str(readiness)
    assert "tiny is bundled" in str(readiness)


def test_json_is_for_a_bug_report_and_shows_no_token_and_touches_no_cache(tmp_path):
    """The program itself, in an environment of its own; with a driver that answers beside a torch that sees no card."""
    home = tmp_path / "somebody"
    home.mkdir()
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 580.95.05\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    variables = {"HOME": str(home), "HF_HOME": str(home / "hub"), "HF_TOKEN": SECRET}
    variables |= {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "svdlab", "doctor", "--json"]
    process = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)
    checks = by_name(process.stdout)
    assert "present (never shown)" in process.stdout
    assert SECRET not in process.stdout + process.stderr
    assert str(home) not in process.stdout
    assert "~" in checks["disk"]["fact"]
    assert not (home / "hub").exists()
    assert "580.95.05" in checks["driver"]["fact"]
    assert checks["driver"]["state"] in ("note", "problem")
    assert process.returncode == (checks["driver"]["state"] == "problem")


def test_a_token_that_cannot_be_sent_is_not_shown_either(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", f"{SECRET} {SECRET}")
    token, *_ = module._weights()
    assert token.state == "note"
    assert SECRET not in str(token)


def remove_library(library):
    return lambda patch: patch.setitem(sys.modules, library, None)


def set_version(library, version):
    installed = module.installed
    return lambda patch: patch.setattr(
        module, "installed", lambda name: version if name == library else installed(name)
    )


def set_python_version(patch):
    patch.setattr("platform.python_version", lambda: "3.8.20")


@pytest.mark.parametrize(
    ("damage", "name", "words"),
    [
        (remove_library("av"), "video", "ModuleNotFoundError"),
        (remove_library("torch"), "torch", "ModuleNotFoundError"),
        (set_version("diffusers", "0.20"), "versions", "diffusers 0.20 ("),
        (set_version("papermill", "1.0"), "versions", "papermill 1.0 ("),
        (set_python_version, "Python", "3.8.20"),
    ],
    ids=["no video library", "no torch", "an old library", "an old library of an extra", "an old Python"],
)
def test_what_is_broken_is_a_problem_the_rest_is_still_told_and_scripts_see_it(
    monkeypatch, capsys, damage, name, words
):
    for file in ("read_video", "write_video", "gif"):  # to be imported anew, and put back as module and as attribute
        monkeypatch.delitem(sys.modules, f"svdlab.media.{file}", raising=False)
        monkeypatch.delattr(f"svdlab.media.{file}", raising=False)
    damage(monkeypatch)
    assert main(["doctor", "--json"]) == 1
    checks = by_name(capsys.readouterr().out)
    assert checks[name]["state"] == "problem"
    assert words in checks[name]["fact"]
    assert checks["token"]["state"] == "ok"


def test_weights_that_are_cached_whole_or_cut_short(checkpoint, tmp_path, monkeypatch):
    from huggingface_hub import constants

    commit, folder = "0" * 40, tmp_path / "models--stabilityai--stable-video-diffusion-img2vid-xt"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    snapshot = folder / "snapshots" / commit
    shutil.copytree(checkpoint, snapshot)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("svdlab.setup.best_device", lambda: "cpu")

    def weights() -> str:
        return "\n".join(map(str, module._weights()))

    assert "ok       weights       svd-xt is in the cache" in weights()
    assert "svd-xt-1.1 is not in the cache" in weights()
    assert "downloads 8.4 GiB" in weights()
    with monkeypatch.context() as card:
        card.setattr("svdlab.setup.best_device", lambda: "cuda")
        assert "svd-xt is in the cache, in another precision" in weights()
        assert "downloads 4.2 GiB" in weights()
    assert "asks for a token" in weights()
    file = next((snapshot / "unet").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:300])
    assert "svd-xt is in the cache, not whole" in weights()
    assert "fetch it again" in weights()


def test_too_little_disk_is_a_note(monkeypatch, tmp_path):
    monkeypatch.setattr("svdlab.setup.best_device", lambda: "cpu")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=6 * 2**30))  # enough in 16 bits alone
    [disk] = module._disk()
    assert disk.state == "note"
    assert "HF_HOME" in disk.todo


def test_a_missing_library_of_an_extra_is_a_note(monkeypatch):
    set_version("jupyterlab", None)(monkeypatch)
    notebooks, lab = module._notebooks()
    assert (notebooks.state, lab.state, lab.fact) == ("ok", "note", "missing: jupyterlab")


def test_an_old_tool_of_developers_keeps_no_clip_from_being_made(monkeypatch):
    set_version("ruff", "0.4")(monkeypatch)
    [versions] = module._versions()
    assert (versions.state, "ruff" in versions.fact) == ("ok", False)


def test_what_fits_is_what_a_plan_recommends():
    cards = [*map(find_card, ("RTX 4090", "RTX 4060", "RTX 2060", "2GB"))]
    large, eight, six, tiny_card = (module._fit("svd-xt", card) for card in cards)
    assert [fit.state for fit in (large, eight, six, tiny_card)] == ["ok", "ok", "ok", "note"]
    assert large.fact.startswith("svd-xt with fp16, single-token: ")
    assert "forward-chunking=5" in eight.fact
    assert "group-offload" in six.fact
    assert "forward-chunking=1" not in six.fact  # which brings the weights of a layer for each frame
    assert "svdlab plan --variant svd-xt" in tiny_card.todo
    tight = module._fit("svd-xt", dataclasses.replace(cards[2], taken_bytes=cards[2].memory_bytes // 2))
    assert (tight.state, "close the browser" in tight.todo) == ("note", True)


def test_a_check_reads_well():
    assert str(Check("disk", "note", "1 GiB free", "Make room.")) == (
        "note     disk          1 GiB free\n                       -> Make room."
    )
    broken = Readiness((Check("video", "problem", "gone", "pip install av"),))
    assert not broken.ready
    assert "problems to solve: 1." in str(broken)


@pytest.mark.parametrize(("version", "cudnn", "state"), [("2.9.1+cu128", 91002, "note"), ("2.9.1", 91501, "ok")])
def test_a_torch_whose_3d_convolutions_are_slow_is_named(monkeypatch, version, cudnn, state):
    import torch

    monkeypatch.setattr(torch, "__version__", version)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: cudnn)
    check, *_ = module._torch()
    assert (check.state, "with cuDNN 9.10: 3D" in check.fact) == (state, state == "note")

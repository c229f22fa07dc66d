"""`load` from the hub and from folders: what is fetched, and what is said when it cannot be."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
import socket
import subprocess
import sys
import traceback
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hub_server import HubServer
from huggingface_hub import constants
from published_layout import ANIMATELCM, ANIMATELCM_BYTES, write_animatelcm, write_repository

from svdlab import progress_bar
from svdlab.pipelines import hub as hub_module
from svdlab.pipelines.load import _check_memory, load, setup_of
from svdlab.setup import Setup
from svdlab.variants import VARIANTS

REPOSITORY = "svdlab/micro"
SECRET = "hf_ThisMustNeverBePrinted"


@pytest.fixture(scope="session")
def halved(micro):
    """`micro` in half precision: `save_pretrained(variant="fp16")` names files so, and converts nothing."""
    pipeline = copy.deepcopy(micro)
    return pipeline.to(torch.float16)


@pytest.fixture(scope="session")
def published_folder(micro, halved, tmp_path_factory) -> Path:
    """`micro` as Stability's repositories are: fp16 and full files, and what is not to be fetched."""
    folder = tmp_path_factory.mktemp("published")
    micro.save_pretrained(folder)
    halved.save_pretrained(folder, variant="fp16")
    for name in ("svd_xt.safetensors", "README.md", "unet/diffusion_pytorch_model.bin", "vae/extra.fp16.bin"):
        (folder / name).write_bytes(b"not to be fetched")
    return folder


@pytest.fixture(autouse=True)
def sandbox(monkeypatch, tmp_path):
    """An empty cache, no token, no waiting between tries, and no network but loopback."""
    from huggingface_hub import constants, file_download
    from huggingface_hub.utils import _http

    home = tmp_path / "hf"
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE", "HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", False)
    point_to(monkeypatch, "http://127.0.0.1:9")  # nothing listens there: a test without a server has no network
    without_waiting = SimpleNamespace(sleep=lambda seconds: None)
    monkeypatch.setattr(_http, "time", without_waiting)
    monkeypatch.setattr(file_download, "time", without_waiting)
    resolve = socket.getaddrinfo

    def only_loopback(host, *args, **kwargs):
        assert host in ("127.0.0.1", b"127.0.0.1"), f"a test asked for {host}"
        return resolve(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", only_loopback)
    _http.close_session()
    variant = dataclasses.replace(VARIANTS["svd"], name="hub-micro", repository=REPOSITORY, frames=6)
    monkeypatch.setitem(VARIANTS, variant.name, variant)
    yield
    _http.close_session()


def point_to(monkeypatch, endpoint: str) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def serve(monkeypatch):
    """`serve(folder)` starts a hub with that folder as its one commit, and points huggingface_hub to it."""
    servers: list[HubServer] = []

    def start(folder: Path, repository: str = REPOSITORY) -> HubServer:
        server = HubServer(repository, folder).__enter__()
        servers.append(server)
        point_to(monkeypatch, server.endpoint)
        return server

    yield start
    for server in servers:
        server.__exit__()


def setup(**fields: Any) -> Setup:
    settings: dict[str, Any] = {"device": "cpu", "dtype": "fp16"}
    return Setup("hub-micro", **(settings | fields))


def local(folder: Path, **fields: Any) -> Setup:
    return setup(weights=str(folder), **fields)


def refusal(question: Setup, kind: type[Exception] = hub_module.WeightsError) -> str:
    """The one sentence that `load` refuses with; the token is nowhere in it, nor in the errors it came from."""
    with pytest.raises(kind) as error:
        load(question)
    text = str(error.value)
    assert "\n" not in text
    assert text.endswith(".")
    assert SECRET not in "".join(traceback.format_exception(error.value))
    return text


@pytest.fixture
def folder(checkpoint, tmp_path) -> Path:
    """A copy of `checkpoint`, for a test to spoil."""
    return Path(shutil.copytree(checkpoint, tmp_path / "folder"))


@pytest.fixture
def repository(published_folder, tmp_path) -> Path:
    """A copy of `published_folder`, for a test to spoil."""
    return Path(shutil.copytree(published_folder, tmp_path / "repository"))


def set_free_disk(monkeypatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))


def files(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def blobs() -> list[Path]:
    from huggingface_hub import constants

    return list(Path(constants.HF_HUB_CACHE).glob("*/blobs/*"))


def same_weights(pipeline, micro, dtype) -> bool:
    """Whether every tensor of `pipeline` is `micro`'s, rounded to half precision and then to `dtype`."""
    pairs = ((getattr(pipeline, c).state_dict(), getattr(micro, c).state_dict()) for c in hub_module.COMPONENTS)
    return all(torch.equal(tensors[n], expected[n].half().to(dtype)) for tensors, expected in pairs for n in expected)


# What is fetched


def test_a_download_holds_the_fp16_files_and_nothing_else(serve, published_folder, micro):
    server = serve(published_folder)
    pipeline = load(setup())
    assert same_weights(pipeline, micro, torch.float16)
    assert server.fetched_files() == {
        "model_index.json",
        "feature_extractor/preprocessor_config.json",
        "image_encoder/config.json",
        "image_encoder/model.fp16.safetensors",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.fp16.safetensors",
    }


def test_fp32_fetches_the_full_files(serve, published_folder, micro):
    server = serve(published_folder)
    pipeline = load(setup(dtype="fp32"))
    assert torch.equal(pipeline.unet.conv_in.weight, micro.unet.conv_in.weight)
    weights = {name for name in server.fetched_files() if name.endswith(".safetensors")}
    assert weights == {
        "image_encoder/model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    }


def test_bf16_is_read_from_the_fp16_files(serve, published_folder, micro):
    server = serve(published_folder)
    assert same_weights(load(setup(dtype="bf16")), micro, torch.bfloat16)
    assert all(".fp16." in name for name in server.fetched_files() if name.endswith(".safetensors"))


def test_the_second_load_needs_no_network(serve, published_folder, micro):
    server = serve(published_folder)
    first = setup_of(load(setup()))
    server.stop()
    second = load(setup())
    assert same_weights(second, micro, torch.float16)
    assert setup_of(second) == first


def test_the_second_load_needs_no_network_offline(serve, published_folder, monkeypatch):
    from huggingface_hub import constants

    server = serve(published_folder)
    first = setup_of(load(setup()))
    server.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert setup_of(load(setup())) == first
    assert server.requests == []


def test_what_is_cached_loads_while_the_hub_is_down_or_refuses(serve, published_folder, micro):
    server = serve(published_folder)
    load(setup())
    server.status = 503
    assert same_weights(load(setup()), micro, torch.float16)
    server.status, server.private = None, True
    assert same_weights(load(setup()), micro, torch.float16)


def test_a_cache_of_fp16_files_does_not_pass_for_the_full_ones(serve, published_folder):
    server = serve(published_folder)
    load(setup())
    server.stop()
    assert "is not in the cache" in refusal(setup(dtype="fp32"))
    for listing in Path(constants.HF_HUB_CACHE).rglob("trees"):  # older versions of the hub's library keep none
        shutil.rmtree(listing)
    assert "is not in the cache" in refusal(setup(dtype="fp32"))
    load(setup())


def test_sharded_fp16_files_load(serve, halved, micro, tmp_path):
    halved.save_pretrained(tmp_path / "sharded", variant="fp16", max_shard_size="1MB")
    server = serve(tmp_path / "sharded")
    pipeline = load(setup())
    assert same_weights(pipeline, micro, torch.float16)
    assert sum(name.startswith("unet/") and name.endswith(".safetensors") for name in server.fetched_files()) > 1
    assert same_weights(load(local(tmp_path / "sharded")), micro, torch.float16)


def test_a_missing_shard_is_refused(halved, tmp_path):
    halved.save_pretrained(tmp_path, variant="fp16", max_shard_size="1MB")
    shard = max((tmp_path / "unet").glob("*.safetensors"))
    shard.unlink()
    text = refusal(local(tmp_path))
    assert str(tmp_path) in text
    assert "missing" in text


# Revisions


def test_branch_tag_and_commit_are_honoured_and_the_setup_names_the_commit(serve, published_folder, micro, tmp_path):
    server = serve(published_folder)
    newest = server.refs["main"]
    other = tmp_path / "other"
    shutil.copytree(published_folder, other)
    config = json.loads((other / "scheduler/scheduler_config.json").read_text())
    (other / "scheduler/scheduler_config.json").write_text(json.dumps(config | {"sigma_max": 80.0}))
    older = server.commit(other, "v1", "trial/branch")
    for revision, commit, sigma_max in (
        (None, newest, 700.0),
        ("main", newest, 700.0),
        ("v1", older, 80.0),
        ("trial/branch", older, 80.0),
        (older, older, 80.0),
    ):
        pipeline = load(setup(revision=revision))
        loaded = setup_of(pipeline)
        assert loaded is not None
        assert loaded.revision == commit
        assert pipeline.scheduler.config["sigma_max"] == sigma_max
    assert setup_of(load(Setup.from_json(loaded.to_json()))) == loaded  # what was recorded makes it again


def test_an_unknown_revision_is_refused(serve, published_folder):
    server = serve(published_folder)
    text = refusal(setup(revision="v9"))
    assert text == f"{REPOSITORY} has no revision 'v9': look it up at {server.endpoint}/{REPOSITORY}/commits/main."
    assert "has no revision" in refusal(setup(revision="a" * 40))


# Refusals of the hub


def test_a_gated_repository_without_a_token(serve, published_folder):
    server = serve(published_folder)
    server.gated = True
    text = refusal(setup())
    assert text.startswith(f"{REPOSITORY} is gated, and no token was given: accept its licence at {server.endpoint}/")
    assert "`hf auth login`" in text
    assert "HF_TOKEN" in text


def test_a_gated_repository_whose_licence_was_not_accepted(serve, published_folder, monkeypatch):
    server = serve(published_folder)
    server.gated, server.strangers = True, {SECRET}
    monkeypatch.setenv("HF_TOKEN", SECRET)
    assert "is gated, and the token given has no access to it: accept its licence at " in refusal(setup())


def test_a_gated_repository_opens_to_the_right_token(serve, published_folder, micro, monkeypatch):
    server = serve(published_folder)
    server.gated, server.readers = True, {SECRET}
    monkeypatch.setenv("HF_TOKEN", SECRET)
    assert same_weights(load(setup()), micro, torch.float16)
    assert server.authorizations == {f"Bearer {SECRET}"}


@pytest.mark.parametrize("token", [None, SECRET])
def test_a_repository_that_is_private_or_missing(serve, published_folder, monkeypatch, token):
    server = serve(published_folder)
    server.private, server.strangers = True, {SECRET}
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    text = refusal(setup())
    why = "the token given has no access to it" if token else "it asks for a token and none was given"
    assert text.startswith(f"{REPOSITORY} was not found on the hub, or {why}: open {server.endpoint}/{REPOSITORY}")


def test_a_token_that_the_hub_does_not_know(serve, published_folder, monkeypatch):
    serve(published_folder)
    monkeypatch.setenv("HF_TOKEN", SECRET)
    text = refusal(setup())
    assert text.startswith(f"The hub refuses the token given for {REPOSITORY} (401: ")
    assert "HF_TOKEN" in text


def test_a_token_without_the_right_to_read_gated_repositories(serve, published_folder, monkeypatch):
    serve(published_folder).status = 403
    monkeypatch.setenv("HF_TOKEN", SECRET)
    assert refusal(setup()).startswith(f"The hub refuses the token given for {REPOSITORY} (403: ")


@pytest.mark.parametrize("token", [f"{SECRET} {SECRET}", f"{SECRET}\x01", f"{SECRET}…"])
def test_a_token_that_cannot_be_sent_is_not_printed(serve, published_folder, monkeypatch, token):
    server = serve(published_folder)
    monkeypatch.setenv("HF_TOKEN", token)
    assert "token holds a space or another character" in refusal(setup())
    assert server.requests == []


# No network


def test_no_network_and_nothing_in_the_cache():
    from huggingface_hub import constants

    text = refusal(setup())
    assert text.startswith(f"{REPOSITORY} is not in the cache ({constants.HF_HUB_CACHE}) and the hub cannot be reached")
    assert "weights='random', or Setup('tiny')" in text
    assert "the hub cannot be reached" in refusal(setup(revision="a" * 40))


def test_offline_mode_and_nothing_in_the_cache(serve, published_folder, monkeypatch):
    from huggingface_hub import constants

    server = serve(published_folder)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    text = refusal(setup())
    assert "is not in the cache" in text
    assert "unset HF_HUB_OFFLINE" in text
    assert server.requests == []


def test_a_hub_that_is_down(serve, published_folder):
    serve(published_folder).status = 503
    text = refusal(setup())
    assert "the hub cannot be reached" in text
    assert "503" in text


def test_a_hub_that_accepts_and_never_answers(monkeypatch):
    monkeypatch.setattr(hub_module, "ANSWER_SECONDS", 0.2)
    assert hub_module.ANSWER_SECONDS < 20
    with socket.create_server(("127.0.0.1", 0)) as listener:
        point_to(monkeypatch, f"http://127.0.0.1:{listener.getsockname()[1]}")
        text = refusal(setup())
    assert "the hub cannot be reached (ReadTimeout" in text


def test_control_characters_of_an_answer_are_removed(serve, published_folder):
    server = serve(published_folder)
    server.status, server.message = 503, "\x1b[2J\x07 down \x9b31m"
    assert refusal(setup()).isprintable()


def test_a_download_shows_its_progress_without_a_terminal(serve, published_folder, capfd):
    serve(published_folder)
    load(setup())
    assert "100%" in capfd.readouterr().err
    load(setup())
    assert capfd.readouterr().err == ""


def test_bars_that_a_download_leaves_open_print_nothing_later(serve, published_folder, capfd, monkeypatch):
    bars = []
    monkeypatch.setattr(progress_bar.Progress, "__init__", record_instances(bars, progress_bar.Progress.__init__))
    serve(published_folder)
    load(setup())
    capfd.readouterr()
    assert bars
    for bar in bars:
        bar.close()
    assert capfd.readouterr().err == ""


def record_instances(instances, method):
    """The method, which also notes whose it is."""

    def record(self, *args, **options):
        instances.append(self)
        method(self, *args, **options)

    return record


def test_a_download_cut_in_the_middle_leaves_nothing_torn_and_goes_on(serve, published_folder, micro):
    server = serve(published_folder)
    server.cut = "unet/diffusion_pytorch_model"
    text = refusal(setup())
    assert text.startswith(f"Downloading {REPOSITORY} stopped (")
    assert "run it again" in text
    sizes = {(published_folder / name).stat().st_size for name in files(published_folder)}
    assert {blob.stat().st_size for blob in blobs()} <= sizes  # whole files only
    server.status = 503
    assert "is not in the cache" in refusal(setup())  # what is there does not pass for the whole
    server.status, server.cut = None, ""
    kept = {blob.name for blob in blobs()}
    assert kept, "what had arrived is kept"
    server.requests.clear()
    assert same_weights(load(setup()), micro, torch.float16)
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in server.fetched_files()
    assert len(server.fetched_files()) == len(blobs()) - len(kept)


def test_a_disk_that_fills_up_while_downloading(serve, published_folder, disk, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(disk / "hub"))
    monkeypatch.setattr(hub_module, "_check_disk", lambda *_: None)  # as where somebody else fills it meanwhile
    serve(published_folder)
    text = refusal(setup())
    assert text.startswith(f"Downloading {REPOSITORY} stopped (")
    assert "No space left" in text
    assert "HF_HOME" in text


def test_what_diffusers_has_downloaded_is_used(serve, published_folder, micro, monkeypatch):
    """Somebody who has run diffusers' own guide has the weights already."""
    from diffusers import StableVideoDiffusionPipeline
    from huggingface_hub import hf_api

    server = serve(published_folder)
    monkeypatch.setattr(hf_api.api, "endpoint", server.endpoint)
    StableVideoDiffusionPipeline.from_pretrained(REPOSITORY, variant="fp16", dtype=torch.float16)
    server.stop()
    assert same_weights(load(setup()), micro, torch.float16)


@pytest.fixture(scope="session")
def published_repository(tmp_path_factory):
    """`published_repository("svd-xt")`: a published repository at its true size, in sparse files."""
    home = tmp_path_factory.mktemp("repositories")
    return cache(lambda name: write_repository(VARIANTS[name], home / name))


@pytest.mark.parametrize(
    "name", [pytest.param("svd", marks=pytest.mark.slow), pytest.param("svd-xt", marks=pytest.mark.slow), "svd-xt-1.1"]
)
def test_of_a_published_repository_the_pipelines_own_files_are_planned(published_repository, serve, monkeypatch, name):
    """Of 23 to 33 GB the 4.5 that are needed, and a gated one is told apart before anything is fetched."""
    variant = VARIANTS[name]
    server = serve(published_repository(name), str(variant.repository))
    server.gated = variant.gated
    sizes = []
    monkeypatch.setattr(hub_module, "_check_disk", lambda needed, *_: sizes.append(needed) or 1 / 0)
    for dtype, size in (("fp16", variant.download_bytes), ("fp32", 2 * variant.download_bytes)):
        if server.gated:
            assert "is gated, and no token was given" in refusal(Setup(name, device="cpu", dtype=dtype))
            monkeypatch.setenv("HF_TOKEN", SECRET)
            server.readers.add(SECRET)
        with pytest.raises(ZeroDivisionError):
            load(Setup(name, device="cpu", dtype=dtype))
        assert sizes.pop() == pytest.approx(size, rel=1e-3)
        monkeypatch.delenv("HF_TOKEN", raising=False)


def test_animatelcm_is_a_unet_alone_and_refused_by_saying_so(serve, tmp_path):
    """However it is named; nothing of its 12 GB is fetched."""
    folder = write_animatelcm(tmp_path / "repository")
    assert (folder / "AnimateLCM-SVD-xt.safetensors").stat().st_size == pytest.approx(ANIMATELCM_BYTES, rel=1e-3)
    for weights in (str(folder), ANIMATELCM, str(folder / "AnimateLCM-SVD-xt.safetensors")):
        assert "a UNet alone" in refusal(Setup("svd-xt", weights=weights, device="cpu"))
    with pytest.raises(ValueError, match=r"expected one of .*a UNet alone"):
        Setup("AnimateLCM-SVD-xt")
    server = serve(folder, ANIMATELCM)
    with pytest.raises(hub_module.WeightsError, match="has no full-precision safetensors files for its unet"):
        hub_module.fetch(dataclasses.replace(VARIANTS["svd-xt"], repository=ANIMATELCM), half=False)
    assert server.fetched_files() == set()


@pytest.mark.slow
def test_svd_xt_is_downloaded_stopped_resumed_and_loaded_in_little_memory(published_repository, serve):
    """All 4.5 GB over loopback: the second try fetches what the first lacked, and loading holds the weights once."""
    from huggingface_hub import constants

    server = serve(published_repository("svd-xt"), str(VARIANTS["svd-xt"].repository))
    server.cut = "unet/"
    assert "run it again" in refusal(Setup("svd-xt", device="cpu", dtype="fp16"))
    server.cut = ""
    folder = hub_module.fetch(VARIANTS["svd-xt"], half=True)
    assert server.resumed["unet/diffusion_pytorch_model.fp16.safetensors"] > 10**9
    assert constants.HF_HUB_CACHE in str(folder)
    assert max(peaks_over_weights(folder, "fp16")) < 1.1
    assert peaks_over_weights(folder, "bf16")[0] < 1.1  # resident up to 1.7: files mapped, which the system takes back


PEAKS = """
import sys, threading, time
from diffusers import StableVideoDiffusionPipeline
from transformers import CLIPVisionModelWithProjection
from svdlab import Setup, load
def memory(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name)) * 1024
def watch():
    while True:
        own.append(memory("RssAnon"))
        time.sleep(0.02)
own, resident = [memory("RssAnon")], memory("VmRSS")
threading.Thread(target=watch, daemon=True).start()
pipeline = load(Setup("svd-xt", weights=sys.argv[1], dtype=sys.argv[2], device="cpu"))
for module in (pipeline.unet, pipeline.vae, pipeline.image_encoder):
    for tensor in module.parameters():
        tensor.view(-1)[::1024].sum()  # every page is read, as when it goes to a card
print((max(own) - own[0]) / 4_508_885_458, (memory("VmHWM") - resident) / 4_508_885_458)
"""


def peaks_over_weights(folder: Path, dtype: str) -> list[float]:
    """The most memory while SVD-XT is loaded over what its weights take: the process's own, and with mapped files."""
    command = [sys.executable, "-c", PEAKS, str(folder), dtype]
    return [float(number) for number in subprocess.run(command, check=True, capture_output=True).stdout.split()]


# What the files are


def test_a_repository_without_fp16_files_for_one_component(serve, repository):
    (repository / "vae/diffusion_pytorch_model.fp16.safetensors").unlink()
    server = serve(repository)
    text = refusal(setup())
    assert text.startswith(f"{REPOSITORY} has no fp16 safetensors files for its vae (")
    assert "use dtype='fp32'" in text
    assert server.fetched_files() == set()  # said before four gigabytes are fetched
    assert load(setup(dtype="fp32")).vae.dtype == torch.float32


def test_a_repository_of_bin_files_only(serve, published_folder, tmp_path):
    folder = tmp_path / "repository"
    shutil.copytree(published_folder, folder, ignore=shutil.ignore_patterns("diffusion_pytorch_model*.safetensors"))
    serve(folder)
    text = refusal(setup())
    assert "has no fp16 safetensors files for its unet (*.bin files are not read, because they can run code)" in text


def test_a_folder_of_bin_files_only(published_folder, tmp_path):
    folder = tmp_path / "folder"
    shutil.copytree(published_folder, folder, ignore=shutil.ignore_patterns("diffusion_pytorch_model*.safetensors"))
    text = refusal(local(folder))
    assert "only diffusion_pytorch_model.bin, which is not read because it can run code" in text
    assert "safe_serialization=True" in text


def test_a_folder_without_weights_for_one_component(checkpoint, tmp_path):
    folder = tmp_path / "folder"
    shutil.copytree(checkpoint, folder, ignore=shutil.ignore_patterns("image_encoder"))
    assert refusal(local(folder)).startswith(f"{folder / 'image_encoder'} has no safetensors weights (none)")


def test_a_folder_of_one_kind_serves_both(checkpoint, halved, micro, tmp_path):
    assert same_weights(load(local(checkpoint)), micro, torch.float16)  # full files, read as fp16
    halved.save_pretrained(tmp_path, variant="fp16")
    assert same_weights(load(local(tmp_path, dtype="fp32")), micro, torch.float32)


def test_a_folder_of_mixed_kinds_names_the_component(checkpoint, halved, tmp_path):
    folder = tmp_path / "mixed"
    shutil.copytree(checkpoint, folder)
    shutil.rmtree(folder / "unet")
    halved.unet.save_pretrained(folder / "unet", variant="fp16")
    assert refusal(local(folder, dtype="fp32")).startswith(f"{folder / 'unet'} lacks the full-precision safetensors")
    assert refusal(local(folder)).startswith(f"{folder / 'vae'} lacks the fp16 safetensors")


@pytest.mark.parametrize("length", [0, 5, 300, -1], ids=["empty", "length torn", "header torn", "body torn"])
@pytest.mark.parametrize("component", ["unet", "image_encoder"])
def test_a_file_cut_short_is_named(folder, component, length):
    (file,) = (folder / component).glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:length])
    text = refusal(local(folder, dtype="fp32"))
    assert text.startswith(f"{file} is corrupted or cut short (")
    assert f"delete {file} and fetch it again" in text


def test_a_corrupted_file_of_the_hub_is_mended_as_the_sentence_says(serve, repository, micro):
    file = repository / "unet/diffusion_pytorch_model.fp16.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])  # the server's own copy: length and ETag agree with it
    server = serve(repository)
    text = refusal(setup())
    blob = next(blob for blob in blobs() if blob.stat().st_size == len(content) // 2)
    assert f"delete {blob} and fetch it again." in text
    file.write_bytes(content)
    server.stop()
    assert f"delete {blob} " in refusal(setup())  # it stays refused, with or without the hub
    blob.unlink()
    serve(repository)
    assert same_weights(load(setup()), micro, torch.float16)


@pytest.mark.parametrize("component", ["unet", "vae", "image_encoder"])
def test_a_tensor_that_is_missing_is_not_made_up(folder, component):
    from safetensors.torch import load_file, save_file

    (file,) = (folder / component).glob("*.safetensors")
    tensors = load_file(file)
    name = sorted(tensors)[0]
    del tensors[name]
    save_file(tensors, file, metadata={"format": "pt"})
    assert f"lacks 1 of its tensors ({name} first)" in refusal(local(folder, dtype="fp32"))


def test_a_tensor_of_another_shape_is_refused(folder):
    config = json.loads((folder / "unet/config.json").read_text())
    (folder / "unet/config.json").write_text(json.dumps(config | {"cross_attention_dim": 8}))
    text = refusal(local(folder, dtype="fp32"))
    assert text.startswith(f"The weights in {folder} cannot be read (")


def test_a_folder_without_a_pipeline_is_refused(tmp_path):
    text = refusal(local(tmp_path / "nowhere"))
    assert text.endswith("is neither 'hub', 'bundled', 'random' nor a folder that exists.")
    assert f"{tmp_path} holds no model_index.json" in refusal(local(tmp_path))


# model_index.json says what is imported: it must not be able to run code


@pytest.fixture
def change_index(folder, tmp_path, monkeypatch):
    """`change_index(changes)` gives a folder with those lines in its model_index.json; its code tells if it runs."""
    for place in (folder / "evil.py", folder / "unet/evil.py", tmp_path / "evil.py"):
        place.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\nclass UNet: pass\n")
    monkeypatch.syspath_prepend(tmp_path)

    def change(changes: dict) -> Path:
        index = json.loads((folder / "model_index.json").read_text())
        (folder / "model_index.json").write_text(json.dumps(index | changes))
        return folder

    yield change
    assert not (tmp_path / "ran").exists()
    assert "evil" not in sys.modules


@pytest.mark.parametrize("name", ["StableDiffusionPipeline", ["evil", "Evil"], None])
def test_another_pipeline_is_refused(change_index, name):
    folder = change_index({"_class_name": name})
    assert f"is of {name!r}, and only 'StableVideoDiffusionPipeline' is loaded" in refusal(local(folder))


@pytest.mark.parametrize("component", ["unet", "scheduler", "feature_extractor", "something_new"])
def test_a_component_from_elsewhere_is_refused(change_index, component):
    folder = change_index({component: ["evil", "Evil"]})
    text = refusal(local(folder))
    assert f"gives ['evil', 'Evil'] as its {component}, expected" in text
    assert "could run code" in text


def test_another_class_of_a_known_library_is_refused(change_index):
    text = refusal(local(change_index({"unet": ["diffusers", "UNet2DModel"]})))
    assert "expected ['diffusers', 'UNetSpatioTemporalConditionModel']" in text


def test_remote_code_named_in_a_config_does_not_run(change_index, micro):
    folder = change_index({})
    for file, code in (
        ("image_encoder/config.json", {"auto_map": {"AutoModel": "evil.Evil"}}),
        ("feature_extractor/preprocessor_config.json", {"auto_map": {"AutoImageProcessor": "evil.Evil"}}),
        ("unet/config.json", {"auto_map": {"AutoModel": "evil.UNet"}}),
    ):
        shutil.copy(folder / "evil.py", (folder / file).parent)
        config = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(config | code))
    assert same_weights(load(local(folder)), micro, torch.float16)


def test_a_model_index_that_is_not_json_or_lacks_a_component(folder):
    index = json.loads((folder / "model_index.json").read_text())
    del index["vae"]
    (folder / "model_index.json").write_text(json.dumps(index))
    assert "names no vae" in refusal(local(folder))
    (folder / "model_index.json").write_text("<html>a proxy's login page</html>")
    assert "is not JSON" in refusal(local(folder))


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"_class_name": ' + "[" * 100_000, '{"sample_size": ' + "[" * 100_000]
)
def test_a_model_index_of_endless_depth_is_one_sentence(folder, text):
    (folder / "model_index.json").write_text(text)
    assert "is not JSON" in refusal(local(folder))


@pytest.mark.parametrize("file", ["unet/config.json", "image_encoder/config.json", "scheduler/scheduler_config.json"])
@pytest.mark.parametrize("text", ["[" * 100_000, '{"block_out_channels": 5, "hidden_size": {}, "beta_end": []}'])
def test_a_configuration_that_holds_anything_is_one_sentence(folder, file, text):
    (folder / file).write_text(text)
    assert "cannot be read" in refusal(local(folder, dtype="fp32"))


def test_a_folder_that_links_outside_itself_is_refused_by_saying_so(folder, tmp_path):
    elsewhere = tmp_path / "mine.safetensors"
    (file,) = (folder / "unet").glob("*.safetensors")
    file.rename(elsewhere)
    file.symlink_to(elsewhere)
    elsewhere.write_bytes(b"precious")
    text = refusal(local(folder))
    assert text.startswith(f"{file} is a link to {elsewhere}, outside the folder")
    assert "delete" not in text


def test_a_snapshot_of_the_cache_loads_by_its_path(serve, published_folder, micro, tmp_path):
    """Its files are links to ../../blobs; a link that leaves the repository's folder in the cache is refused."""
    from huggingface_hub import constants

    serve(published_folder)
    commit = getattr(setup_of(load(setup())), "revision", "")
    (snapshot,) = Path(constants.HF_HUB_CACHE).glob(f"*/snapshots/{commit}")
    file = snapshot / "unet/diffusion_pytorch_model.fp16.safetensors"
    assert file.is_symlink()
    assert same_weights(load(local(snapshot)), micro, torch.float16)
    elsewhere = file.resolve().rename(tmp_path / "elsewhere.safetensors")
    file.unlink()
    file.symlink_to(elsewhere)
    assert refusal(local(snapshot)).startswith(f"{file} is a link to {elsewhere}, outside the folder")


# Room


def test_too_little_disk(serve, published_folder, monkeypatch):
    from huggingface_hub import constants

    server = serve(published_folder)
    set_free_disk(monkeypatch, 1)
    text = refusal(setup())
    assert text.startswith(f"{REPOSITORY} needs 0.0 GB more in {constants.HF_HUB_CACHE}, where 0.0 GB are free: ")
    assert "HF_HOME" in text
    assert server.fetched_files() == set()


def test_what_is_cached_needs_no_disk(serve, published_folder, micro, monkeypatch):
    serve(published_folder)
    load(setup())
    set_free_disk(monkeypatch, 0)
    assert same_weights(load(setup()), micro, torch.float16)


def test_the_published_model_needs_over_four_gigabytes_of_disk(monkeypatch, tmp_path):
    set_free_disk(monkeypatch, 1_300_000_000)
    with pytest.raises(hub_module.WeightsError, match=r"svd needs 4\.5 GB more in .*, where 1\.3 GB are free: make"):
        hub_module._check_disk(VARIANTS["svd"].download_bytes, tmp_path / "not/there/yet", "svd")


def test_too_little_memory(checkpoint, monkeypatch):
    monkeypatch.setattr("svdlab.pipelines.load.free_bytes", lambda device: 1000)
    text = refusal(local(checkpoint, dtype="fp32"), MemoryError)
    assert text.startswith(f"The weights in {checkpoint} take 0.0 GiB and 0.0 GiB are free on cpu: ")
    assert "a smaller variant" in text
    assert "model-offload" not in text  # it needs a card


def test_memory_that_a_deleted_pipeline_had_is_free(monkeypatch):
    free = [2 * 2**30]
    monkeypatch.setattr("svdlab.pipelines.load.free_bytes", lambda device: free[0])
    monkeypatch.setattr("svdlab.pipelines.load.free_memory", lambda: free.append(free.pop() + 12 * 2**30))
    _check_memory(4 * 2**30, "cuda", "The weights")


def test_memory_is_asked_for_in_the_precision_that_is_loaded(checkpoint, halved, tmp_path, monkeypatch):
    stored = sum(file.stat().st_size for file in checkpoint.rglob("*.safetensors"))
    monkeypatch.setattr("svdlab.pipelines.load.free_bytes", lambda device: stored * 3 // 4)
    refusal(local(checkpoint, dtype="fp32"), MemoryError)
    halved.save_pretrained(tmp_path)  # without "fp16" in the files' names
    refusal(local(tmp_path, dtype="fp32"), MemoryError)
    for folder in (checkpoint, tmp_path):
        assert load(local(folder, dtype="fp16")).unet.dtype == torch.float16

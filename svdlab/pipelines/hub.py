"""Published weights, and folders of weights: fetched once, checked before anything is built from them.

The hub's repositories hold the same weights twice; only safetensors and configuration files of this pipeline are
fetched, into the Hugging Face cache. Other formats, and classes of other libraries, could run code: they are refused.
Whatever goes wrong becomes a `WeightsError` of one sentence, with the way out.
"""

from __future__ import annotations

import errno
import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

from svdlab.messages import first_line, shorten
from svdlab.progress_bar import closing_bars
from svdlab.variants import Variant, explain_unloadable

COMPONENTS = {  # those with weights, and the library and class that a model_index.json must name
    "unet": ["diffusers", "UNetSpatioTemporalConditionModel"],
    "vae": ["diffusers", "AutoencoderKLTemporalDecoder"],
    "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
}
_PIPELINE = "StableVideoDiffusionPipeline"
_KIND = {True: "fp16", False: "full-precision"}
ANSWER_SECONDS = 10  # huggingface_hub's own first question waits for ever


class WeightsError(RuntimeError):
    """Weights cannot be had or read; the message says which, why, and the way out."""


def fetch(variant: Variant, *, half: bool, revision: str | None = None) -> Path:
    """The folder of a variant's published weights, named by its commit; what the cache lacks is downloaded.

    Args:
        variant: one that is on the hub.
        half: fetch the fp16 files (4.2 GiB) rather than the full ones.
        revision: a branch, tag or commit; default: the main branch.

    Raises:
        WeightsError: the hub refuses or does not answer and the cache lacks a file, or the disk is too small.
    """
    from huggingface_hub import HfApi, constants, errors, snapshot_download

    check_token()
    repository, downloading = str(variant.repository), False
    patterns = ["model_index.json", "scheduler/*.json", "feature_extractor/*.json"]
    for component in COMPONENTS:
        patterns += [f"{component}/*.json", f"{component}/*{'.fp16' if half else ''}*.safetensors"]
    files: dict[str, Any] = {"repo_id": repository, "revision": revision, "allow_patterns": patterns}
    files["ignore_patterns"] = None if half else ["*.fp16*"]
    try:
        try:
            HfApi().model_info(repository, revision=revision, timeout=ANSWER_SECONDS)
            listing = snapshot_download(**files, dry_run=True)
        except (OSError, errors.HTTPError) as refusal:  # pyright: ignore[reportPrivateImportUsage]  (httpx's)
            if folder := _cached_folder(files):
                return folder
            raise (refusal.__cause__ or refusal) if isinstance(refusal, errors.DryRunError) else refusal from None
        weights = {file.filename.split("/")[0] for file in listing if file.filename.endswith(".safetensors")}
        if lacking := next((component for component in COMPONENTS if component not in weights), None):
            raise WeightsError(
                f"{repository} has no {_KIND[half]} safetensors files for its {lacking} (*.bin files are not "
                f"read, because they can run code): use dtype={'fp32' if half else 'fp16'!r}, or another revision."
            )
        missing_bytes = sum(file.file_size or 0 for file in listing if file.will_download)
        _check_disk(missing_bytes, Path(constants.HF_HUB_CACHE), repository)
        downloading = missing_bytes > 0
        with closing_bars() as bar:
            if downloading:  # huggingface_hub's own bars hide where there is no terminal, as in a notebook
                files["tqdm_class"] = bar
            return Path(snapshot_download(**files))
    except (OSError, errors.HTTPError) as error:  # pyright: ignore[reportPrivateImportUsage]
        raise WeightsError(_sentence(error, repository, revision, downloading)) from error


def _cached_folder(files: dict[str, Any]) -> Path | None:
    """The folder in the cache that holds all files that are asked for, whatever the hub says; None where one lacks."""
    from huggingface_hub import errors, snapshot_download

    try:
        folder = Path(snapshot_download(**files, local_files_only=True))
    except errors.LocalEntryNotFoundError:
        return None
    is_half = files["ignore_patterns"] is None  # some caches do not know what is missing: see for ourselves
    weights = [[".fp16" in file.name for file in (folder / each).glob("*.safetensors")] for each in COMPONENTS]
    return folder if all(is_half in kinds for kinds in weights) else None


def is_cached(variant: Variant, *, half: bool, revision: str | None = None) -> bool:
    """Whether a variant's published weights are on this machine, told by the largest of their files.

    Args:
        variant: one that is on the hub.
        half: as for `fetch`.
        revision: as for `fetch`.
    """
    from huggingface_hub import try_to_load_from_cache

    file = f"unet/diffusion_pytorch_model{'.fp16' if half else ''}.safetensors"
    return isinstance(try_to_load_from_cache(str(variant.repository), file, revision=revision), str)


def check_folder(folder: Path, *, half: bool) -> dict[str, list[Path]]:
    """The safetensors files to read, by component; a folder with files of one kind alone serves both.

    Args:
        folder: in the hub's layout, or a snapshot in the hub's cache.
        half: take the fp16 files rather than the full ones.

    Raises:
        WeightsError: something is missing, damaged, of another model, or a link that leads out of the folder.
    """
    root = folder.resolve()
    home = root.parents[1] if root.parent.name == "snapshots" else root  # in the cache, files are links to ../../blobs
    for file in [*folder.glob("*.json"), *folder.glob("*/*")]:
        if not file.resolve().is_relative_to(home):
            raise WeightsError(f"{file} is a link to {file.resolve()}, outside the folder: put the file itself there.")
    _check_index(folder / "model_index.json")
    by_kind: dict[bool, dict[str, list[Path]]] = {True: {}, False: {}}
    for component in COMPONENTS:
        files = sorted((folder / component).glob("*.safetensors"))
        if not files:
            others = sorted(file.name for file in (folder / component).glob("*.bin"))
            reason = f"only {others[0]}, which is not read because it can run code" if others else "none"
            raise WeightsError(
                f"{folder / component} has no safetensors weights ({reason}): download the repository's "
                "*.safetensors files, or save them again with safe_serialization=True."
            )
        for kind, chosen in by_kind.items():
            chosen[component] = [file for file in files if (".fp16" in file.name) == kind]
    chosen = by_kind[half] if all(by_kind[half].values()) else by_kind[not half]
    if not all(chosen.values()):
        lacking = next(component for component, files in by_kind[half].items() if not files)
        kind = f"the {_KIND[half]} safetensors files that other components have"
        raise WeightsError(f"{folder / lacking} lacks {kind}: download the folder again, all of one kind.")
    for files in chosen.values():
        for file in files:
            tensor_sizes(file)
    return chosen


def tensor_sizes(file: Path) -> dict[str, int]:
    """How many values each tensor of a safetensors file has; a `WeightsError` where it is damaged or cut short."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as tensors:
            return {name: math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        # The cache's snapshots are links: without the file behind the link, the next load would link the same again.
        raise WeightsError(
            f"{file} is corrupted or cut short ({first_line(error)}): delete {file.resolve()} and fetch it again."
        ) from error


def check_token() -> None:
    """Refuse a token that cannot be sent, which the libraries below would print in saying so."""
    from huggingface_hub import get_token

    if not re.fullmatch(r"[\x21-\x7e]*", get_token() or ""):
        raise WeightsError(
            "The hub's token holds a space or another character that no token has: copy it again, and give it with "
            "`hf auth login` or the environment variable HF_TOKEN."
        )


def _check_index(file: Path) -> None:
    """It says which classes to import: only this pipeline's own, from the two libraries."""
    if not file.is_file():
        texts = (explain_unloadable(path.name) for path in sorted(file.parent.glob("*.safetensors")))
        reason = next((f" ({text})" for text in texts if text), "")
        raise WeightsError(
            f"{file.parent} holds no model_index.json{reason}: expected a folder in the hub's layout, as written by "
            "pipeline.save_pretrained or `hf download`."
        )
    try:
        index = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{file} is not JSON ({first_line(error)}): delete it and fetch it again.") from error
    pipeline = index.get("_class_name") if isinstance(index, dict) else None
    if pipeline != _PIPELINE:
        raise WeightsError(f"{file} is of {shorten(pipeline)}, and only {_PIPELINE!r} is loaded: use another folder.")
    for name in COMPONENTS:
        if name not in index:
            raise WeightsError(f"{file} names no {name}: use the repository's own file.")
    for name, value in index.items():
        own, library = COMPONENTS.get(name), value[0] if isinstance(value, list) and len(value) == 2 else ""
        if not name.startswith("_") and (value != own if own else library not in ("diffusers", "transformers", None)):
            expected = own or "a class of diffusers or transformers"
            raise WeightsError(
                f"{file} gives {shorten(value)} as its {first_line(name)}, expected {expected}: nothing else is "
                "imported, since it could run code; use the repository's own file."
            )


def _check_disk(needed_bytes: int, cache: Path, repository: str) -> None:
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free_bytes = shutil.disk_usage(existing).free
    if needed_bytes > free_bytes:
        raise WeightsError(
            f"{repository} needs {needed_bytes / 1e9:.1f} GB more in {cache}, where {free_bytes / 1e9:.1f} GB are "
            "free: make room, or set HF_HOME to a larger disk."
        )


def _sentence(error: BaseException, repository: str, revision: str | None, downloading: bool) -> str:
    from huggingface_hub import constants, errors, get_token

    while isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__:
        error = error.__cause__  # "not in the cache either": why it was not had from the hub
    page = f"{constants.ENDPOINT}/{repository}"
    token = f"a token (made at {constants.ENDPOINT}/settings/tokens) with `hf auth login` or in HF_TOKEN"
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
    has_token = get_token() is not None
    if isinstance(error, errors.GatedRepoError):
        why = "the token given has no access to it" if has_token else "no token was given"
        return f"{repository} is gated, and {why}: accept its licence at {page}, then give {token}."
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repository} has no revision {shorten(revision or 'main')}: look it up at {page}/commits/main."
    if isinstance(error, errors.RepositoryNotFoundError) or (status == 401 and not has_token):
        why = "the token given has no access to it" if has_token else "it asks for a token and none was given"
        return f"{repository} was not found on the hub, or {why}: open {page}, and give {token}."
    if status in (401, 403):
        return (
            f"The hub refuses the token given for {repository} ({status}: expired, mistyped, or without the right to "
            f"read gated repositories): give {token}."
        )
    reason = f"{type(error).__name__}: {first_line(error)}"
    if downloading and getattr(error, "errno", None) == errno.ENOSPC:
        return (
            f"Downloading {repository} stopped ({reason}): make room in {constants.HF_HUB_CACHE}, or set HF_HOME to a "
            "larger disk, and run it again."
        )
    if downloading:
        return (
            f"Downloading {repository} stopped ({reason}): run it again; files that arrived whole are kept, and no "
            "part of a file is ever used."
        )
    absent = f"{repository} is not in the cache ({constants.HF_HUB_CACHE})"
    alternatives = "use Setup(…, weights='/folder/in/the/hub/layout'), weights='random', or Setup('tiny')"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return f"{absent} and HF_HUB_OFFLINE=1 forbids to fetch it: unset HF_HUB_OFFLINE, or {alternatives}."
    return f"{absent} and the hub cannot be reached ({reason}): connect to the network once, or {alternatives}."

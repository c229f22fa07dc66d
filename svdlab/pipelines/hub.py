"""Published weights, fetched once into the Hugging Face cache; whatever goes wrong reads as one sentence.

Only safetensors and configuration files are fetched, of the five components alone: the repositories also hold the
same weights a second time, in the format of Stability's own code.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from svdlab.messages import first_line
from svdlab.variants import Variant

# Those with weights. A folder that names other classes is another model, and is refused before anything is imported.
COMPONENTS = {
    "unet": ["diffusers", "UNetSpatioTemporalConditionModel"],
    "vae": ["diffusers", "AutoencoderKLTemporalDecoder"],
    "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
}
PIPELINE = "StableVideoDiffusionPipeline"


class WeightsError(RuntimeError):
    """Weights cannot be had or cannot be read; the message says which, why, and the way out."""


def fetch(variant: Variant, *, half: bool, revision: str | None = None) -> Path:
    """The folder of `variant`'s weights in the hub's layout, downloaded if it is not in the cache.

    `half` asks for the fp16 files (4.2 GiB), else the full ones. `revision` is a branch, tag or commit of the hub.
    Raises `WeightsError`.
    """
    from huggingface_hub import constants, errors, snapshot_download

    repository = variant.repository
    if repository is None:
        raise WeightsError(f"{variant.name!r} has no repository on the hub: its weights are bundled.")
    check_token()
    patterns = ["model_index.json", "scheduler/*.json", "feature_extractor/*.json"]
    for component in COMPONENTS:
        patterns += [f"{component}/*.json", f"{component}/*{'.fp16' if half else ''}*.safetensors"]
    what: dict[str, Any] = {"repo_id": repository, "revision": revision, "allow_patterns": patterns}
    what["ignore_patterns"] = None if half else ["*.fp16*"]
    downloading = False
    try:
        try:
            plan = snapshot_download(**what, dry_run=True)
        except errors.DryRunError as refusal:  # the hub does not answer, or refuses: what is in the cache will do
            try:
                return Path(snapshot_download(**what, local_files_only=True))
            except errors.LocalEntryNotFoundError:
                raise (refusal.__cause__ or refusal) from None
        _check_files(repository, {file.filename for file in plan}, half)
        _check_disk(sum(f.file_size or 0 for f in plan if f.will_download), Path(constants.HF_HUB_CACHE), repository)
        downloading = True
        return Path(snapshot_download(**what))
    except (OSError, errors.HTTPError) as error:  # pyright: ignore[reportPrivateImportUsage]  (httpx's, of any version)
        raise WeightsError(_sentence(error, repository, revision, downloading)) from error


def check_folder(folder: Path, *, half: bool) -> bool:
    """Whether the weights in `folder` (hub layout) are to be read from its fp16 files.

    Raises `WeightsError` where the layout is not the hub's, it is of another model, a component has no safetensors of
    the kind wanted, or a file is cut short. A folder with one kind only serves both: a local copy is used as it is.
    """
    _check_index(folder / "model_index.json")
    kinds: dict[str, set[bool]] = {}  # component -> {True} fp16 files only, {False} full ones only, or both
    for component in COMPONENTS:
        files = [file.name for file in (folder / component).glob("*.safetensors")]
        if not files:
            others = sorted(file.name for file in (folder / component).glob("*.bin"))
            found = f"only {others[0]}, which is not read because it can run code" if others else "none"
            raise WeightsError(
                f"{folder / component} has no safetensors weights ({found}): download the repository's "
                "*.safetensors files, or save them again with safe_serialization=True."
            )
        kinds[component] = {".fp16" in name for name in files}
    kind = next((kind for kind in (half, not half) if all(kind in found for found in kinds.values())), None)
    if kind is None:
        lacking = next(component for component, found in kinds.items() if half not in found)
        raise WeightsError(
            f"{folder / lacking} lacks the {_kind(half)} safetensors files that other components have: "
            "download the folder again, all of one kind."
        )
    for component in COMPONENTS:
        for file in weight_files(folder / component, half=kind):
            tensor_names(file)
    return kind


def weight_files(folder: Path, *, half: bool) -> list[Path]:
    """The safetensors files of one component, of one kind."""
    return sorted(file for file in folder.glob("*.safetensors") if (".fp16" in file.name) == half)


def tensor_names(file: Path) -> set[str]:
    """What a safetensors file holds. Its header says how long it is, so one cut short raises a `WeightsError`."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            return set(opened.keys())
    except (SafetensorError, OSError) as error:
        # The cache's snapshots are links: without the file behind the link, the next load would link the same again.
        raise WeightsError(
            f"{file} is corrupted or cut short ({first_line(error)}): delete {file.resolve()} and fetch it again."
        ) from error


def _check_index(file: Path) -> None:
    """A model_index.json says which classes to import: only this pipeline's own, from the two libraries."""
    if not file.is_file():
        raise WeightsError(
            f"{file.parent} holds no model_index.json: expected a folder in the hub's layout, as written by "
            "pipeline.save_pretrained or `hf download`."
        )
    try:
        index = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeightsError(f"{file} is not JSON ({first_line(error)}): delete it and fetch it again.") from error
    found = index.get("_class_name") if isinstance(index, dict) else None
    if found != PIPELINE:
        raise WeightsError(f"{file} is of {found!r}, and only {PIPELINE!r} is loaded here: use another folder.")
    for name, value in index.items():
        if name.startswith("_"):
            continue
        expected = COMPONENTS.get(name)
        trusted = isinstance(value, list) and len(value) == 2 and value[0] in ("diffusers", "transformers", None)
        if value != expected if expected else not trusted:
            wanted = repr(expected) if expected else "a class of diffusers or transformers"
            raise WeightsError(
                f"{file} gives {value!r} as its {name}, expected {wanted}: nothing else is imported, since it could "
                "run code; use the repository's own file."
            )
    lacking = next((component for component in COMPONENTS if component not in index), None)
    if lacking:
        raise WeightsError(f"{file} names no {lacking}: use the repository's own file.")


def _check_files(repository: str, files: set[str], half: bool) -> None:
    for component in COMPONENTS:
        if not any(file.startswith(f"{component}/") and file.endswith(".safetensors") for file in files):
            raise WeightsError(
                f"{repository} has no {_kind(half)} safetensors files for its {component} (*.bin files are not read, "
                f"because they can run code): use dtype={'fp32' if half else 'fp16'!r}, or another revision."
            )


def _check_disk(needed: int, cache: Path, repository: str) -> None:
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise WeightsError(
            f"{repository} needs {needed / 1e9:.1f} GB more in {cache}, where {free / 1e9:.1f} GB are free: make room, "
            "or set HF_HOME to a larger disk."
        )


def check_token() -> None:
    """Such a token cannot be sent, and the libraries below would print it in saying so."""
    from huggingface_hub import get_token

    if not re.fullmatch(r"[\x21-\x7e]*", get_token() or ""):
        raise WeightsError(
            "The hub's token holds a space or another character that no token has: copy it again, and give it with "
            "`hf auth login` or the environment variable HF_TOKEN."
        )


def _sentence(error: BaseException, repository: str, revision: str | None, downloading: bool) -> str:
    from huggingface_hub import constants, errors, get_token

    while isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__:
        error = error.__cause__  # "not in the cache either": why it was not had from the hub
    page = f"{constants.ENDPOINT}/{repository}"
    token = f"a token (made at {constants.ENDPOINT}/settings/tokens) with `hf auth login` or in HF_TOKEN"
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
    given = get_token() is not None
    if isinstance(error, errors.GatedRepoError):
        why = "the token given has no access to it" if given else "no token was given"
        return f"{repository} is gated, and {why}: accept its licence at {page}, then give {token}."
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repository} has no revision {revision or 'main'!r}: look it up at {page}/commits/main."
    if isinstance(error, errors.RepositoryNotFoundError) or (status == 401 and not given):
        why = "the token given has no access to it" if given else "it asks for a token and none was given"
        return f"{repository} was not found on the hub, or {why}: open {page}, and give {token}."
    if status in (401, 403):
        return (
            f"The hub refuses the token given for {repository} ({status}: expired, mistyped, or without the right to "
            f"read gated repositories): give {token}."
        )
    reason = f"{type(error).__name__}: {first_line(error)}"
    if downloading:
        return (
            f"Downloading {repository} stopped ({reason}): run it again; files that arrived whole are kept, and no "
            "part of a file is ever used."
        )
    absent = f"{repository} is not in the cache ({constants.HF_HUB_CACHE})"
    otherwise = "use Setup(…, weights='/folder/in/the/hub/layout'), weights='random', or Setup('tiny')"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return f"{absent} and HF_HUB_OFFLINE=1 forbids to fetch it: unset HF_HUB_OFFLINE, or {otherwise}."
    return f"{absent} and the hub cannot be reached ({reason}): connect to the network once, or {otherwise}."


def _kind(half: bool) -> str:
    return "fp16" if half else "full-precision"

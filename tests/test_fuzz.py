"""What comes from outside is read, or refused in one sentence: requests, saved clips, pictures; however it is damaged.

60 cases each here, 5,000 each under `slow`. What longer runs have broken is at the end.
"""

from __future__ import annotations

import io
import json
import warnings
from functools import cache
from pathlib import Path

import av.logging
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from svdlab import Request, read
from svdlab.generation.clip import Clip
from svdlab.media import images
from svdlab.media.images import open_image
from svdlab.media.read_video import probe, read_frames, read_metadata

pytestmark = pytest.mark.filterwarnings("ignore")
SUPPRESSED = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
sixty_cases = settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=SUPPRESSED)
five_thousand_cases = settings(max_examples=5000, deadline=None, suppress_health_check=SUPPRESSED)

FIELDS = json.loads(Request.for_variant("svd", image="rocket").to_json())
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["svd", "tiny", "crop"])
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
REQUESTS = st.dictionaries(st.sampled_from(sorted(FIELDS)) | st.text(max_size=8), VALUES, max_size=4)
DAMAGE = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=12)


def check_sentence(error: ValueError) -> None:
    assert str(error)
    assert "Traceback" not in str(error)
    assert len(str(error)) < 1000


def damage_file(data: bytes, damage: list[tuple[float, int]], fraction: float) -> bytes:
    file = bytearray(data)
    for place, value in damage:
        file[min(int(place * len(file)), len(file) - 1)] = value
    return bytes(file[: max(1, round(fraction * len(file)))])


@cache
def picture() -> Image.Image:
    return Image.linear_gradient("L").resize((40, 24)).convert("RGB")


# --- requests --------------------------------------------------------------------------------------------------------


def check_request(value: dict | str) -> None:
    if isinstance(value, dict) and not isinstance(value.get("image", ""), str):
        value = value | {"image": "rocket"}  # other kinds are for the image loader below
    try:
        request = Request.from_json(value)
    except ValueError as error:
        check_sentence(error)
        return
    copy = Request.from_json(request.to_json())
    assert copy == request
    assert all(isinstance(sentence, str) for sentence in copy.concerns())


@sixty_cases
@given(REQUESTS)
def test_a_request_of_any_fields(changes):
    check_request(FIELDS | changes)


@sixty_cases
@given(st.text(max_size=60) | VALUES.map(json.dumps))
def test_a_request_that_is_any_text(text):
    check_request(text)


# --- pictures --------------------------------------------------------------------------------------------------------


@cache
def encode(format: str) -> bytes:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    picture().save(file, format, **({"exif": exif.tobytes()} if format in ("JPEG", "PNG", "WEBP") else {}))
    return file.getvalue()


def check_picture(data: bytes) -> None:
    try:
        image = open_image(data)
    except ValueError as error:
        check_sentence(error)
        return
    assert image.mode == "RGB"
    assert min(image.size) > 0


PICTURES = st.builds(damage_file, st.sampled_from(images.FORMATS).map(encode), DAMAGE, st.floats(0.3, 1.2))


@sixty_cases
@given(PICTURES | st.binary(max_size=80))
def test_a_picture_of_any_bytes(data):
    check_picture(data)


# --- saved clips -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> dict[str, bytes]:
    """A clip in each format; for a folder its first frame."""
    folder = tmp_path_factory.mktemp("saved")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        request = Request.for_variant("svd", image=picture(), height=64, width=96, num_frames=2, decode_chunk_size=1)
    clip = Clip([picture()] * 2, request, None, notes=("well",))
    files = {name: clip.save(folder / name) for name in ("x.mp4", "x.gif", "x.webp", "frames")}
    return {name: (file / "frame-0000.png" if file.is_dir() else file).read_bytes() for name, file in files.items()}


@pytest.fixture
def quiet_av():
    level = av.logging.get_level()
    av.logging.set_level(av.logging.PANIC)
    yield
    av.logging.set_level(level)


def check_clip(data: bytes, path: Path) -> None:
    path.write_bytes(data)
    for reader in (read_metadata, read):
        try:
            reader(path)
        except ValueError as error:
            check_sentence(error)


CLIPS = st.tuples(st.sampled_from(["x.mp4", "x.gif", "x.webp", "frames"]), DAMAGE, st.floats(0.6, 1.2))


@sixty_cases
@given(CLIPS)
def test_a_clip_of_any_bytes(saved, quiet_av, tmp_path, case):
    name, damage, fraction = case
    check_clip(damage_file(saved[name], damage, fraction), tmp_path / "x")


@sixty_cases
@given(REQUESTS, VALUES, VALUES, VALUES, VALUES)
@example({"height": None}, None, [], [], [])
def test_a_clip_with_any_settings_inside(tmp_path, changes, setup, seams, timings, notes):
    settings = {"request": FIELDS | changes, "setup": setup, "seams": seams, "timings": timings, "notes": notes}
    path = tmp_path / "x.gif"
    picture().save(path, comment=json.dumps({"svdlab": json.dumps(settings)}).encode())
    try:
        read(path)
    except ValueError as error:
        check_sentence(error)


@pytest.mark.slow
def test_thousands_of_cases_of_each(saved, quiet_av, tmp_path):
    for strategy, check in (
        (REQUESTS, lambda changes: check_request(FIELDS | changes)),
        (PICTURES, check_picture),
        (CLIPS, lambda given: check_clip(damage_file(saved[given[0]], *given[1:]), tmp_path / "x")),
    ):
        five_thousand_cases(given(strategy)(check))()


# --- once broken ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"focus": 5}, "focus=5 is not a list of numbers"),
        ({"focus": None}, "focus=None must be two numbers"),
        ({"sigmas": 7}, "sigmas=7 is not a list of numbers"),
        ({"sigmas": ["a"]}, r"sigmas=\['a'\] is not a list of numbers"),
        ({"variant": ["svd"]}, "Unknown variant"),
        ({"seed": None}, "seed=None is not a whole number"),
    ],
)
def test_wrong_types_are_one_sentence(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        Request.from_json(FIELDS | changes)


def test_a_field_left_open_beside_a_variant_is_filled_in():
    """It raised a TypeError when the concerns were looked for."""
    request = Request.from_json(FIELDS | {"fps": None, "num_frames": None})
    assert request.concerns() == []
    assert (request.filled("svd").fps, request.filled("svd").num_frames) == (7, 14)


def test_thousands_of_brackets_are_no_request():
    for text in ("[" * 100_000, '{"image": ' * 100_000):
        with pytest.raises(ValueError, match="This is not a request"):
            Request.from_json(text)


def test_a_video_of_an_unknown_codec_is_refused(saved, tmp_path):
    """PyAV gives such a stream no size."""
    (tmp_path / "x.mp4").write_bytes(saved["x.mp4"].replace(b"avc1", b"zzzz"))
    with pytest.raises(ValueError, match=r"no video in it that can be decoded|cannot be read"):
        read_frames(tmp_path / "x.mp4")
    with pytest.raises(ValueError, match=r"no video in it that can be decoded|cannot be read"):
        probe(tmp_path / "x.mp4")

"""The wheel carries all that the package needs, and makes a clip outside of the project."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_a_wheel_installed_elsewhere_makes_a_clip(tmp_path):
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < 30 * 2**20
    with zipfile.ZipFile(wheel) as packed:
        names = set(packed.namelist())
        packed.extractall(tmp_path / "elsewhere")
    for needed in (
        *("svdlab/media/show.html", "svdlab/examples/rocket.png", "svdlab/examples/launch.jpg"),
        *("svdlab/tiny/weights/model_index.json", "svdlab/tiny/weights/unet/diffusion_pytorch_model.safetensors"),
    ):
        assert needed in names
    assert not [name for name in names if name.startswith(("tests", "notebooks", "training"))]

    script = (
        "import sys, svdlab; from svdlab import Setup, generate, load, read;"
        "assert sys.argv[1] in svdlab.__file__, svdlab.__file__;"
        "setup = Setup('tiny'); request = setup.request(image='rocket', num_inference_steps=4, num_frames=4);"
        "clip = generate(load(setup), request, progress=False);"
        "print(len(read(clip.save('clip.mp4')).frames))"
    )
    elsewhere = str(tmp_path / "elsewhere")
    environment = os.environ | {"PYTHONPATH": elsewhere}
    done = subprocess.run(
        [sys.executable, "-c", script, elsewhere], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "4"

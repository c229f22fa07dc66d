"""The picture of a request: where it comes from, what is cropped, and how the model will see it.

It comes from the examples, a path, a URL, or a file that is chosen or dropped. The page makes photographs smaller and
sends files in pieces, since a kernel's connection takes 10 MiB at once. A clip that was saved here comes the same ways,
and brings the settings that it was made with.
"""

from __future__ import annotations

import base64
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from svdlab.interface.panel.widgets import Alert, Button, Inbox, assign, figure, w, when_changed
from svdlab.media.images import EXAMPLES, data_url, fit_image, open_image
from svdlab.messages import shorten


class Picture(w.VBox):
    """The controls of a picture. `image` is what a request takes, `name` its name, `incoming` a file on its way.

    `restore` gets the path of a clip. `on_change` gets what has changed: "picture", "crop", or "shown" by a page.
    """

    def __init__(
        self, controls: dict[str, Any], restore: Callable[[Path], None], on_change: Callable[[str], None]
    ) -> None:
        self._controls, self._restore, self._on_change = controls, restore, on_change
        self.incoming, self._pieces, self._drawn_state = "", bytearray(), ()
        self.figure, self.alert = w.HTML(), Alert(controls["path"])
        self.inbox = Inbox(continuous_update=False).add_class("svdlab-inbox")
        choose = Button("Choose a file…", "A picture, or an MP4 made here, from your computer", self._choose)
        choose.icon, sending = "upload", w.HTML('<small role="status" class="svdlab-sending"></small>')
        sources = [controls["example"], controls["path"], self.alert, choose.add_class("svdlab-choose"), sending]
        super().__init__([self.figure, *sources, controls["fit"]])
        for name in ("example", "path"):
            when_changed(controls[name], lambda value: value and self.take(value, value))
        for name in ("fit", "focus_x", "focus_y"):
            when_changed(controls[name], lambda _: on_change("crop"))
        when_changed(self.inbox, self._receive)

    @property
    def focus(self) -> tuple[float, float]:
        """The point that a crop keeps near its middle."""
        return self._controls["focus_x"].value, self._controls["focus_y"].value

    def fitted(self, height: int, width: int) -> Image.Image:
        """The picture as the model will see it: RGB, of that size."""
        return fit_image(self._opened, height, width, self._controls["fit"].value, self.focus)

    def set_image(self, image: Any, name: str = "") -> None:
        """Take what a request can have as its image; an error leaves the picture as it was."""
        self._opened, self.incoming = open_image(image), ""
        self.image = image if isinstance(image, str) else self._opened
        source = self.image if isinstance(self.image, str) else ""
        self.name = name or (Path(source).name if source else "your picture")
        assign(self._controls["example"], value=source if source in EXAMPLES else "")
        assign(self._controls["path"], value="" if source in EXAMPLES else source)

    def take(self, source: str | bytes, name: str) -> None:
        """Take a chosen picture, or the settings of a clip that was made here; an error is shown beside the field."""
        self.incoming = ""
        with self.alert.catch():
            try:
                if not self._take_clip(source, name):
                    self.set_image(source, shorten(Path(name).name)[1:-1])
            except ValueError as error:
                raise ValueError(str(error).replace(f"The data given ({len(source)} bytes)", name)) from None
        self._on_change("picture")

    def _take_clip(self, source: str | bytes, name: str) -> bool:
        suffix = Path(name).suffix.lower()
        if suffix not in (".mp4", ".gif", ".webp"):
            return False
        with tempfile.TemporaryDirectory() as folder:
            path = Path(name)
            if isinstance(source, bytes):
                path = Path(folder) / f"clip{suffix}"
                path.write_bytes(source)
            try:
                self._restore(path)
            except ValueError as error:
                if suffix == ".mp4":  # the others may well be pictures
                    raise ValueError(str(error).replace(str(path), name)) from None
                return False
        self.name = f"from {Path(name).name}"
        return True

    def draw(self, height: int, width: int) -> None:
        """Show the picture as the model will see it; a cropped one comes whole too, so that the crop can be dragged."""
        state = (id(self._opened), self.name, self.incoming, height, width, self._controls["fit"].value, self.focus)
        if state == self._drawn_state:
            return
        self._drawn_state, attrs, uncropped = state, "", ""
        caption = f"{self.name}: {width} × {height}, as the model will see it"
        across, down = self._opened.width / width, self._opened.height / height
        if self.incoming:
            attrs, caption = 'class="svdlab-arriving"', f"{self.incoming} is on its way…"
        elif self._controls["fit"].value == "crop" and abs(across / down - 1) > 0.01:
            attrs = f'class="svdlab-crop" data-focus="{self.focus[0]} {self.focus[1]}" title="Drag to move the crop"'
            uncropped = f'<img class="svdlab-whole" alt="" src="{_small_jpeg(self._opened)}">'
            caption += "; drag it to move the crop"
        self.figure.value = figure(self.fitted(height, width), caption, look=attrs, more=uncropped)

    def _choose(self) -> None:
        """Pressed where the page runs no scripts, which would have opened a dialog instead."""
        with self.alert.catch():
            raise ValueError("This page cannot send files: type the path of one on the kernel's machine, or a URL.")

    def _receive(self, text: str) -> None:
        """Read a message of the page: it is shown, the crop was dragged, or a file comes, piece by piece."""
        if not text:
            return
        assign(self.inbox, value="")
        message = json.loads(text)
        if "focus" in message:
            for name, value in zip(("focus_x", "focus_y"), message["focus"], strict=True):
                assign(self._controls[name], value=value)
            self._on_change("crop")
        elif "name" in message:
            self._receive_file(**message)
        else:
            self._on_change("shown")

    def _receive_file(self, name: str, data: str = "", is_last: bool = False, problem: str = "") -> None:
        if problem:
            self.incoming = ""
            self.alert.tell(f"{name!r} could not be sent ({problem}): the picture is still {self.name}.")
        elif not data and not is_last:
            self.alert.tell("")
            self.incoming, self._pieces = name, bytearray()
        elif name != self.incoming:
            return  # another picture was chosen meanwhile
        self._pieces += base64.b64decode(data)
        if is_last:
            content, self._pieces = bytes(self._pieces), bytearray()
            self.take(content, name)
        else:
            self._on_change("picture" if problem or not data else "piece")


def _small_jpeg(image: Image.Image) -> str:
    image, file = image.copy(), io.BytesIO()
    image.thumbnail((960, 960))
    image.save(file, "JPEG", quality=80)
    return data_url("image/jpeg", file.getvalue())

"""The elements and the text of a page, for tests that need no browser; and text that tries to be more than text."""

from __future__ import annotations

from html.parser import HTMLParser

HOSTILE = "<img src=x onerror=alert(1)>\"'</td><script>alert(2)</script>"


class Page(HTMLParser):
    """The elements of a page, (tag, attributes), those of templates apart; and its text outside scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.template_elements: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.tag = "", ""
        self.templates = 0  # open ones
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.templates += tag == "template"
        self.tag = tag
        (self.template_elements if self.templates else self.elements).append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        self.templates -= tag == "template"

    def handle_data(self, data):
        self.text += "" if self.tag in ("script", "style") else data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of each element of that name."""
        return [attributes for name, attributes in self.elements if name == tag]

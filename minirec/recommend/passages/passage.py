"""What is known of a passage that can be found and quoted."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a document.

    Attributes:
        text: what it says.
        source_url: the document.
        section_path: headings from the document's title on.
    """

    text: str
    source_url: str
    section_path: tuple[str, ...] = ()

    @property
    def heading(self) -> str:
        """Title and sections, for people; the document's address where it has none."""
        return " › ".join(self.section_path) or self.source_url

    @property
    def all_text(self) -> str:
        """Headings and text."""
        return "\n".join((*self.section_path, self.text))

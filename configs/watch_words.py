"""The wording of the rows that are made of watch histories, for `config.tasks.words`.

What a template may hold stands in `pipelines/text/watch_words.py`. Words in angle brackets become
tokens of their own.
"""

from __future__ import annotations

from ml_collections import ConfigDict

_ITEM = "<anime_start>{sid}<anime_end>"


def watch_words() -> ConfigDict:
    """Returns all words of tasks A, B and C."""
    show, name = f"Entry {_ITEM}.\n", "\nEntry: "
    return ConfigDict(
        {
            # By template: "{sid}" in the input asks about an item, in the output for one.
            "facts": {
                "title": {"input": f"{show}Title: ", "output": "{title}"},
                "genres": {"input": f"{show}Which kinds of story is it? ", "output": "{genres}"},
                "studios": {"input": f"{show}Who animated it? ", "output": "{studios}"},
                "season": {"input": f"{show}When was it first shown? ", "output": "{season}"},
                "type": {"input": f"{show}In which form did it come out? ", "output": "{type}"},
                "source": {"input": f"{show}What was it adapted from? ", "output": "{source}"},
                "synopsis": {"input": f"{show}Tell what happens in it: ", "output": "{synopsis}"},
                "themes": {"input": f"{show}Its themes: ", "output": "{themes}"},
                "title_genres": {
                    "input": f"{show}Title, and kinds of story: ",
                    "output": "{title} | {genres}",
                },
                "of_title": {"input": "Title: {title}" + name, "output": "{sid}"},
                "of_title_season": {
                    "input": "Title: {title}\nFirst shown: {season}" + name,
                    "output": "{sid}",
                },
                "of_title_studios": {
                    "input": "Title: {title}\nAnimated by: {studios}" + name,
                    "output": "{sid}",
                },
                "of_title_genres": {
                    "input": "Title: {title}\nKinds of story: {genres}" + name,
                    "output": "{sid}",
                },
                "of_facts": {
                    "input": "Kinds of story: {genres}\nForm: {type}\nFirst shown: {season}\n"
                    "Animated by: {studios}" + name,
                    "output": "{sid}",
                },
                "of_synopsis": {"input": "What happens: {synopsis}" + name, "output": "{sid}"},
                "of_themes": {
                    "input": "Themes: {themes}\nKinds of story: {genres}" + name,
                    "output": "{sid}",
                },
            },
            "entry": "<anime_start>{sid}{mark}<anime_end>",
            "hidden": "<anime_start>?<anime_end>",
            "marks": {
                "watch": "<watch>",
                "liked": "<liked>",
                "disliked": "<disliked>",
                "dropped": "<dropped>",
                "planned": " planned, not yet seen ",
            },
            "between": "",
            "mask_last": "One person's list, oldest first: {history}\nThe entry at ?: ",
            "mask_random": "One person's list: {history}\nThe entry at ?: ",
            "masked": "{sid}",
            # By number of liked items.
            "liked": {
                "1": "Somebody liked {history}\nWhat speaks for another entry, and which: ",
                "3": "Somebody liked these three: {history}\nWhat do they have in common, "
                "and which other entry has it as well: ",
            },
            "reason": "{shared}. So: {sid}",
            "shared": {
                "genres": "kinds of story: {values}",
                "studios": "animated by {values}",
                "era": "from the {values}",
                "type": "form: {values}",
            },
            "shared_between": "; ",
        }
    )

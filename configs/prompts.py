"""The wording of the language model's prompts, for `config.prompts` of experiments that use one.

A checkpoint that was trained with other words needs those: put them in a config of your own. What a
template consists of stands in `pipelines/text/prompts.py`.
"""

from __future__ import annotations

from ml_collections import ConfigDict


def sft_prompts() -> ConfigDict:
    """Returns a template for each of the fine-tuning tasks."""
    codes = {"item": "{sid}", "separator": ", ", "response": "{sid}\n"}
    titles = {"item": "- {title}", "separator": "\n"}
    return ConfigDict(
        {
            "sids_to_sid": {
                "system": "",
                "instruction": "Task: name the code of the item this customer takes next.\n\n",
                "input": "Taken so far, oldest first: {history}\n\nNext:\n",
                **codes,
            },
            "sid_to_title": {
                "system": "",
                "instruction": "Task: look up an item of the catalogue by its code.\n\n",
                "input": "Code: {sid}\n\nTitle:\n",
                "response": "{title}\n",
            },
            "title_to_sid": {
                "system": "",
                "instruction": "Task: look up an item of the catalogue by its title.\n\n",
                "input": "Title: {title}\n\nCode:\n",
                "response": "{sid}\n",
            },
            "sids_to_title": {
                "system": "",
                "instruction": "Task: name the title of the item this customer takes next.\n\n",
                "input": "Taken so far, oldest first: {history}\n\nNext, by title:\n",
                **(codes | {"response": "{title}\n"}),
            },
            "titles_to_title": {
                "system": "",
                "instruction": "Task: name the title of the item this customer takes next.\n\n",
                "input": "Taken so far, oldest first:\n{history}\n\nNext, by title:\n",
                **titles,
                "response": "{title}\n",
            },
            "titles_to_sid": {
                "system": "",
                "instruction": "Task: name the code of the item this customer takes next.\n\n",
                "input": "Taken so far, oldest first:\n{history}\n\nNext:\n",
                **titles,
                "response": "{sid}\n",
            },
        }
    )

"""A repository with a translator in it, of fresh weights and a vocabulary of whole words."""

from dataclasses import replace
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers

from atril_training.composition import compose
from atril_training.publication import Publication, publish_together
from tests.support.exported_decoders import TASK, exported_parts, exports_of
from tests.support.slim_translators import VOCABULARY


def word_tokenizer() -> str:
    """A tokenizer of whole words, as many as the slim networks know."""
    names = ["<pad>", "<bos>", "<eos>", *(f"w{n}" for n in range(3, VOCABULARY))]
    tokenizer = Tokenizer(
        models.WordLevel({name: n for n, name in enumerate(names)}, unk_token="w3")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return str(tokenizer.to_str())


def write_translator(root: Path, form: str, name: str) -> Path:
    """Publish a slim form as a translator; returns the folder of its version."""
    parts = exported_parts(form)
    task = replace(TASK, tokenizer=word_tokenizer())
    if not parts.contract.attends:
        task = replace(task, explainer_suffix=None)
    exports = exports_of(form, task)
    composition = compose(name, exports)
    assert composition is not None
    files = {file: parts.graphs[exports[place].suffix] for file, place in composition.files.items()}
    (path,) = publish_together([Publication(composition.config, (), files, {})], root)
    return path

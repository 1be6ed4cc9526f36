"""Byte-pair encoding: text to token ids and back, exactly.

Source: Sennrich, Haddow & Birch 2016, arXiv:1508.07909; on bytes as in Radford et al. 2019.
"""

from collections.abc import Iterable, Sequence

import orjson
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from atril_common.errors import InvalidInputError

PAD_ID, BOS_ID, EOS_ID, UNK_ID = range(4)
SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<unk>")
"""By id. No text is encoded to one of them, not even its own name; all bytes are in the alphabet,
so that nothing is unknown, and `<unk>` stands in the list for models that come without bytes."""

SMALLEST_VOCABULARY = len(SPECIAL_TOKENS) + 256


class BytePairTokenizer:
    """Text as ids of byte sequences.

    Words are split as GPT-2 does, with the space before them, and digits one by one. A space is put
    before every text, so that a word is the same at its beginning as within it, and taken away from
    what is decoded; else no text is changed. So decoding what was encoded gives the text back,
    whatever it is.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    @classmethod
    def train(cls, texts: Iterable[str], vocabulary: int) -> "BytePairTokenizer":
        """Merge the most frequent pairs until there are so many ids, or nothing is left to merge.

        The same texts in the same order give the same tokenizer.

        Args:
            texts: to count pairs in.
            vocabulary: ids at most, those of the special tokens among them.

        Raises:
            ValueError: the vocabulary has no room for all bytes.
        """
        if vocabulary < SMALLEST_VOCABULARY:
            raise ValueError(
                f"vocabulary must be at least {SMALLEST_VOCABULARY}, the special tokens and all "
                f"bytes, got {vocabulary}"
            )
        learner = _blank(models.BPE())
        learner.train_from_iterator(
            texts,
            trainers.BpeTrainer(
                vocab_size=vocabulary,
                special_tokens=list(SPECIAL_TOKENS),
                initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
                show_progress=False,
            ),
        )
        learnt = orjson.loads(learner.to_str())["model"]
        merges = [tuple(pair) for pair in learnt["merges"]]
        # Built anew: the learner would find the special tokens' names in texts.
        return cls(_blank(models.BPE(vocab=learnt["vocab"], merges=merges)))

    @classmethod
    def from_json(cls, text: str) -> "BytePairTokenizer":
        """The tokenizer that `to_json` has written.

        Raises:
            InvalidInputError: it is none.
        """
        try:
            return cls(Tokenizer.from_str(text))
        except Exception as err:
            raise InvalidInputError(f"not a tokenizer: {err}") from err

    def to_json(self) -> str:
        """In the format of the `tokenizers` library."""
        return str(self._tokenizer.to_str())

    @property
    def vocabulary(self) -> int:
        """Number of ids."""
        return int(self._tokenizer.get_vocab_size())

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without begin and end."""
        return list(self._tokenizer.encode(text).ids)

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without begin and end."""
        return [list(encoding.ids) for encoding in self._tokenizer.encode_batch(texts)]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids without the special tokens; U+FFFD stands for what is no UTF-8."""
        ordinary = [one for one in ids if one >= len(SPECIAL_TOKENS)]
        return str(self._tokenizer.decode(ordinary))


def _blank(model: models.BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Prepend(" ")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteLevel(), decoders.Strip(content=" ", left=1, right=0)]
    )
    return tokenizer

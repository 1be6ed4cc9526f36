"""Recurrent networks: chapter 5 of the lectures, and a character Transformer beside them.

`layers` says what every recurrent layer is; `rnn` and `long_short_term_memory` hold the equations;
`classification`, `forecasting` and `language_model` are what they are used for; `one_step` is how
they are run one time step at a time.
"""

from atril_models.recurrent.entries import ARCHITECTURES

__all__ = ["ARCHITECTURES"]

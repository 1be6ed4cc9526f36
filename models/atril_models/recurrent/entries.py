"""The catalogue's entries for chapter 5, and how their networks are put together."""

from atril_models.architecture import Architecture, Family
from atril_models.recurrent.char_transformer import CharacterTransformer
from atril_models.recurrent.classification import BiLSTMClassifier, SequenceClassifier
from atril_models.recurrent.forecasting import SequenceForecaster
from atril_models.recurrent.language_model import CharacterModel
from atril_models.recurrent.long_short_term_memory import LSTM
from atril_models.recurrent.rnn import DelayedRNN, LeakyRNN, SimpleRNN, SkipRNN
from atril_models.recurrent.stack import RecurrentStack


def _simple(features: int = 28, hidden: int = 128, classes: int = 10) -> SequenceClassifier:
    return SequenceClassifier(SimpleRNN(features, hidden), classes)


def _skip(
    features: int = 28, hidden: int = 128, classes: int = 10, delay: int = 4
) -> SequenceClassifier:
    return SequenceClassifier(SkipRNN(features, hidden, delay), classes)


def _leaky(
    features: int = 28,
    hidden: int = 128,
    classes: int = 10,
    alpha: float = 0.8,
    learn_alpha: bool = False,
) -> SequenceClassifier:
    layer = LeakyRNN(features, hidden, alpha, learn_alpha=learn_alpha)
    return SequenceClassifier(layer, classes)


def _delayed(
    features: int = 28, hidden: int = 128, classes: int = 10, delay: int = 4
) -> SequenceClassifier:
    return SequenceClassifier(DelayedRNN(features, hidden, delay), classes)


def _lstm(features: int = 28, hidden: int = 128, classes: int = 10) -> SequenceClassifier:
    return SequenceClassifier(LSTM(features, hidden), classes)


def _bilstm(features: int = 28, hidden: int = 128, classes: int = 10) -> BiLSTMClassifier:
    return BiLSTMClassifier(features, hidden, classes)


def _lstm_forecaster(
    features: int = 1, hidden: int = 32, horizon: int = 1, lags: int = 0, members: int = 1
) -> SequenceForecaster:
    return SequenceForecaster([LSTM(features, hidden) for _ in range(members)], horizon, lags)


def _char_lstm(
    vocabulary: int = 65, hidden: int = 128, layers: int = 2, dropout: float = 0.0
) -> CharacterModel:
    inputs = [vocabulary, *[hidden] * (layers - 1)]
    return CharacterModel(RecurrentStack([LSTM(p, hidden) for p in inputs], dropout))


_DELAYS = (
    'Lin, Horne, Tino & Giles 1996, "Learning long-term dependencies in NARX recurrent neural '
    'networks", IEEE Trans. Neural Networks 7(6)'
)
_LSTM = (
    "Hochreiter & Schmidhuber 1997, Neural Computation 9(8), with the forget gate of Gers, "
    "Schmidhuber & Cummins 2000, Neural Computation 12(10)"
)

ARCHITECTURES = (
    Architecture(
        name="rnn",
        title="Simple recurrent network",
        family=Family.RECURRENT,
        lecture_section="5.1",
        source='Elman 1990, "Finding structure in time", Cognitive Science 14(2)',
        formula="h(t) = tanh(W_xh x(t) + W_hh h(t-1) + b_h); o = W_hq h(T) + b_q; softmax.",
        build=_simple,
    ),
    Architecture(
        name="rnn-skip",
        title="Recurrent network with skip connections",
        family=Family.RECURRENT,
        lecture_section="5.4",
        source=_DELAYS,
        formula="h(t) = tanh(W_xh x(t) + W_hh h(t-1) + W_dh h(t-d) + b_h): a connection over d "
        "steps is added; o = W_hq h(T) + b_q; softmax.",
        build=_skip,
    ),
    Architecture(
        name="rnn-leaky",
        title="Recurrent network of leaky units",
        family=Family.RECURRENT,
        lecture_section="5.5",
        source='Jaeger, Lukoševičius, Popovici & Siewert 2007, "Optimization and applications of '
        'echo state networks with leaky-integrator neurons", Neural Networks 20(3)',
        formula="h(t) = α h(t-1) + (1 - α) tanh(W_xh x(t) + W_hh h(t-1) + b_h), α fixed or learned "
        "for each unit; o = W_hq h(T) + b_q; softmax.",
        build=_leaky,
    ),
    Architecture(
        name="rnn-delay",
        title="Recurrent network with its one-step connections removed",
        family=Family.RECURRENT,
        lecture_section="5.6",
        source=_DELAYS,
        formula="h(t) = tanh(W_xh x(t) + W_dh h(t-d) + b_h): the connection over d steps replaces "
        "that over one; o = W_hq · mean of h(T-d+1) … h(T) + b_q; softmax.",
        build=_delayed,
    ),
    Architecture(
        name="lstm",
        title="LSTM",
        family=Family.RECURRENT,
        lecture_section="5.7",
        source=_LSTM,
        formula="i, f, o = σ(W_x x(t) + W_h h(t-1) + b), g = tanh(W_x x(t) + W_h h(t-1) + b), each "
        "with weights of its own; s(t) = g ⊙ i + s(t-1) ⊙ f; h(t) = tanh(s(t)) ⊙ o; "
        "logits W_hq h(T) + b_q; softmax.",
        build=_lstm,
    ),
    Architecture(
        name="bilstm",
        title="Bi-LSTM",
        family=Family.RECURRENT,
        lecture_section="5.8",
        source='Schuster & Paliwal 1997, "Bidirectional recurrent neural networks", IEEE Trans. '
        "Signal Processing 45(11); Graves & Schmidhuber 2005, Neural Networks 18(5-6)",
        formula="h_F(t) = LSTM_F(x(t), h_F(t-1)), h_B(t) = LSTM_B(x(t), h_B(t+1)); "
        "y(t) = W_F h_F(t) + W_B h_B(t) + b; softmax of the mean of y over time.",
        build=_bilstm,
    ),
    Architecture(
        name="lstm-forecaster",
        title="LSTM that forecasts a series",
        family=Family.RECURRENT,
        lecture_section="5.7",
        source=f"{_LSTM}; its linear highway: Lai, Chang, Yang & Liu 2018, arXiv:1703.07015",
        formula="An LSTM reads the window; y = W_hq h(T) + b_q, to which a linear autoregression "
        "on the last values may be added; the mean over members where there are several.",
        build=_lstm_forecaster,
    ),
    Architecture(
        name="char-lstm",
        title="LSTM that writes text",
        family=Family.RECURRENT,
        lecture_section="5.7",
        source='Karpathy 2015, char-rnn; Graves 2013, "Generating sequences with recurrent neural '
        'networks", arXiv:1308.0850',
        formula="Characters as one-hot vectors through LSTMs on top of each other; "
        "softmax(W_hq h(t) + b_q) is the probability of each next character.",
        build=_char_lstm,
    ),
    Architecture(
        name="char-transformer",
        title="Causal Transformer that writes text",
        family=Family.SEQUENCE_TO_SEQUENCE,
        lecture_section="6.2",
        source="Vaswani et al. 2017, arXiv:1706.03762, in the form of Radford et al. 2019 and of "
        "Karpathy's nanoGPT",
        formula="Embeddings of characters and positions; blocks x + attention(norm(x)), "
        "x + MLP(norm(x)), each position attending to those up to itself; softmax over the "
        "characters with the embeddings as weights.",
        build=CharacterTransformer,
    ),
)

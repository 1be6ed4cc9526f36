"""Published graphs, run by ONNX Runtime in the place of a network."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Literal

import onnxruntime
import torch
from torch import Tensor, nn

from atril_training.parity import open_session
from atril_training.tasks.course import Course

GraphInputs = Literal["train", "test"]
"""The split that the inputs of graphs are made of: to calibrate with, or to judge with."""


class Graph(nn.Module):
    """A graph that is called like a network, on the CPU.

    Answers a tensor where the graph has one output, or was narrowed to one, else a tuple.
    """

    def __init__(self, session: onnxruntime.InferenceSession, outputs: Sequence[str]) -> None:
        super().__init__()
        self.session = session
        self.outputs = tuple(outputs)
        self.inputs = tuple(value.name for value in session.get_inputs())
        # Networks are asked where their parameters lie.
        self.place = nn.Parameter(torch.empty(0), requires_grad=False)

    @classmethod
    def load(cls, onnx_model: bytes) -> "Graph":
        """A graph with all its outputs."""
        session = open_session(onnx_model)
        return cls(session, [value.name for value in session.get_outputs()]).eval()

    def only(self, output: str) -> "Graph":
        """The same graph with one of its outputs."""
        return Graph(self.session, [output]).eval()

    def answers(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """All outputs for inputs in the graph's order."""
        feed = {
            name: tensor.detach().contiguous().numpy()
            for name, tensor in zip(self.inputs, tensors, strict=True)
        }
        return tuple(torch.from_numpy(a) for a in self.session.run(list(self.outputs), feed))

    def forward(self, *tensors: Tensor) -> Tensor | tuple[Tensor, ...]:
        """What a network answers."""
        answers = self.answers(*tensors)
        return answers[0] if len(answers) == 1 else answers


Graphs = Mapping[str, Graph]
"""The graphs of one training, by the suffixes of their names."""


class GraphCourse(Course):
    """A course whose published graphs can be judged by themselves, and calibrated."""

    @abstractmethod
    def graph_inputs(self, graphs: Graphs, split: GraphInputs, limit: int) -> Mapping[str, Tensor]:
        """Real inputs of each graph, by suffix: the first `limit` examples of a split.

        Each graph has one input. What one graph answers and another takes is asked of `graphs`.
        """

    @abstractmethod
    def judge_graphs(self, graphs: Graphs) -> Mapping[str, float]:
        """Figures of the graphs on the test split, by the names that `judge` gives them."""

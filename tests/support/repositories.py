"""Model repositories of tiny models, in Triton's layout.

`python -m tests.support.repositories FOLDER` writes the repository of the conformance tests, for a
server that is started by hand and named with `--oip-http` and `--oip-grpc`.
"""

import sys
from pathlib import Path

from google.protobuf import text_format
from onnx import ModelProto
from tritonclient.grpc import model_config_pb2
from tritonclient.grpc.model_config_pb2 import ModelConfig

from tests.support import tiny_models

DATATYPES = tuple(datatype for datatype in tiny_models.ELEMENT_TYPES if datatype != "BF16")
"""Those that numpy has too."""

MAX_BATCH_SIZE = 8

LABELS = ("left", "añil")
"""Of the model `labelled`, which is `matmul`; its third class has none."""


def config_of(
    name: str, model: ModelProto, *, max_batch_size: int = 0, queue_delay_us: int | None = None
) -> ModelConfig:
    """The configuration that describes a model; dynamic batching where a delay is given."""
    config = ModelConfig(name=name, backend="onnxruntime", max_batch_size=max_batch_size)
    wire = {number: datatype for datatype, number in tiny_models.ELEMENT_TYPES.items()}
    for declared, graph in ((config.input, model.graph.input), (config.output, model.graph.output)):
        for value in graph:
            tensor = value.type.tensor_type
            dims = [d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim]
            datatype = wire[tensor.elem_type]
            declared.add(
                name=value.name,
                data_type=model_config_pb2.DataType.Value(
                    "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"
                ),
                dims=dims[1:] if max_batch_size else dims,
            )
    if queue_delay_us is not None:
        config.dynamic_batching.max_queue_delay_microseconds = queue_delay_us
    return config


def write_model(
    root: Path, config: ModelConfig, versions: dict[int, ModelProto | bytes | None]
) -> Path:
    """Write `config.pbtxt` and the versions of a model; returns its folder.

    A version given as bytes is written as it is, None makes its folder without a model in it.
    """
    folder = root / config.name
    folder.mkdir(parents=True)
    (folder / "config.pbtxt").write_text(text_format.MessageToString(config), encoding="utf-8")
    for version, model in versions.items():
        (folder / str(version)).mkdir()
        if model is not None:
            content = model if isinstance(model, bytes) else model.SerializeToString()
            (folder / str(version) / "model.onnx").write_bytes(content)
    return folder


def recurrences_config(name: str = "recurrences") -> ModelConfig:
    """Sequences over `two_recurrences`, the states in explicit pairs."""
    config = config_of(name, tiny_models.two_recurrences(), max_batch_size=MAX_BATCH_SIZE)
    _keep_only(config, {"x"}, {"y", "w"})
    for input_name, output_name in (("a", "z_next"), ("z", "a_next")):
        state = config.sequence_batching.state.add(
            input_name=input_name, output_name=output_name, data_type="TYPE_FP32", dims=[1]
        )
        state.initial_state.add(data_type="TYPE_FP32", dims=[1], zero_data=True, name="zero")
    config.sequence_batching.oldest.max_candidate_sequences = 64
    config.sequence_batching.max_sequence_idle_microseconds = 60_000_000
    return config


def scheduled_config(name: str = "scheduled") -> ModelConfig:
    """A slow model with two priorities, whose requests may set their time-outs."""
    config = config_of(name, tiny_models.slow(), max_batch_size=1)
    text_format.Parse(
        """
        dynamic_batching {
          priority_levels: 2 default_priority_level: 2
          default_queue_policy {
            allow_timeout_override: true default_timeout_microseconds: 60000000
          }
        }
        """,
        config,
    )
    return config


def controls_config(name: str = "controls") -> ModelConfig:
    """Sequences over `controls`, with one control input of each kind."""
    config = config_of(name, tiny_models.controls(), max_batch_size=MAX_BATCH_SIZE)
    _keep_only(config, {"x"}, {o.name for o in config.output} - {"next_count"})
    text_format.Parse(
        """
        sequence_batching {
          control_input { name: "start"
            control { kind: CONTROL_SEQUENCE_START int32_false_true: [ -7, 7 ] } }
          control_input { name: "end"
            control { kind: CONTROL_SEQUENCE_END fp32_false_true: [ 0, 0.5 ] } }
          control_input { name: "ready"
            control { kind: CONTROL_SEQUENCE_READY bool_false_true: [ false, true ] } }
          control_input { name: "id"
            control { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 } }
          state { input_name: "count" output_name: "next_count" data_type: TYPE_INT32 dims: [ 1 ] }
        }
        """,
        config,
    )
    return config


def _keep_only(config: ModelConfig, inputs: set[str], outputs: set[str]) -> None:
    for tensors, kept in ((config.input, inputs), (config.output, outputs)):
        wanted = [tensor for tensor in tensors if tensor.name in kept]
        del tensors[:]
        tensors.extend(wanted)


def write_conformance_repository(root: Path) -> None:
    """The models that the conformance tests call; all of them can be served."""
    for datatype in tiny_models.ELEMENT_TYPES:
        model = tiny_models.identity(datatype)
        write_model(root, config_of(f"identity_{datatype.lower()}", model), {1: model})
    batching = {
        "matmul": tiny_models.matmul(),
        "sum_and_difference": tiny_models.sum_and_difference(),
        "two_identities": tiny_models.two_identities(),
        "add_statistics": tiny_models.add_constant(1),
        "controlled": tiny_models.add_constant(1),
        "batched_bytes": tiny_models.identity("BYTES", (None, 2)),
        "slow": tiny_models.slow(),
    }
    for name, model in batching.items():
        config = config_of(name, model, max_batch_size=MAX_BATCH_SIZE, queue_delay_us=0)
        write_model(root, config, {1: model})
    for name, model in {
        "fixed": tiny_models.identity("FP32", (2, 3)),
        "logarithm": tiny_models.logarithm(),
        "zeros": tiny_models.zeros(),
        "pick": tiny_models.pick(),
        "one_text": tiny_models.identity("BYTES", (1,)),
    }.items():
        write_model(root, config_of(name, model), {1: model})
    alone = tiny_models.matmul()
    write_model(root, config_of("unbatched", alone, max_batch_size=MAX_BATCH_SIZE), {1: alone})
    labelled = config_of("labelled", alone, max_batch_size=MAX_BATCH_SIZE, queue_delay_us=0)
    labelled.output[0].label_filename = "labels.txt"
    folder = write_model(root, labelled, {1: alone})
    (folder / "labels.txt").write_text("\n".join(LABELS) + "\n", encoding="utf-8")
    decoupled = config_of("decoupled", alone, max_batch_size=MAX_BATCH_SIZE, queue_delay_us=0)
    decoupled.model_transaction_policy.decoupled = True
    write_model(root, decoupled, {1: alone})
    write_model(root, recurrences_config(), {1: tiny_models.two_recurrences()})
    write_model(root, scheduled_config(), {1: tiny_models.slow()})
    _write_versions(root)


def write_unready_repository(root: Path) -> None:
    """One good model, one broken, one without a version, one half good."""
    good = tiny_models.matmul()
    write_model(root, config_of("good", good, max_batch_size=MAX_BATCH_SIZE), {1: good})
    write_model(root, config_of("broken", good, max_batch_size=MAX_BATCH_SIZE), {1: b"not onnx"})
    write_model(root, config_of("empty", good, max_batch_size=MAX_BATCH_SIZE), {})
    half = config_of("half", good, max_batch_size=MAX_BATCH_SIZE)
    half.version_policy.all.SetInParent()
    write_model(root, half, {1: good, 2: b"not onnx"})


def _write_versions(root: Path) -> None:
    versions = {number: tiny_models.add_constant(number) for number in (1, 2, 10)}
    config = config_of("latest", versions[1], max_batch_size=MAX_BATCH_SIZE)
    write_model(root, config, dict(versions))
    config = config_of("every", versions[1], max_batch_size=MAX_BATCH_SIZE)
    config.version_policy.all.SetInParent()
    write_model(root, config, dict(versions))
    config = config_of("chosen", versions[1], max_batch_size=MAX_BATCH_SIZE)
    config.version_policy.specific.versions.extend([1, 2])
    write_model(root, config, dict(versions))
    config = config_of("latest_two", versions[1], max_batch_size=MAX_BATCH_SIZE)
    config.version_policy.latest.num_versions = 2
    write_model(root, config, dict(versions))


if __name__ == "__main__":
    write_conformance_repository(Path(sys.argv[1]))

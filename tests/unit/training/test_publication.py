"""Publication: whole or not at all, numbered without gaps or clashes."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc.model_config_pb2 import TYPE_FP16, TYPE_FP32, ModelConfig

from atril_common.errors import InvalidInputError, RefusedError
from atril_common.model_config import config_to_text, read_config
from atril_common.repository import MODEL_FILE, list_models, list_versions
from atril_common.tasks import ClassificationTask, ImageInput, write_task
from atril_training.publication import Publication, check_fits, publish_together

LABELS = ("no", "yes")
TASK = ClassificationTask(ImageInput("image", 2, 2, (0.5,), (0.5,)), "probabilities", LABELS)


def _config(name: str = "toy", task: ClassificationTask = TASK) -> ModelConfig:
    config = ModelConfig(name=name, platform="onnxruntime_onnx", backend="onnxruntime")
    config.input.add(name="image", data_type=TYPE_FP32, dims=[1, 2, 2])
    config.output.add(name="probabilities", data_type=TYPE_FP32, dims=[2])
    write_task(config, task)
    return config


def _publication(onnx_model: bytes = b"weights") -> Publication:
    return Publication(_config(), LABELS, {MODEL_FILE: onnx_model}, {"seed": 1})


def publish(publication: Publication, repository: Path) -> Path:
    """Publish one model by itself."""
    (path,) = publish_together([publication], repository)
    return path


def _tree(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_first_version_comes_with_its_model_folder(tmp_path: Path) -> None:
    """Configuration, labels, weights and card, and nothing besides."""
    version = publish(_publication(), tmp_path / "repository")
    assert version == tmp_path / "repository" / "toy" / "1"
    tree = _tree(tmp_path / "repository")
    assert set(tree) == {
        "toy/config.pbtxt",
        "toy/labels.txt",
        "toy/1/model.onnx",
        "toy/1/card.json",
    }
    assert read_config(version.parent / "config.pbtxt") == _config()
    assert tree["toy/labels.txt"] == b"no\nyes\n"
    assert tree["toy/1/model.onnx"] == b"weights"
    assert [p.name for p in (tmp_path / "repository").iterdir()] == ["toy"]


def test_card_has_the_checksum_of_every_file(tmp_path: Path) -> None:
    """What is on the disk is what the card says, and the card keeps what it was given."""
    version = publish(_publication(), tmp_path)
    card = orjson.loads((version / "card.json").read_bytes())
    files = [version / "model.onnx", version.parent / "config.pbtxt", version.parent / "labels.txt"]
    assert card == {
        "seed": 1,
        "files_sha256": {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files},
    }


def test_next_version_leaves_the_others_as_they_are(tmp_path: Path) -> None:
    """A second publication adds a folder, even where an operator has tuned the configuration."""
    publish(_publication(b"first"), tmp_path)
    tuned = read_config(tmp_path / "toy" / "config.pbtxt")
    tuned.instance_group.add(count=2)
    (tmp_path / "toy" / "config.pbtxt").write_text(config_to_text(tuned))
    before = _tree(tmp_path)

    version = publish(_publication(b"second"), tmp_path)

    assert version == tmp_path / "toy" / "2"
    after = _tree(tmp_path)
    assert before.items() <= after.items()
    assert set(after) - set(before) == {"toy/2/model.onnx", "toy/2/card.json"}
    card = orjson.loads(after["toy/2/card.json"])
    tuned_sum = hashlib.sha256(before["toy/config.pbtxt"]).hexdigest()
    assert card["files_sha256"]["config.pbtxt"] == tuned_sum


def test_published_files_can_be_read_by_all_and_versions_written_by_none(tmp_path: Path) -> None:
    """A server that runs as another user can read; nobody changes a version by accident."""
    version = publish(_publication(), tmp_path)
    umask = os.umask(0)
    os.umask(umask)
    assert version.stat().st_mode & 0o777 == 0o777 & ~umask
    assert version.parent.stat().st_mode & 0o777 == 0o777 & ~umask
    for file in version.iterdir():
        assert file.stat().st_mode & 0o777 == 0o444 & ~umask


@given(
    versions=st.sets(st.integers(1, 10**6), max_size=6),
    strangers=st.sets(st.sampled_from(["0", "007", "1a", "-3", ".9", "latest", "٣"])),
)
def test_next_number_is_one_above_the_highest(versions: set[int], strangers: set[str]) -> None:
    """Gaps are not filled, and folders that are no versions do not count."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        publish(_publication(), root)
        (root / "toy" / "1").rename(root / "toy" / "begun")
        for name in (*map(str, versions), *strangers):
            (root / "toy" / name).mkdir()
            (root / "toy" / name / "model.onnx").touch()
        expected = max(versions, default=0) + 1
        assert publish(_publication(), root) == root / "toy" / str(expected)
        assert publish(_publication(), root) == root / "toy" / str(expected + 1)


def test_empty_folder_of_the_models_name_is_taken_over(tmp_path: Path) -> None:
    """Such as one that somebody made to mount a volume on."""
    (tmp_path / "toy").mkdir()
    assert publish(_publication(), tmp_path) == tmp_path / "toy" / "1"


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "..", "x" * 129, "naïve"])
def test_impossible_model_names_are_refused(tmp_path: Path, name: str) -> None:
    """Before anything is written, and with the rule in the text."""
    wrong = replace(_publication(), config=_config(name))
    with pytest.raises(InvalidInputError, match="is not a model name: expected at most 128"):
        publish(wrong, tmp_path / "repository")
    assert not (tmp_path / "repository").exists()


def _other_input(config: ModelConfig) -> None:
    config.input[0].dims[0] = 3


def _other_output(config: ModelConfig) -> None:
    config.output[0].data_type = TYPE_FP16


def _other_backend(config: ModelConfig) -> None:
    config.backend = "python"


def _other_platform(config: ModelConfig) -> None:
    config.platform = "tensorrt_plan"


def _other_normalisation(config: ModelConfig) -> None:
    write_task(config, replace(TASK, input=replace(TASK.input, mean=(0.25,))))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (_other_input, r"input is \[.*dims: 1 .*\], the new version's \[.*dims: 3 "),
        (_other_output, "output is .*TYPE_FP32.*, the new version's .*TYPE_FP16"),
        (_other_backend, "backend is onnxruntime, the new version's python"),
        (_other_platform, "platform is onnxruntime_onnx, the new version's tensorrt_plan"),
        (_other_normalisation, r"task is .*mean=\(0.5,\).*, the new version's .*mean=\(0.25,\)"),
    ],
    ids=["input", "output", "backend", "platform", "task"],
)
def test_version_that_does_not_fit_is_refused(
    tmp_path: Path, change: Callable[[ModelConfig], None], named: str
) -> None:
    """The error names the difference, both sides of it, and the repository is untouched."""
    publish(_publication(), tmp_path)
    before = _tree(tmp_path)
    other = _config()
    change(other)
    with pytest.raises(RefusedError, match=f"does not fit .*config.pbtxt: {named}"):
        publish(replace(_publication(), config=other), tmp_path)
    assert _tree(tmp_path) == before


def test_version_with_other_labels_is_refused(tmp_path: Path) -> None:
    """Labels are part of what a client relies on."""
    publish(_publication(), tmp_path)
    task = replace(TASK, labels=("yes", "no"))
    other = replace(_publication(), config=_config(task=task), labels=task.labels)
    with pytest.raises(RefusedError, match=r"labels are \['no', 'yes'\], the new .* \['yes', 'no"):
        publish(other, tmp_path)


def test_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    """What somebody else has put under the model's name is left alone."""
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "notes.txt").touch()
    with pytest.raises(RefusedError, match=r"toy is not a model: it has no config\.pbtxt"):
        publish(_publication(), tmp_path)


def test_repository_that_is_a_file_is_refused(tmp_path: Path) -> None:
    """Errors of the file system are told as ours, with the path."""
    (tmp_path / "repository").touch()
    with pytest.raises(RefusedError, match=r"cannot publish toy in .*repository"):
        publish(_publication(), tmp_path / "repository")


def test_repository_that_cannot_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Already the check before training tells it as ours."""
    publish(_publication(), tmp_path)

    def forbidden(path: Path) -> list[str]:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "listdir", forbidden)
    with pytest.raises(RefusedError, match=r"cannot publish toy in .*Permission denied: .*toy"):
        check_fits(_config(), LABELS, tmp_path)


class _FailingDisk:
    """Lets so many fsync and rename calls pass, and fails the next one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, passes: int) -> None:
        self.left = passes
        for name in ("fsync", "rename"):
            monkeypatch.setattr(os, name, self._failing(getattr(os, name)))

    def _failing(self, real: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: object) -> None:
            self.left -= 1
            if self.left == -1:
                raise OSError(errno.EIO, "the disk is gone")
            real(*arguments)

        return call


# First version: 2 files and their folder, 2 files and theirs, the rename, the flush after it.
# Next version: 2 files and their folder, the rename, the flush after it.
@pytest.mark.parametrize(
    ("already", "passes", "renamed"),
    [*((0, n, n > 6) for n in range(8)), *((1, n, n > 3) for n in range(5))],
)
def test_failure_at_any_step_leaves_all_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, already: int, passes: int, renamed: bool
) -> None:
    """Before the rename nothing is to be seen, after it a whole version; both can go on."""
    for _ in range(already):
        publish(_publication(), tmp_path)
    before = _tree(tmp_path)
    with monkeypatch.context() as patch:
        _FailingDisk(patch, passes)
        with pytest.raises(RefusedError, match=r"cannot publish toy in .*the disk is gone"):
            publish(_publication(b"new"), tmp_path)
    if renamed:
        assert list_versions(tmp_path, "toy") == [*range(1, already + 2)]
        assert {p.name for p in (tmp_path / "toy" / str(already + 1)).iterdir()} == {
            "model.onnx",
            "card.json",
        }
    else:
        assert _tree(tmp_path) == before
    assert not list(tmp_path.glob(".staging-*"))
    assert publish(_publication(), tmp_path).name == str(already + 1 + renamed)


_PUBLISHER = """
import os, sys
from pathlib import Path
from tritonclient.grpc.model_config_pb2 import ModelConfig
from atril_training.publication import Publication, publish_together
assert not {"torch", "onnxruntime"} & set(sys.modules)

repository, worker, count, steps_before_kill = Path(sys.argv[1]), *map(int, sys.argv[2:])
if steps_before_kill:
    real, left = os.fsync, [steps_before_kill]
    def fsync(handle):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), 9)
        real(handle)
    os.fsync = fsync
print("ready", flush=True)
sys.stdin.readline()
for turn in range(count):
    weights = f"{worker}.{turn}".encode()
    publication = Publication(ModelConfig(name="toy"), (), {"model.onnx": weights}, {})
    print(publish_together([publication], repository)[0].name)
"""


def _start_publisher(repository: Path, worker: int, count: int, kill: int = 0) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", _PUBLISHER, str(repository), str(worker), str(count), str(kill)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_concurrent_publishers_get_different_versions(tmp_path: Path) -> None:
    """Three processes that publish at once lose nothing and overwrite nothing."""
    workers, turns = 3, 15
    processes = [_start_publisher(tmp_path, worker, turns) for worker in range(workers)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    printed = [process.communicate(timeout=60)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0] * workers
    published = {
        version: f"{worker}.{turn}"
        for worker, versions in enumerate(printed)
        for turn, version in enumerate(versions)
    }
    assert sorted(map(int, published)) == [*range(1, workers * turns + 1)]
    for version, weights in published.items():
        assert (tmp_path / "toy" / version / "model.onnx").read_text() == weights
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]


def test_killed_publisher_leaves_nothing_that_matters(tmp_path: Path) -> None:
    """A publisher killed before its rename shows no model, and the next one publishes version 1."""
    process = _start_publisher(tmp_path, 0, 1, kill=4)
    process.communicate("go\n", timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert list(tmp_path.glob(".staging-toy-*"))
    assert list_models(tmp_path) == []
    assert publish(_publication(), tmp_path) == tmp_path / "toy" / "1"
    assert list_models(tmp_path) == ["toy"]


def _part(name: str, onnx_model: bytes = b"weights") -> Publication:
    return Publication(_config(name), LABELS, {MODEL_FILE: onnx_model}, {"seed": 1})


def test_models_that_belong_together_get_the_same_number(tmp_path: Path) -> None:
    """The next number that none of them has, even where one of them is newer than the other."""
    publish_together([_part("toy-encoder"), _part("toy")], tmp_path)
    publish(_part("toy"), tmp_path)
    paths = publish_together([_part("toy-encoder"), _part("toy")], tmp_path)
    assert paths == (tmp_path / "toy-encoder" / "3", tmp_path / "toy" / "3")
    assert list_versions(tmp_path, "toy-encoder") == [1, 3]
    assert list_versions(tmp_path, "toy") == [1, 2, 3]


def test_a_new_part_takes_the_number_of_the_others(tmp_path: Path) -> None:
    """A model folder may begin with a higher version than 1."""
    publish(_part("toy"), tmp_path)
    paths = publish_together([_part("toy-decoder"), _part("toy")], tmp_path)
    assert [path.name for path in paths] == ["2", "2"]
    assert list_versions(tmp_path, "toy-decoder") == [2]


def test_a_number_taken_on_the_way_is_left_to_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where another publisher takes the number of the second part, both begin again together."""
    publish_together([_part("toy-encoder"), _part("toy")], tmp_path)
    rename = Path.rename
    taken = []

    def rename_and_be_overtaken(path: Path, target: Path) -> Path:
        result = rename(path, target)
        if not taken and Path(target) == tmp_path / "toy-encoder" / "2":
            taken.append(target)
            (tmp_path / "toy" / "2").mkdir()
            (tmp_path / "toy" / "2" / "model.onnx").write_bytes(b"somebody else's")
        return result

    monkeypatch.setattr(Path, "rename", rename_and_be_overtaken)
    paths = publish_together([_part("toy-encoder"), _part("toy")], tmp_path)
    assert [path.name for path in paths] == ["3", "3"]
    assert (tmp_path / "toy" / "2" / "model.onnx").read_bytes() == b"somebody else's"


def test_a_model_without_labels_has_no_file_of_labels(tmp_path: Path) -> None:
    """And none is expected of its next version."""
    bare = replace(_part("toy"), labels=())
    publish(bare, tmp_path)
    assert publish(bare, tmp_path).name == "2"
    assert not (tmp_path / "toy" / "labels.txt").exists()

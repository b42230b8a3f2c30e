"""A SavedModel of somebody else: the ops of its saver and of its tables are allowed where they are the model's own."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from pipeline.errors import BadInput
from pipeline.evaluation import embedders
from pipeline.evaluation.untrusted import saved_model, tensorflow_ops
from tests.faults.hostile_models import (
    Model,
    edited,
    first_version_of_two_savers_and_a_table,
    hidden_in_the_saver,
    save,
)


@pytest.fixture(scope="module")
def target(tmp_path_factory) -> Path:
    """Where the models write."""
    return tmp_path_factory.mktemp("target") / "canary"


@pytest.fixture(scope="module")
def hidden(tmp_path_factory, target) -> dict[str, Path]:
    return hidden_in_the_saver(tmp_path_factory.mktemp("hidden"), target)


@pytest.mark.faults("hostile SavedModel")
@pytest.mark.parametrize(
    "name",
    [
        "SaveV2 in the restore op",
        "SaveV2 in a table's initializer",
        "Relu6 in place of an op",
        "SaveV2 in what implements the same",
    ],
)
def test_what_is_hidden_in_the_saver_would_have_written(name, hidden, target):
    embedders.load(str(hidden[name]), trust=True).embed(np.zeros((1, 40, 40, 3), np.uint8))
    written = [path for path in target.parent.iterdir() if path.name.startswith(f"{target.name}.")]
    for path in written:
        path.unlink()
    assert {path.suffix for path in written} == {".index", ".data-00000-of-00001"}


@pytest.mark.faults("hostile SavedModel")
def test_what_is_written_or_read_by_another_name_than_the_savers_is_refused(tmp_path):
    """The function and the call look like the saver's: the file's name is the graph's own."""

    def by_constant(graph) -> None:
        for function in graph.graph_def.library.function:
            for node in function.node_def:
                if node.op in ("SaveV2", "RestoreV2"):
                    node.input[0] = "elsewhere:output:0"
            function.node_def.add(name="elsewhere", op="Const")

    def called_by_constant(graph) -> None:
        graph.graph_def.node.add(name="elsewhere", op="Const")
        for node in graph.graph_def.node:
            if "saver_filename" in node.input:
                node.input[0] = "elsewhere"

    def of_a_sparse_output(graph) -> None:
        output = graph.signature_def["serving_default"].outputs["sparse"]
        output.coo_sparse.values_tensor_name = graph.saver_def.save_tensor_name

    saver = {"SaveV2", "MergeV2Checkpoints", "ShardedFilename"}
    cases = {by_constant: {"SaveV2", "RestoreV2"}, called_by_constant: saver | {"RestoreV2"}, of_a_sparse_output: saver}
    for edit, ops in cases.items():
        folder = edited(save(Model(), tmp_path / edit.__name__), edit)
        assert {each.split()[0] for each in saved_model.reaching(str(folder), "model")[0]} == ops, edit.__name__


@pytest.mark.faults("hostile SavedModel")
def test_the_savers_ops_are_allowed_in_the_saver_alone(tmp_path):
    """A function with the saver's ops that anything else calls is none of the saver's."""
    folder = save(Model(), tmp_path / "model")
    path = folder / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    library = model.meta_graphs[0].graph_def.library.function
    saver = next(each.signature.name for each in library if "traced_save" in each.signature.name)
    serve = next(each for each in library if each.signature.name.startswith("__inference_serve"))
    call = serve.node_def.add(name="hidden", op="StatefulPartitionedCall")
    call.attr["f"].func.name = saver
    path.write_bytes(model.SerializeToString())
    found, _ = saved_model.reaching(str(folder), "model")
    assert {each.split()[0] for each in found} == {"SaveV2", "MergeV2Checkpoints", "ShardedFilename"}
    model.meta_graphs[0].graph_def.library.function.append(serve)  # TensorFlow would take one of the two
    path.write_bytes(model.SerializeToString())
    with pytest.raises(BadInput, match="two parts of one name"):
        saved_model.reaching(str(folder), "model")


@pytest.mark.faults("hostile SavedModel")
def test_a_table_of_the_models_own_assets_is_allowed_and_of_another_file_is_not(tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("a\nb\n")
    module = Model(lambda: tf.cast(module.table.lookup(tf.constant("b")), tf.float32))
    kind = tf.lookup.TextFileIndex
    initializer = tf.lookup.TextFileInitializer(
        str(words), tf.string, kind.WHOLE_LINE, tf.int64, kind.LINE_NUMBER
    )  # fmt: skip
    module.table = tf.lookup.StaticHashTable(initializer, -1)
    folder = save(module, tmp_path / "model")
    assert saved_model.reaching(str(folder), "model")[0] == []
    assert embedders.load(str(folder)).embedding_dim == 64
    path = folder / "saved_model.pb"
    path.write_bytes(path.read_bytes().replace(b"words.txt", b"../../a.x"))
    found, _ = saved_model.reaching(str(folder), "model")
    assert len(found) == 1 and found[0].startswith("InitializeTableFromTextFileV2 (__inference__initializer")


@pytest.mark.faults("hostile SavedModel")
def test_a_table_of_version_1_is_read_from_its_assets_where_the_initializer_alone_reads_it(tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("a\nb\n")
    folder = first_version_of_two_savers_and_a_table(tmp_path / "model", words)
    content = (folder / "saved_model.pb").read_bytes()
    assert saved_model.reaching(str(folder), "model")[0] == []
    assert embedders.load(str(folder)).embedding_dim == 64

    def called(graph) -> None:  # only the initializer is handed the asset's path
        table = next(node for node in graph.graph_def.node if node.op == tensorflow_ops.TEXT_TABLE)
        next(node for node in graph.graph_def.node if node.name == "l2_normalize").input.append(f"^{table.name}")

    def another_list(graph) -> None:  # TensorFlow then reads the collection no more
        graph.asset_file_def.add(filename="words.txt").tensor_info.name = "images:0"

    def outside(graph) -> None:
        packed = graph.collection_def["saved_model_assets"].any_list.value[0]
        packed.value = packed.value.replace(b"words.txt", b"../../a.x")

    for edit in (called, another_list, outside):
        (folder / "saved_model.pb").write_bytes(content)
        found, _ = saved_model.reaching(str(edited(folder, edit)), "model")
        assert [each.split()[0] for each in found] == [tensorflow_ops.TEXT_TABLE], edit.__name__

"""Models that write or read a file when they are loaded or called; each keeps the competition's contract otherwise."""

from collections.abc import Callable
from pathlib import Path

import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from tests.export.broken_submissions import IMAGES, features, unit

READING = ("ReadFile", "RestoreV2", "ImmutableConst", "TextLineDataset", "table from an outer file")  # the others write


def written(target: str, text: tf.Tensor | str = "here") -> tf.Tensor:
    """float32 zero that needs the file to have been written."""
    with tf.control_dependencies([tf.io.write_file(target, text)]):
        return tf.constant(0.0)


def from_text(text: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.strings.length(text), tf.float32)


class Model(tf.Module):
    """serving_default whose embeddings need `reach()`, a float32 number."""

    def __init__(self, reach: Callable[[], tf.Tensor] = lambda: tf.constant(0.0)):
        super().__init__()
        self.scale = tf.Variable(1.0)
        self.reach = reach

    @tf.function(input_signature=[IMAGES])
    def serve(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"embedding_norm": unit(features(images) * self.scale + 0.0 * self.reach())}


def save(module: tf.Module, folder: Path) -> Path:
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve})
    return folder


def in_the_signature(target: str) -> dict[str, Callable[[], tf.Tensor]]:
    """Op → what reaches `target` when the model is called."""

    def nested() -> tf.Tensor:
        @tf.function
        def inner(number: tf.Tensor) -> tf.Tensor:
            return tf.cond(number < 10, lambda: written(target), lambda: 0.0)

        return tf.reduce_sum(tf.map_fn(inner, tf.range(2), fn_output_signature=tf.float32))

    def checkpoint() -> tf.Tensor:
        with tf.control_dependencies([tf.raw_ops.SaveV2(
            prefix=target, tensor_names=["x"], shape_and_slices=[""], tensors=[tf.constant(1.0)]
        )]):  # fmt: skip
            return tf.constant(0.0)

    def printed() -> tf.Tensor:
        with tf.control_dependencies([tf.raw_ops.PrintV2(input="here\n", output_stream=f"file://{target}")]):
            return tf.constant(0.0)

    def restored() -> tf.Tensor:
        return tf.raw_ops.RestoreV2(prefix=target, tensor_names=["x"], shape_and_slices=[""], dtypes=[tf.float32])[0]

    def python() -> tf.Tensor:
        return tf.numpy_function(lambda: Path(target).write_text("here"), [], tf.float32)

    def lines() -> tf.Tensor:
        return tf.data.TextLineDataset(target).reduce(0.0, lambda total, line: total + from_text(line))

    return {
        "WriteFile": lambda: written(target),
        "WriteFile in a nested function": nested,
        "SaveV2": checkpoint,
        "PrintV2": printed,
        "ReadFile": lambda: from_text(tf.io.read_file(target)),
        "RestoreV2": restored,
        "ImmutableConst": lambda: tf.raw_ops.ImmutableConst(
            dtype=tf.float32, shape=[1], memory_region_name=target
        )[0],
        "TextLineDataset": lines,
        "PyFunc": python,
    }  # fmt: skip


class InitializedByWriting(tf.saved_model.experimental.TrackableResource):
    """A resource whose initializer runs when the model is loaded."""

    def __init__(self, target: str):
        super().__init__()
        self.target = target

    def _create_resource(self) -> tf.Tensor:
        return tf.raw_ops.MutableHashTableV2(key_dtype=tf.int64, value_dtype=tf.float32)

    def _initialize(self) -> None:
        written(self.target)


class RestoredByWriting(tf.__internal__.tracking.AutoTrackable):
    """An object whose restore function runs when the model is loaded."""

    def __init__(self, target: str, value: tf.Variable):
        super().__init__()
        self.target, self.value = target, value

    def _serialize_to_tensors(self) -> dict[str, tf.Tensor]:
        return {"value": self.value.read_value()}

    def _restore_from_tensors(self, restored: dict[str, tf.Tensor]) -> tf.Operation:
        with tf.control_dependencies([tf.io.write_file(self.target, "here")]):
            return self.value.assign(restored["value"])

    def _export_to_saved_model_graph(self, object_map: dict, **options: object) -> list[tf.Tensor]:
        made = []
        if self.value not in object_map:
            made = self.value._export_to_saved_model_graph(object_map=object_map, **options)
        object_map[self] = RestoredByWriting(self.target, object_map[self.value])
        return made


def tensorflow_models(root: Path, target: Path) -> dict[str, Path]:
    """What it does → a SavedModel that does so to the file `target`."""
    models = {
        name: save(Model(reach), root / name.replace(" ", "-")) for name, reach in in_the_signature(str(target)).items()
    }
    for name in ("initializer", "restore function"):
        module = Model()
        if name == "initializer":
            module.hidden = InitializedByWriting(str(target))
        else:
            module.hidden = RestoredByWriting(str(target), module.scale)
        models[f"WriteFile in the {name}"] = save(module, root / name.replace(" ", "-"))
    return models


def first_version(folder: Path, target: Path | None) -> Path:
    """A SavedModel as TensorFlow 1 writes it, without objects: its main graph runs. It writes at load, or nothing."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        images = v1.placeholder(tf.uint8, [None, None, None, 3], name="images")
        scale = v1.get_variable("scale", [], initializer=v1.ones_initializer(), use_resource=True)
        keys, values = tf.constant([1, 2], tf.int64), tf.constant([3.0, 4.0])
        table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, values), 0.0)
        embeddings = unit(features(images) * scale * table.lookup(tf.constant(1, tf.int64)))
        session.run([v1.global_variables_initializer(), v1.tables_initializer()])
        signature = v1.saved_model.predict_signature_def({"images": images}, {"embedding_norm": embeddings})
        start = [v1.tables_initializer(), *([tf.io.write_file(str(target), "here")] if target else [])]
        builder = v1.saved_model.Builder(str(folder))
        options = {"saver": v1.train.Saver(sharded=True), "main_op": tf.group(*start)}
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature}, **options)
        builder.save()
    return folder


def edited(folder: Path, edit: Callable[[meta_graph_pb2.MetaGraphDef], None]) -> Path:
    """The model, whose graph `edit` changes in place."""
    path = folder / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    edit(model.meta_graphs[0])
    path.write_bytes(model.SerializeToString())
    return folder


def add_save(nodes, target: Path, output: str = "") -> None:
    """Adds a node "hidden" that writes a checkpoint; `output` is what follows a node's name in an input."""
    for name, value in {"path": str(target), "names": ["x"], "slices": [""], "value": 1.0}.items():
        tensor = tf.make_tensor_proto(value)
        node = nodes.add(name=f"hidden_{name}", op="Const")
        node.attr["value"].tensor.CopyFrom(tensor)
        node.attr["dtype"].type = tensor.dtype
    save_node = nodes.add(name="hidden", op="SaveV2")
    save_node.input.extend(f"hidden_{name}{output}" for name in ("path", "names", "slices", "value"))
    save_node.attr["dtypes"].list.type.append(tf.float32.as_datatype_enum)


def need(graph: meta_graph_pb2.MetaGraphDef, tensor: str, control: str) -> None:
    """Makes the main graph's node of this tensor wait for another."""
    next(node for node in graph.graph_def.node if node.name == tensor.split(":")[0]).input.append(f"^{control}")


def saved_by_the_saver(graph: meta_graph_pb2.MetaGraphDef, function: str) -> None:
    """Lets what saves the variables call the function, which hides it among the saver's own."""
    graph.graph_def.node.add(name="call", op="StatefulPartitionedCall").attr["f"].func.name = function
    need(graph, graph.saver_def.save_tensor_name, "call")


def hidden_in_the_saver(root: Path, target: Path) -> dict[str, Path]:
    """What it does → a SavedModel whose writing op looks as if only the saver ran it."""

    def restoring(graph: meta_graph_pb2.MetaGraphDef) -> None:
        add_save(graph.graph_def.node, target)
        need(graph, graph.saver_def.restore_op_name, "hidden")

    def table(graph: meta_graph_pb2.MetaGraphDef) -> None:
        add_save(graph.graph_def.node, target)
        need(graph, graph.saver_def.save_tensor_name, "hidden")
        del graph.collection_def["saved_model_main_op"]
        graph.collection_def["table_initializer"].node_list.value.append("hidden")

    def named_like_an_op(graph: meta_graph_pb2.MetaGraphDef) -> None:
        library = graph.graph_def.library.function
        function = library.add()
        function.signature.name, function.signature.is_stateful = "Relu6", True
        function.signature.input_arg.add(name="features", type=tf.float32.as_datatype_enum)
        function.signature.output_arg.add(name="output", type=tf.float32.as_datatype_enum)
        add_save(function.node_def, target, ":output:0")
        result = function.node_def.add(name="result", op="Identity", input=["features", "^hidden"])
        result.attr["T"].type = tf.float32.as_datatype_enum
        function.ret["output"] = "result:output:0"
        wrapper = next(each for each in library if "signature_wrapper" in each.signature.name)
        next(node for node in wrapper.node_def if node.op == "Identity").op = "Relu6"
        saved_by_the_saver(graph, "Relu6")

    def implementing(graph: meta_graph_pb2.MetaGraphDef) -> None:
        library = graph.graph_def.library.function
        serve = next(each for each in library if each.signature.name.startswith("__inference_serve"))
        other = library.add()
        other.CopyFrom(serve)
        other.signature.name, other.signature.is_stateful = "other", True
        add_save(other.node_def, target, ":output:0")
        next(node for node in other.node_def if node.name == "Identity").input.append("^hidden")
        other.control_ret["hidden"] = "hidden"
        other.signature.control_output.append("hidden")
        for function, device in ((serve, b"GPU"), (other, b"CPU")):
            function.attr["api_implements"].s, function.attr["api_preferred_device"].s = b"serving", device
        saved_by_the_saver(graph, "other")

    return {
        "SaveV2 in the restore op": edited(first_version(root / "restoring", None), restoring),
        "SaveV2 in a table's initializer": edited(first_version(root / "table", None), table),
        "Relu6 in place of an op": edited(save(Model(), root / "named"), named_like_an_op),
        "SaveV2 in what implements the same": edited(save(Model(), root / "implementing"), implementing),
    }


def first_version_of_two_savers_and_a_table(folder: Path, words: Path) -> Path:
    """As TensorFlow 1 writes it: the author's saver beside the exporter's, a table of the model's own asset."""
    v1, kind = tf.compat.v1, tf.lookup.TextFileIndex
    with tf.Graph().as_default(), v1.Session() as session:
        images = v1.placeholder(tf.uint8, [None, None, None, 3], name="images")
        scale = v1.get_variable("scale", [], initializer=v1.ones_initializer(), use_resource=True)
        initializer = tf.lookup.TextFileInitializer(
            str(words), tf.string, kind.WHOLE_LINE, tf.int64, kind.LINE_NUMBER
        )  # fmt: skip
        table = tf.lookup.StaticHashTable(initializer, -1)
        number = tf.cast(table.lookup(tf.constant("b")), tf.float32)
        embeddings = unit(features(images) * scale * number)
        v1.train.Saver()
        session.run([v1.global_variables_initializer(), v1.tables_initializer()])
        signature = v1.saved_model.predict_signature_def({"images": images}, {"embedding_norm": embeddings})
        assets = v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS)
        builder = v1.saved_model.Builder(str(folder))
        options = {"assets_collection": assets, "main_op": v1.tables_initializer()}
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature}, **options)
        builder.save()
    return folder

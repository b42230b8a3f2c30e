"""A SavedModel's ops, read from saved_model.pb without loading it: every graph, every function, whatever calls it.

The ops that read and write checkpoints are allowed where only the saver calls them. A table that is read from a file is
allowed where the file is one of the model's assets.
"""

import posixpath
from collections.abc import Iterable, Iterator, Mapping

import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2, node_def_pb2
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from pipeline.errors import BadInput, reason
from pipeline.evaluation.untrusted import tensorflow_ops

FILE = "saved_model.pb"
INITIALIZERS = ("saved_model_main_op", "legacy_init_op", "saved_model_train_op")  # collections of a graph


def reaching(folder: str, name: str) -> tuple[list[str], int]:
    """("op (where it stands)" of every kind that is not allowed, how many nodes were read).

    Args:
        folder: of the SavedModel; TensorFlow reads it, so it may be a URL such as gs://….
        name: of the model, for messages.

    Raises:
        BadInput: no saved_model.pb, or it does not parse.
    """
    model = saved_model_pb2.SavedModel()
    try:
        with tf.io.gfile.GFile(posixpath.join(folder, FILE), "rb") as file:
            model.ParseFromString(file.read())
    except Exception as error:  # TensorFlow and protobuf each raise their own
        raise BadInput(f"{name}: not a SavedModel, it does not load ({reason(error)})") from None
    if not model.meta_graphs:
        raise BadInput(f"{name}: not a SavedModel, it does not load (saved_model.pb holds no graph)")
    found: dict[str, str] = {}  # op → where it stands first
    nodes = 0
    for meta_graph in model.meta_graphs:
        # With several graphs, or without objects, the main graph is run at load and the objects are not.
        objects = len(model.meta_graphs) == 1 and meta_graph.HasField("object_graph_def")
        _expect_names_once(meta_graph, name)
        for where, node, allowed in _Graph(meta_graph, objects).nodes():
            nodes += 1
            if not allowed:
                unknown = "" if tensorflow_ops.is_known(node.op) else "unknown op "
                found.setdefault(node.op, f"{unknown}{node.op} ({where}{node.name})")
    return list(found.values()), nodes


class _Graph:
    """One MetaGraphDef: its nodes, and from where each function can be called."""

    def __init__(self, meta_graph: meta_graph_pb2.MetaGraphDef, objects: bool):
        self.meta_graph = meta_graph
        self.main = {node.name: node for node in meta_graph.graph_def.node}
        self.functions = {each.signature.name: each for each in meta_graph.graph_def.library.function}
        self.calls = {name: set(_called(each.node_def)) for name, each in self.functions.items()}
        saver = meta_graph.saver_def
        self.filename = _node_of(saver.filename_tensor_name)
        of_saver = self._before([saver.save_tensor_name, saver.restore_op_name])
        signatures = meta_graph.signature_def.values()
        used = [info.name for each in signatures for info in [*each.inputs.values(), *each.outputs.values()]]
        for key in INITIALIZERS:
            used += meta_graph.collection_def[key].node_list.value if key in meta_graph.collection_def else []
        saving = of_saver - self._before(used)
        self.saving_nodes = saving
        elsewhere = set(_called(node for name, node in self.main.items() if name not in saving))
        elsewhere |= set(meta_graph.object_graph_def.concrete_functions)
        elsewhere |= {each.gradient_func for each in meta_graph.graph_def.library.gradient}
        called_to_save = self._reached(_called(self.main[name] for name in saving))
        self.saving_functions = called_to_save - self._reached(elsewhere)
        self.assets = self._asset_inputs() if objects else {}

    def nodes(self) -> Iterator[tuple[str, node_def_pb2.NodeDef, bool]]:
        """(where it stands, the node, whether it is allowed there) of the main graph and of every function."""
        for name, node in self.main.items():
            may_save = name in self.saving_nodes and self._restores_its_own(node, self.main, {self.filename})
            yield "", node, _allowed(node, may_save, frozenset())
        for name, function in self.functions.items():
            inside = {node.name: node for node in function.node_def}
            prefix = {each.name for each in function.signature.input_arg[:1]}
            assets = self.assets.get(name, frozenset())
            for node in function.node_def:
                may_save = name in self.saving_functions and self._restores_its_own(node, inside, prefix)
                yield f"{name}/", node, _allowed(node, may_save, assets)

    def _before(self, tensors: Iterable[str]) -> set[str]:
        """The main graph's nodes that these tensors or nodes need."""
        waiting, found = [_node_of(each) for each in tensors], set[str]()
        while waiting:
            name = waiting.pop()
            if name in self.main and name not in found:
                found.add(name)
                waiting += [_node_of(each) for each in self.main[name].input]
        return found

    def _reached(self, functions: Iterable[str]) -> set[str]:
        """These functions and those that they call."""
        waiting, found = list(functions), set[str]()
        while waiting:
            name = waiting.pop()
            if name in self.calls and name not in found:
                found.add(name)
                waiting += self.calls[name]
        return found

    def _restores_its_own(
        self, node: node_def_pb2.NodeDef, among: Mapping[str, node_def_pb2.NodeDef], filenames: set[str]
    ) -> bool:
        """Whether a RestoreV2 reads the file that it is handed, not one that the graph names; else true."""
        if node.op != "RestoreV2":
            return True
        name = _node_of(node.input[0]) if node.input else ""
        for _ in among:
            if name in filenames or name not in among:
                break
            if among[name].op not in ("Identity", "ShardedFilename") or not among[name].input:
                return False
            name = _node_of(among[name].input[0])
        return name in filenames

    def _asset_inputs(self) -> dict[str, frozenset[str]]:
        """Function → its inputs that are always bound to one of the model's own assets."""
        objects = self.meta_graph.object_graph_def
        inner = set[str]().union(*self.calls.values())  # their callers hand over what they like
        files = self.meta_graph.asset_file_def

        def is_asset(node_id: int) -> bool:
            if not 0 <= node_id < len(objects.nodes) or objects.nodes[node_id].WhichOneof("kind") != "asset":
                return False
            number = objects.nodes[node_id].asset.asset_file_def_index
            return 0 <= number < len(files) and _is_inside(files[number].filename)

        found = {}
        for name, concrete in objects.concrete_functions.items():
            function = self.functions.get(name)
            if function is None or name in inner or not concrete.bound_inputs:
                continue
            bound = function.signature.input_arg[-len(concrete.bound_inputs) :]
            pairs = zip(bound, concrete.bound_inputs, strict=False)
            found[name] = frozenset(each.name for each, node_id in pairs if is_asset(node_id))
        return found


def _expect_names_once(meta_graph: meta_graph_pb2.MetaGraphDef, name: str) -> None:
    """Raises BadInput: two functions or nodes of one name, of which one would not be read."""
    library = [each.signature.name for each in meta_graph.graph_def.library.function]
    for names in (library, [node.name for node in meta_graph.graph_def.node]):
        if len(set(names)) < len(names):
            raise BadInput(f"{name}: not a SavedModel, it does not load (its graph has two parts of one name)")


def _allowed(node: node_def_pb2.NodeDef, may_save: bool, assets: frozenset[str]) -> bool:
    if node.op in tensorflow_ops.SAVER:
        return may_save
    if node.op == tensorflow_ops.TEXT_TABLE:
        return len(node.input) > 1 and node.input[1] in assets
    if node.op == "PrintV2" and tensorflow_ops.prints_to_a_file(node.attr):
        return False
    return tensorflow_ops.is_allowed(node.op)


def _is_inside(filename: str) -> bool:
    return not posixpath.isabs(filename) and ".." not in filename.split("/") and "\\" not in filename


def _node_of(tensor: str) -> str:
    return tensor.lstrip("^").split(":")[0]


def _called(nodes: Iterable[node_def_pb2.NodeDef]) -> Iterator[str]:
    """The functions that the nodes' attributes name."""
    for node in nodes:
        for value in node.attr.values():
            yield from _named(value)


def _named(value: attr_value_pb2.AttrValue) -> Iterator[str]:
    for function in [*([value.func] if value.HasField("func") else []), *value.list.func]:
        yield function.name
        for inner in function.attr.values():
            yield from _named(inner)

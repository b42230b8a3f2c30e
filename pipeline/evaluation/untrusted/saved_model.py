"""A SavedModel's ops, read from saved_model.pb without loading it: every graph, every function, whatever calls it.

The ops that read checkpoints are allowed where only the saver calls them, those that write where restoring does not
either; both only with the file's name that the saver is handed. A table that is read from a file is allowed where the
file is one of the model's assets.
"""

import posixpath
from collections.abc import Iterable, Iterator

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.framework import attr_value_pb2, node_def_pb2, variable_pb2
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2, saved_object_graph_pb2

from pipeline.errors import BadInput, reason
from pipeline.evaluation.untrusted import file_names, tensorflow_ops

FILE = "saved_model.pb"
ASSETS = "saved_model_assets"  # a collection
INIT_SIGNATURE = "__saved_model_init_op"
CALLS = ("PartitionedCall", "StatefulPartitionedCall")  # hand their inputs over in order
RESTORING = ("RestoreV2", "ShardedFilename")  # of the saver's ops, those that write nothing
SWAPPED = ("api_implements", "api_preferred_device")  # attributes of a function


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
        for function in meta_graph.graph_def.library.function:
            if tensorflow_ops.is_known(function.signature.name):  # a node of that op would call it
                found.setdefault(function.signature.name, f"{function.signature.name} (a function named like an op)")
        for where, node, allowed in _Graph(meta_graph, objects).nodes():
            nodes += 1
            if not allowed:
                unknown = "" if tensorflow_ops.is_known(node.op) else "unknown op "
                found.setdefault(node.op, f"{unknown}{node.op} ({where}{node.name})")
    return list(found.values()), nodes


class _Graph:
    """One MetaGraphDef: its nodes, what can be run of its main graph, and from where each function can be called."""

    def __init__(self, meta_graph: meta_graph_pb2.MetaGraphDef, objects: bool):
        self.meta_graph = meta_graph
        self.main = {node.name: node for node in meta_graph.graph_def.node}
        library = meta_graph.graph_def.library
        self.functions = {each.signature.name: each for each in library.function}
        self.calls = {
            name: {*_called(each.node_def), *_named_in(each.attr.values())} for name, each in self.functions.items()
        }
        saver = meta_graph.saver_def
        self.filename = file_names.of_tensor(saver.filename_tensor_name)
        called = {key: each for key, each in meta_graph.signature_def.items() if key != INIT_SIGNATURE}
        run_without_assets = self._before([saver.restore_op_name, *_of_signatures(called.values())])
        run_without_assets |= self._before(_of_variables(meta_graph))
        used = self._before([*_of_signatures(called.values()), *_of_variables(meta_graph), *_initializers(meta_graph)])
        restoring = self._before([saver.restore_op_name]) - used
        of_saver = (restoring | self._before([saver.save_tensor_name])) - used
        self.may_restore, self.may_save = of_saver, of_saver - restoring
        self.unreached = self.main.keys() - used - of_saver  # of a second saver, say
        elsewhere = set(_called(node for name, node in self.main.items() if name not in of_saver))
        elsewhere |= _of_objects(meta_graph.object_graph_def)
        elsewhere |= {each.gradient_func for each in [*library.gradient, *library.registered_gradients]}
        # TensorFlow's optimizer replaces a function by another that implements the same.
        elsewhere |= {name for name, each in self.functions.items() if any(key in each.attr for key in SWAPPED)}
        restoring_functions = self._reached(_called(self.main[name] for name in restoring))
        called_by_saver = self._reached(_called(self.main[name] for name in of_saver)) - self._reached(elsewhere)
        self.handed = called_by_saver - self._not_handed(of_saver)
        self.functions_that_save = self.handed - restoring_functions
        self.assets = self._asset_inputs() if objects else {}
        self.main_assets = frozenset() if objects else self._asset_tensors()
        self.with_assets = self.main.keys() - run_without_assets

    def nodes(self) -> Iterator[tuple[str, node_def_pb2.NodeDef, bool]]:
        """(where it stands, the node, whether it is allowed there) of the main graph and of every function."""
        for name, node in self.main.items():
            may_save = name in (self.may_restore if node.op in RESTORING else self.may_save)
            may_save = may_save and file_names.come_from(node, self.main, self.filename)
            may_save = may_save or name in self.unreached
            yield "", node, _allowed(node, may_save, self.main_assets if name in self.with_assets else frozenset())
        for name, function in self.functions.items():
            inside = {node.name: node for node in function.node_def}
            prefix = frozenset(each.name for each in function.signature.input_arg[:1])
            assets = self.assets.get(name, frozenset())
            for node in function.node_def:
                may_save = name in (self.handed if node.op in RESTORING else self.functions_that_save)
                may_save = may_save and file_names.come_from(node, inside, prefix)
                yield f"{name}/", node, _allowed(node, may_save, assets)

    def _not_handed(self, of_saver: Iterable[str]) -> set[str]:
        """The functions that the saver calls with another first argument than the file's name it was handed."""
        found = set[str]()
        places = [([self.main[name] for name in of_saver], self.main, self.filename)]
        for function in self.functions.values():
            prefix = frozenset(each.name for each in function.signature.input_arg[:1])
            places.append((list(function.node_def), {node.name: node for node in function.node_def}, prefix))
        for nodes, among, handed in places:
            for node in nodes:
                if node.op not in CALLS or not file_names.comes_from(node.input[:1], among, handed):
                    found |= set(_called([node]))
        return found

    def _before(self, tensors: Iterable[str]) -> set[str]:
        """The main graph's nodes that these tensors or nodes need."""
        waiting, found = [file_names.node_of(each) for each in tensors], set[str]()
        while waiting:
            name = waiting.pop()
            if name in self.main and name not in found:
                found.add(name)
                waiting += [file_names.node_of(each) for each in self.main[name].input]
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

    def _asset_tensors(self) -> frozenset[str]:
        """The main graph's tensors that the initializer is handed, each the path of one of the model's own assets."""
        outside, inside = set[str](), set[str]()
        files = list(self.meta_graph.asset_file_def)
        if not files and ASSETS in self.meta_graph.collection_def:  # as TensorFlow 1 writes them
            for content in self.meta_graph.collection_def[ASSETS].any_list.value:
                files.append(meta_graph_pb2.AssetFileDef())
                if not content.Unpack(files[-1]):
                    return frozenset()
        for each in files:
            (inside if _is_inside(each.filename) else outside).update(file_names.of_tensor(each.tensor_info.name))
        return frozenset(inside - outside)


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


def _called(nodes: Iterable[node_def_pb2.NodeDef]) -> Iterator[str]:
    """The functions that the nodes name: by their op, or in an attribute, also as a plain string."""
    for node in nodes:
        yield node.op
        yield from _named_in(node.attr.values())


def _named_in(values: Iterable[attr_value_pb2.AttrValue]) -> Iterator[str]:
    waiting = list(values)
    while waiting:
        value = waiting.pop()
        for function in [*([value.func] if value.HasField("func") else []), *value.list.func]:
            yield function.name
            waiting += function.attr.values()
        for text in [value.s, *value.list.s]:
            yield text.decode(errors="replace")


def _of_signatures(signatures: Iterable[meta_graph_pb2.SignatureDef]) -> Iterator[str]:
    """Every tensor of the signatures' inputs and outputs, also of sparse and composite ones."""
    waiting = [info for each in signatures for info in [*each.inputs.values(), *each.outputs.values()]]
    while waiting:
        info = waiting.pop()
        yield info.name
        sparse = info.coo_sparse
        yield from (sparse.values_tensor_name, sparse.indices_tensor_name, sparse.dense_shape_tensor_name)
        waiting += info.composite_tensor.components


def _initializers(meta_graph: meta_graph_pb2.MetaGraphDef) -> Iterator[str]:
    """What runs once after loading: what the initializing signature or any collection names."""
    if INIT_SIGNATURE in meta_graph.signature_def:
        yield from _of_signatures([meta_graph.signature_def[INIT_SIGNATURE]])
    for collection in meta_graph.collection_def.values():
        yield from collection.node_list.value


def _of_variables(meta_graph: meta_graph_pb2.MetaGraphDef) -> Iterator[str]:
    """What the variables of every collection name: their initializers above all."""
    for collection in meta_graph.collection_def.values():
        for content in collection.bytes_list.value:
            try:
                variable = variable_pb2.VariableDef.FromString(content)
            except DecodeError:  # TensorFlow reads no variable from it either
                continue
            yield from (variable.initializer_name, variable.initial_value_name)
            yield from (variable.snapshot_name, variable.variable_name)


def _of_objects(objects: saved_object_graph_pb2.SavedObjectGraph) -> set[str]:
    """The functions that the model's objects name."""
    found = set(objects.concrete_functions)
    for node in objects.nodes:
        found |= {node.bare_concrete_function.concrete_function_name, *node.function.concrete_functions}
    return found

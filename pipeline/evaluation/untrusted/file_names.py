"""Whether a checkpoint's op takes its file's name from what the saver is handed, not from the graph itself."""

from collections.abc import Iterable, Mapping

from tensorflow.core.framework import node_def_pb2

Nodes = Mapping[str, node_def_pb2.NodeDef]
# op → how many of its first inputs name files
NAMING = {"SaveV2": 1, "RestoreV2": 1, "ShardedFilename": 1, "MergeV2Checkpoints": 2}


def come_from(node: node_def_pb2.NodeDef, among: Nodes, handed: frozenset[str]) -> bool:
    """Whether all names of files of one of the saver's ops derive from the tensors `handed`; true of other ops."""
    count = NAMING.get(node.op, 0)
    return not count or (len(node.input) >= count and comes_from(node.input[:count], among, handed))


def comes_from(tensors: Iterable[str], among: Nodes, handed: frozenset[str]) -> bool:
    """Whether these tensors derive from `handed` alone, but for endings such as "_temp/part".

    Args:
        among: name → node of the same graph or function.
    """
    waiting, seen, found = list(tensors), set[str](), False
    while waiting:
        tensor = waiting.pop()
        if tensor in handed:
            found = True
            continue
        node = among.get(node_of(tensor))
        if node is None or tensor.startswith("^"):
            return False
        if node.name in seen:
            continue
        seen.add(node.name)
        inputs = [each for each in node.input if not each.startswith("^")]
        if node.op in ("Identity", "ShardedFilename") and inputs:
            waiting.append(inputs[0])
        elif node.op == "Pack" and inputs:
            waiting += inputs
        elif node.op == "StringJoin" and inputs and not node.attr["separator"].s:
            if not all(_is_ending(each, among) for each in inputs[1:]):
                return False
            waiting.append(inputs[0])
        else:
            return False
    return found


def of_tensor(name: str) -> frozenset[str]:
    """The ways in which a main graph's nodes write a tensor's name: the first output's number may be left out."""
    if not name:
        return frozenset()
    name = name if ":" in name else f"{name}:0"
    return frozenset({name, name.removesuffix(":0")})


def node_of(tensor: str) -> str:
    """The name of the node that gives the tensor, or that is a control input."""
    return tensor.lstrip("^").split(":")[0]


def _is_ending(tensor: str, among: Nodes) -> bool:
    """Whether a tensor is a text that leads to no other folder: a constant, or one of two."""
    node = among.get(node_of(tensor))
    ends = [node] if node is not None else []
    if node is not None and node.op == "Select":
        ends = [each for each in (among.get(node_of(name)) for name in node.input[1:3]) if each is not None]
    return bool(ends) and all(
        end.op == "Const" and not any(b".." in text for text in end.attr["value"].tensor.string_val) for end in ends
    )

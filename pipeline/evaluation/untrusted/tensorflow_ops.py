"""Which TensorFlow ops a served graph may hold: those that reach no file, network, Python or other process.

An op can reach a file or a socket only by a name, which comes as a string: an input or an attribute. So of the ops that
TensorFlow registers as stateless, those without a string are allowed; those with one, and the stateful ones, only where
they are listed here. A node can call a function as well, by its op's name or by an attribute, and TensorFlow replaces a
function by another of the same `api_implements`: saved_model.py follows these. `ReadFile` is registered as stateless:
being so is not enough. An op that this TensorFlow does not know is not allowed.
"""

import re

from tensorflow.core.framework import attr_value_pb2, op_def_pb2, types_pb2
from tensorflow.python.framework import op_def_registry

# Stateless, and the string is a mode, a text or an encoded image.
STRINGS = frozenset(
    """
    AsString DataFormatDimMap DataFormatVecPermute DecodeAndCropJpeg DecodeBase64 DecodeBmp DecodeGif DecodeImage
    DecodeJpeg DecodePaddedRaw DecodePng DecodeRaw DecodeWebP DenseToDenseSetOperation DenseToSparseSetOperation Einsum
    EncodeBase64 EncodeJpeg Enter ExtractGlimpse ExtractGlimpseV2 ExtractJpegShape Fingerprint GatherNd
    ImageProjectiveTransformV2 ImageProjectiveTransformV3 PartitionedCall PreventGradient RaggedTensorToTensor
    ReduceJoin RefEnter RegexFullMatch RegexReplace ScaleAndTranslate ScaleAndTranslateGrad ScatterNd ScatterNdAdd
    ScatterNdMax ScatterNdMin ScatterNdNonAliasingAdd ScatterNdSub ScatterNdUpdate SparseToSparseSetOperation
    StaticRegexFullMatch StaticRegexReplace StringFormat StringJoin StringLength StringLower StringNGrams StringSplit
    StringSplitV2 StringStrip StringToHashBucket StringToHashBucketFast StringToHashBucketStrong StringToNumber
    StringUpper Substr TensorScatterAdd TensorScatterMax TensorScatterMin TensorScatterSub TensorScatterUpdate
    UnicodeDecode UnicodeDecodeWithOffsets UnicodeTranscode UniformQuantizedConvolution
    UniformQuantizedConvolutionHybrid UnsortedSegmentJoin
    """.split()  # noqa: SIM905 - a list of one word a line is no easier to read
)
# Stateful: variables, tables and arrays in memory, random numbers, calls of functions, checks.
STATEFUL = frozenset(
    """
    AnonymousHashTable AnonymousMutableDenseHashTable AnonymousMutableHashTable AnonymousMutableHashTableOfTensors
    AnonymousRandomSeedGenerator AnonymousSeedGenerator Assert AssignAddVariableOp AssignSubVariableOp AssignVariableOp
    Case CheckNumerics CheckNumericsV2 CudnnRNN CudnnRNNV2 CudnnRNNV3 DeepCopy DestroyResourceOp DeviceIndex
    DisableCopyOnRead Empty GuaranteeConst HashTable HashTableV2 If InitializeTableV2 IsTensorFloat32Enabled
    LookupTableExportV2 LookupTableFindV2 LookupTableImportV2 LookupTableInsertV2 LookupTableRemoveV2 LookupTableSizeV2
    Multinomial MutableDenseHashTable MutableDenseHashTableV2 MutableHashTable MutableHashTableOfTensors
    MutableHashTableOfTensorsV2 MutableHashTableV2 NonDeterministicInts ParameterizedTruncatedNormal Print PrintV2
    RandomCrop RandomGamma RandomPoisson RandomPoissonV2 RandomShuffle RandomStandardNormal RandomUniform
    RandomUniformInt ReadVariableOp RngReadAndSkip RngSkip SampleDistortedBoundingBox SampleDistortedBoundingBoxV2
    Stack StackCloseV2 StackPopV2 StackPushV2 StackV2 StatefulPartitionedCall StatefulRandomBinomial
    StatefulStandardNormal StatefulStandardNormalV2 StatefulTruncatedNormal StatefulUniform StatefulUniformFullInt
    StatefulUniformInt StatelessRandomGetAlg TensorArrayCloseV3 TensorArrayConcatV3 TensorArrayGatherV3
    TensorArrayGradV3 TensorArrayGradWithShape TensorArrayReadV3 TensorArrayScatterV3 TensorArraySizeV3
    TensorArraySplitV3 TensorArrayV3 TensorArrayWriteV3 TruncatedNormal VarHandleOp VarIsInitializedOp Variable
    VariableShape VariableV2 While
    """.split()  # noqa: SIM905 - a list of one word a line is no easier to read
)
VARIABLE_UPDATES = re.compile(r"Resource(Apply|SparseApply|Scatter|Gather|StridedSliceAssign)\w*")
# Read and write checkpoints: TensorFlow puts them into the functions that save and restore the variables.
SAVER = frozenset({"SaveV2", "RestoreV2", "MergeV2Checkpoints", "ShardedFilename"})
TEXT_TABLE = "InitializeTableFromTextFileV2"  # reads a file: allowed for the model's own assets
PRINTED_TO = re.compile(rb"stdout|stderr|log\(\w+\)|")  # of PrintV2; the other is file://…


def is_allowed(op: str) -> bool:
    """Whether a node of this op reaches nothing outside the graph, wherever it stands and whatever its inputs."""
    if op in STATEFUL or op in STRINGS or VARIABLE_UPDATES.fullmatch(op):
        return True
    definition = op_def_registry.get(op)
    return definition is not None and not definition.is_stateful and not op.startswith("_") and not strings(definition)


def is_known(op: str) -> bool:
    """Whether this TensorFlow has the op."""
    return op_def_registry.get(op) is not None


def strings(definition: op_def_pb2.OpDef) -> list[str]:
    """The names of an op's inputs and attributes that may hold any string."""
    inputs = [each.name for each in definition.input_arg if each.type == types_pb2.DT_STRING]
    kinds = ("string", "list(string)")
    return inputs + [
        each.name for each in definition.attr if each.type in kinds and not each.HasField("allowed_values")
    ]


def prints_to_a_file(attributes: "dict[str, attr_value_pb2.AttrValue]") -> bool:
    """Of a PrintV2 node."""
    return "output_stream" in attributes and not PRINTED_TO.fullmatch(attributes["output_stream"].s)

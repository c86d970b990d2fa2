"""Creates tests/data/dynamic: a tiny text classifier with dynamically quantised activations, so that its scores change
with the other rows of a micro-batch. Needs onnx, onnxruntime and numpy: python3 tests/data/dynamic.py"""

import json
from pathlib import Path

import numpy
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

FOLDER = Path(__file__).parent / "dynamic"
WORDS = "i it the a an and but is was of in on to that so by this for good bad terrible great loved every minute plot".split()
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, *map(chr, range(97, 123)), *(f"##{chr(c)}" for c in range(97, 123))]
HIDDEN = 16

random = numpy.random.default_rng(7)


def weights(name: str, *shape: int, scale: float = 1.0) -> onnx.TensorProto:
    return numpy_helper.from_array((random.standard_normal(shape) * scale).astype(numpy.float32), name)


embedding = weights("embedding", len(VOCABULARY), HIDDEN)
# Embeddings of various magnitude: a row with a large one makes the quantisation of the whole micro-batch coarser.
scales = 10 ** random.uniform(-1, 1, (len(VOCABULARY), 1))
embedding = numpy_helper.from_array((numpy_helper.to_array(embedding) * scales).astype(numpy.float32), "embedding")
graph = helper.make_graph(
    [
        helper.make_node("Gather", ["embedding", "input_ids"], ["embedded"]),
        helper.make_node("MatMul", ["embedded", "first"], ["hidden"]),
        helper.make_node("Tanh", ["hidden"], ["active"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["wide"]),
        helper.make_node("Mul", ["active", "wide"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "middle"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["wide", "middle"], ["count"], keepdims=0),
        helper.make_node("Div", ["sum", "count"], ["mean"]),
        helper.make_node("MatMul", ["mean", "second"], ["logits"]),
    ],
    "classifier",
    [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"]) for name in ("input_ids", "attention_mask")],
    [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])],
    [
        embedding,
        weights("first", HIDDEN, HIDDEN, scale=0.3),
        weights("second", HIDDEN, 2, scale=2.0),
        numpy_helper.from_array(numpy.array([-1], numpy.int64), "last"),
        numpy_helper.from_array(numpy.array([1], numpy.int64), "middle"),
    ],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
(FOLDER / "onnx").mkdir(parents=True, exist_ok=True)
onnx.save(model, FOLDER / "float.onnx")
quantize_dynamic(
    FOLDER / "float.onnx", FOLDER / "onnx/model_quantized.onnx", weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul"]
)
(FOLDER / "float.onnx").unlink()


def save(name: str, value: object) -> None:
    (FOLDER / name).write_text(json.dumps(value) + "\n")


save(
    "config.json",
    {
        "model_type": "bert",
        "architectures": ["BertForSequenceClassification"],
        "id2label": {"0": "NEGATIVE", "1": "POSITIVE"},
        "label2id": {"NEGATIVE": 0, "POSITIVE": 1},
    },
)
save("tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "model_max_length": 128, "pad_token": "[PAD]"})
special = lambda name: {"SpecialToken": {"id": name, "type_id": 0}}
save(
    "tokenizer.json",
    {
        "version": "1.0",
        "added_tokens": [
            {"id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
            for i, token in enumerate(VOCABULARY[:4])
        ],
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [special("[CLS]"), {"Sequence": {"id": "A", "type_id": 0}}, special("[SEP]")],
            "pair": [],
            "special_tokens": {
                token: {"id": token, "ids": [VOCABULARY.index(token)], "tokens": [token]} for token in ("[CLS]", "[SEP]")
            },
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {token: i for i, token in enumerate(VOCABULARY)},
        },
    },
)

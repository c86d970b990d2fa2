"""Makes the tiny models of random weights in this folder, and records what Python's transformers and sentence-transformers
answer with them. The tests compare Sluice with these recordings.

    python3 -m venv .venv && .venv/bin/pip install -r requirements.txt && .venv/bin/python make.py

Texts and weights are the same each time. The training of the WordPiece vocabulary is not deterministic, so a new run changes
most files. Each model has at most 64 tokens, so that some of the texts are truncated.
"""

import base64
import json
import random
import shutil
from pathlib import Path

import numpy as np
import onnx
import sentence_transformers
import tokenizers
import torch
import transformers
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
    RobertaForTokenClassification,
    pipeline,
)

HERE = Path(__file__).parent
MODELS = HERE / "models"
TEXTS = 1000
POSITIONS = 64
SIZE = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)

# --- Texts -----------------------------------------------------------------------------------------------------------

WORDS = (
    "the a and of with from an old bright quiet market river kitchen garden letter answer window train morning storm "
    "bridge teacher doctor engineer mayor singer baker opened closed painted repaired forgot remembered praised hated "
    "loved carried slowly quickly never always perhaps terribly wonderfully unbelievable misunderstanding "
    "counterproductive internationalization underwhelming film book song dinner journey price 7 42 1999 3.5 20% e-mail "
    "isn't they're rock'n'roll co-operate naïve café résumé Zürich Ångström Łódź São Curaçao jalapeño Ágnes Müller "
    "Nguyễn İstanbul ΑΘΗΝΑ σοφός Москва хорошо день שלום עולם مرحبا بالعالم 東京 天気 良い 서울 날씨 नमस्ते "
    "😀 👍🏽 👩‍👩‍👧 🇨🇭 e\u0301cole o\u0308ffnen ﬁne ½ № … — “quoted” (aside) C++ #tag @name https://example.org/a?b=1"
).split()
ENDS = [".", "!", "?", "...", "", " ;", ","]


def make_texts():
    rng = random.Random(21)
    texts = []
    for i in range(TEXTS):
        # Most texts are short; one in ten is longer than a model can read.
        count = rng.randint(60, 110) if i % 10 == 9 else rng.randint(1, 18)
        words = [rng.choice(WORDS) for _ in range(count)]
        if rng.random() < 0.3:
            words[0] = words[0].capitalize()
        if rng.random() < 0.1:
            words = [word.upper() for word in words]
        texts.append(" ".join(words) + rng.choice(ENDS))
    return texts


# --- Tokenizers ------------------------------------------------------------------------------------------------------


def wordpiece(texts):
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    # Too few characters for all scripts, so that some words are unknown.
    tokenizer.train_from_iterator(
        texts, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, limit_alphabet=90)
    )
    cls, sep = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", cls), ("[SEP]", sep)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=POSITIONS,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def byte_bpe(texts):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        ),
    )
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", tokenizer.token_to_id("</s>")), ("<s>", tokenizer.token_to_id("<s>"))
    )
    # No usable maximum: the positions decide.
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        cls_token="<s>",
        bos_token="<s>",
        sep_token="</s>",
        eos_token="</s>",
        mask_token="<mask>",
        model_input_names=["input_ids", "attention_mask"],
    )


# --- Models ----------------------------------------------------------------------------------------------------------


def spread(model, head, factor):
    """Makes the outputs of random weights differ enough between texts."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embeddings" in name and parameter.dim() == 2:
                parameter.mul_(20)
            if head in name and parameter.dim() == 2:
                parameter.mul_(factor)
    return model.eval()


class Graph(torch.nn.Module):
    """A model as a function of its inputs in a fixed order."""

    def __init__(self, model, inputs, output):
        super().__init__()
        self.model, self.inputs, self.output = model, inputs, output

    def forward(self, *values):
        return getattr(self.model(**dict(zip(self.inputs, values))), self.output)


def export(model, tokenizer, name, output="logits", batch="batch", external=False):
    """Saves a model in the layout of the Hub, with ONNX weights in float32."""
    folder = MODELS / name
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "onnx").mkdir(parents=True)
    model.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for extra in ("chat_template.jinja",):
        (folder / extra).unlink(missing_ok=True)
    inputs = [n for n in tokenizer.model_input_names]
    sample = tokenizer(["the old bridge", "a letter"], padding=True, return_tensors="pt")
    if batch == 1:
        sample = tokenizer(["the old bridge"], return_tensors="pt")
    axes = {1: "sequence"} if batch == 1 else {0: "batch", 1: "sequence"}
    path = folder / "onnx" / "model.onnx"
    torch.onnx.export(
        Graph(model, inputs, output).eval(),
        tuple(sample[n] for n in inputs),
        str(path),
        input_names=inputs,
        output_names=[output],
        dynamic_axes={n: axes for n in inputs} | ({} if batch == 1 else {output: {0: "batch"}}),
        opset_version=17,
        dynamo=False,
    )
    graph = onnx.load(path)
    graph.doc_string = ""
    for node in graph.graph.node:
        node.doc_string = ""
    if external:
        path.unlink()
        onnx.save(
            graph, path, save_as_external_data=True, all_tensors_to_one_file=True, location="model.onnx_data",
            size_threshold=0,
        )
    else:
        onnx.save(graph, path)
    return folder


def bert(labels=2, **config):
    return BertConfig(
        vocab_size=300, max_position_embeddings=POSITIONS, num_labels=labels, **SIZE, **config
    )


def roberta(labels=2, **config):
    # Two positions are not used.
    return RobertaConfig(
        vocab_size=400, max_position_embeddings=POSITIONS + 2, type_vocab_size=1, num_labels=labels, pad_token_id=1,
        bos_token_id=0, eos_token_id=2, **SIZE, **config
    )


def edit_json(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


# --- Recordings ------------------------------------------------------------------------------------------------------

VERSIONS = {
    "torch": torch.__version__.split("+")[0],
    "transformers": transformers.__version__,
    "sentence-transformers": sentence_transformers.__version__,
    "tokenizers": tokenizers.__version__,
}


def record(name, task, cases):
    (HERE / f"{name}.json").write_text(
        json.dumps({"versions": VERSIONS, "model": name, "task": task, "cases": cases}, ensure_ascii=False, separators=(",", ":"))
        + "\n"
    )


rounded = lambda score: round(float(score), 6)
labels_of = lambda output: [[str(entry["label"]), rounded(entry["score"])] for entry in output]


def classification(model, tokenizer, texts, pairs):
    run = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")

    def outputs(inputs, **options):
        return [labels_of(run([value], top_k=None, truncation=True, **options)[0]) for value in inputs]

    # One text in five, among them every long one.
    few = list(range(4, TEXTS, 5))
    tokenizer.truncation_side = "left"
    left = outputs([texts[i] for i in few])
    tokenizer.truncation_side = "right"
    return [
        {"parameters": {}, "inputs": "texts", "outputs": outputs(texts)},
        {"parameters": {"truncation_direction": "left"}, "inputs": few, "outputs": left},
        {"parameters": {}, "inputs": "pairs", "outputs": outputs([dict(text=a, text_pair=b) for a, b in pairs])},
        *(
            {
                "parameters": {"function_to_apply": function},
                "inputs": few,
                "outputs": outputs([texts[i] for i in few], function_to_apply=function),
            }
            for function in ("softmax", "sigmoid", "none")
        ),
    ]


def zero_shot(model, tokenizer, texts):
    run = pipeline("zero-shot-classification", model=model, tokenizer=tokenizer, device="cpu")
    variants = [
        ({"candidate_labels": ["a journey", "food", "Москва 😀"]}, range(TEXTS)),
        ({"candidate_labels": ["a journey", "food", "weather"], "multi_label": True}, range(0, TEXTS, 5)),
        ({"candidate_labels": ["food"]}, range(0, TEXTS, 5)),
        (
            {"candidate_labels": ["good", "bad"], "hypothesis_template": "The sentiment of this text is {}."},
            range(0, TEXTS, 5),
        ),
    ]
    cases = []
    for parameters, indexes in variants:
        outputs = []
        for i in indexes:
            answer = run(texts[i], **parameters)
            outputs.append([[label, rounded(score)] for label, score in zip(answer["labels"], answer["scores"])])
        cases.append({"parameters": parameters, "inputs": list(indexes), "outputs": outputs})
    return cases


def entities(model, tokenizer, texts):
    run = pipeline("token-classification", model=model, tokenizer=tokenizer, device="cpu")
    cases = []
    for strategy in ("simple", "none", "first", "average", "max"):
        indexes = range(TEXTS) if strategy == "simple" else range(0, TEXTS, 5)
        outputs = [
            [
                [e.get("entity_group") or e["entity"], int(e["start"]), int(e["end"]), rounded(e["score"]), e["word"]]
                for e in run(texts[i], aggregation_strategy=strategy)
            ]
            for i in indexes
        ]
        cases.append({"parameters": {"aggregation_strategy": strategy}, "inputs": list(indexes), "outputs": outputs})
    return cases


def vector(values):
    return base64.b64encode(np.asarray(values, dtype="<f4").tobytes()).decode()


def embeddings(model, texts):
    def outputs(indexes, **options):
        return [vector(model.encode(texts[i], **options)) for i in indexes]

    few = list(range(0, TEXTS, 5))
    cases = [{"parameters": {}, "inputs": "texts", "outputs": outputs(range(TEXTS))}]
    cases.append(
        {
            "parameters": {"dimensions": 16, "normalize": True},
            "inputs": few,
            "outputs": outputs(few, truncate_dim=16, normalize_embeddings=True),
        }
    )
    for name in model.prompts:
        if model.prompts[name]:
            cases.append({"parameters": {"prompt_name": name}, "inputs": few, "outputs": outputs(few, prompt_name=name)})
    return cases


def ranking(model, texts):
    cases = []
    for raw in (False, True):
        inputs, outputs = [], []
        for i in range(0, TEXTS, 5 if raw else 1):
            candidates = [(i * 7 + j * 131) % TEXTS for j in range(4)]
            ranks = model.rank(
                texts[i], [texts[c] for c in candidates], activation_fn=torch.nn.Identity() if raw else torch.nn.Sigmoid()
            )
            inputs.append([i, candidates])
            outputs.append([[rank["corpus_id"], rounded(rank["score"])] for rank in ranks])
        cases.append({"parameters": {"raw_scores": raw}, "inputs": inputs, "outputs": outputs})
    return cases


def sentence_transformer(name, folder, pooling, normalize, prompts=None, default=None):
    modules = [Transformer(str(folder)), Pooling(32, pooling_mode=pooling)]
    if normalize:
        modules.append(Normalize())
    model = SentenceTransformer(modules=modules, device="cpu", prompts=prompts, default_prompt_name=default)
    # Less than the model's positions.
    model.max_seq_length = 48
    saved = MODELS / f"{name}.saved"
    model.save(str(saved), create_model_card=False)
    for file in ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"):
        if (saved / file).exists():
            shutil.copy(saved / file, MODELS / name / file)
    # Newer versions write the maximum into the tokenizer's file, older ones into this one.
    if default is None:
        edit_json(MODELS / name / "sentence_bert_config.json", lambda c: c.update(max_seq_length=48))
    else:
        shutil.copy(saved / "tokenizer_config.json", MODELS / name / "tokenizer_config.json")
    for file in saved.glob("*_Pooling/config.json"):
        (MODELS / name / file.parent.name).mkdir(exist_ok=True)
        shutil.copy(file, MODELS / name / file.parent.name / "config.json")
    shutil.rmtree(saved)
    return model


def main():
    torch.manual_seed(21)
    torch.set_num_threads(1)
    texts = make_texts()
    (HERE / "texts.json").write_text(json.dumps(texts, ensure_ascii=False, indent=0) + "\n")
    pairs = [(texts[i], texts[(i * 7 + 3) % TEXTS]) for i in range(0, TEXTS, 5)]
    piece, bpe = wordpiece(texts), byte_bpe(texts)

    # One label of three.
    config = bert(3, id2label={0: "bad", 1: "so-so", 2: "good"}, label2id={"bad": 0, "so-so": 1, "good": 2})
    model = spread(BertForSequenceClassification(config), "classifier", 20)
    export(model, piece, "bert-labels")
    record("bert-labels", "text-classification", classification(model, piece, texts, pairs))

    # Several labels, named by numbers.
    model = spread(BertForSequenceClassification(bert(4, problem_type="multi_label_classification")), "classifier", 20)
    folder = export(model, piece, "bert-multi-label")
    cases = classification(model, piece, texts, pairs)
    for case in cases:
        case["outputs"] = [[[label.removeprefix("LABEL_"), score] for label, score in one] for one in case["outputs"]]
    record("bert-multi-label", "text-classification", cases)
    edit_json(folder / "config.json", lambda c: c.update(id2label={str(i): i for i in range(4)}))

    # One number, and no labels in the configuration.
    model = spread(BertForSequenceClassification(bert(1, problem_type="regression")), "classifier", 20)
    folder = export(model, piece, "bert-regression")
    record("bert-regression", "text-classification", classification(model, piece, texts, pairs))
    edit_json(folder / "config.json", lambda c: [c.pop(k, None) for k in ("id2label", "label2id")])

    # One output, for pairs.
    model = spread(RobertaForSequenceClassification(roberta(1)), "classifier", 4)
    folder = export(model, bpe, "roberta-rank")
    model.save_pretrained(folder)
    record("roberta-rank", "text-ranking", ranking(CrossEncoder(str(folder), device="cpu", max_length=POSITIONS), texts))
    (folder / "model.safetensors").unlink()

    # Natural language inference, with entailment in the middle.
    config = roberta(3, id2label={0: "CONTRADICTION", 1: "ENTAILMENT", 2: "NEUTRAL"},
                     label2id={"CONTRADICTION": 0, "ENTAILMENT": 1, "NEUTRAL": 2})
    model = spread(RobertaForSequenceClassification(config), "classifier", 4)
    export(model, bpe, "roberta-nli")
    bpe.model_max_length = POSITIONS
    record("roberta-nli", "zero-shot-classification", zero_shot(model, bpe, texts))

    # Entities, with a tokenizer that marks subwords and one that does not.
    tags = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "MISC"]
    names = dict(id2label=dict(enumerate(tags)), label2id={tag: i for i, tag in enumerate(tags)})
    for name, config, kind, tokenizer in (
        ("bert-entities", bert(6, **names), BertForTokenClassification, piece),
        ("roberta-entities", roberta(6, **names), RobertaForTokenClassification, bpe),
    ):
        model = spread(kind(config), "classifier", 20)
        with torch.no_grad():
            model.classifier.bias[0] = 1.5
        export(model, tokenizer, name)
        record(name, "token-classification", entities(model, tokenizer, texts))

    # Embeddings: one graph, four ways to make a vector.
    model = spread(BertModel(bert(), add_pooling_layer=False), "none", 1)
    for name, pooling, normalize, prompts, default in (
        ("bert-mean", "mean", True, {"query": "the question: ", "passage": ""}, None),
        ("bert-cls", "cls", False, {}, None),
        ("bert-last-token", "lasttoken", True, {"query": "market "}, "query"),
        ("bert-max", "max", False, {}, None),
    ):
        folder = export(model, piece, name, output="last_hidden_state")
        model.save_pretrained(folder)
        encoder = sentence_transformer(name, folder, pooling, normalize, prompts, default)
        record(name, "feature-extraction", embeddings(encoder, texts))
        (folder / "model.safetensors").unlink()

    # Weights in a file beside the graph, and a graph that takes one row.
    model = spread(BertForSequenceClassification(bert(2)), "classifier", 20)
    export(model, piece, "bert-external", external=True)
    export(model, piece, "bert-one-row", batch=1)


main()

"""Calls Sluice with the Python clients of other APIs, and prints what each call gave: a line of JSON for each.

Environment: SLUICE_URL, SLUICE_API_KEY, LIMITED_KEY (one request in two seconds), TEXTS (JSON). Arguments: names of clients;
all of them if there are none.
"""

import json
import os
import sys
import time

URL = os.environ["SLUICE_URL"]
KEY = os.environ["SLUICE_API_KEY"]
LIMITED = os.environ["LIMITED_KEY"]
TEXTS = json.loads(os.environ["TEXTS"])
WRONG = "sk_000000000000_wrong"


def call(client, name, run):
    """Prints the outcome of a call."""
    try:
        outcome = {"output": run()}
    except Exception as error:
        response = getattr(error, "response", None)
        status = getattr(error, "status_code", None) or getattr(response, "status_code", None)
        outcome = {"error": type(error).__name__, "status": status, "message": str(error)}
    print(json.dumps({"client": client, "name": name, **outcome}), flush=True)


def use_openai():
    from openai import OpenAI

    client = OpenAI(api_key=KEY, base_url=f"{URL}/v1", max_retries=0)

    def embed(client, **more):
        data = client.embeddings.create(**{"model": "bert-mean", "input": TEXTS, **more}).data
        return [each.embedding for each in data]

    def batch():
        lines = [
            {"custom_id": str(i), "method": "POST", "url": "/v1/embeddings", "body": {"model": "bert-mean", "input": text}}
            for i, text in enumerate(TEXTS)
        ]
        content = "\n".join(map(json.dumps, lines)).encode()
        file = client.files.create(file=("requests.jsonl", content), purpose="batch")
        made = client.batches.create(input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h")
        while made.status == "in_progress":
            made = client.batches.retrieve(made.id)
        output = client.files.content(made.output_file_id).text
        client.files.delete(file.id)
        bodies = [json.loads(line)["response"]["body"] for line in output.splitlines()]
        return [body["data"][0]["embedding"] for body in bodies]

    def wait():
        waiting = OpenAI(api_key=LIMITED, base_url=f"{URL}/v1", max_retries=2)
        start = time.monotonic()
        for _ in range(2):
            embed(waiting)
        return 1000 * (time.monotonic() - start)

    # Without an encoding_format the client asks for base64 and decodes it.
    call("openai", "embeddings", lambda: embed(client))
    call("openai", "embeddings as float", lambda: embed(client, encoding_format="float"))
    call(
        "openai",
        "moderations",
        lambda: [each.category_scores.model_dump() for each in client.moderations.create(input=TEXTS).results],
    )
    call("openai", "models", lambda: [each.id for each in client.models.list().data])
    call("openai", "batch", batch)
    call("openai", "wrong key", lambda: OpenAI(api_key=WRONG, base_url=f"{URL}/v1", max_retries=0).models.list())
    call("openai", "wrong model", lambda: embed(client, model="nothing"))
    call("openai", "text too long", lambda: embed(client, input="long " * 100))
    call("openai", "body too large", lambda: embed(client, input="long " * 200_000))
    call("openai", "429", wait)


def use_huggingface():
    from huggingface_hub import InferenceClient

    def hf(model, key=KEY):
        return InferenceClient(model=f"{URL}/models/{model}", token=key)

    def plain(value):
        if isinstance(value, list):
            return [plain(each) for each in value]
        return {name: each for name, each in vars(value).items() if each is not None} if hasattr(value, "__dict__") else value

    call("huggingface", "feature_extraction", lambda: hf("bert-mean").feature_extraction(TEXTS).tolist())
    call("huggingface", "text_classification", lambda: plain(hf("bert-labels").text_classification(TEXTS[0])))
    call("huggingface", "token_classification", lambda: plain(hf("bert-entities").token_classification(TEXTS[0])))
    call(
        "huggingface",
        "zero_shot_classification",
        lambda: plain(hf("roberta-nli").zero_shot_classification(TEXTS[0], candidate_labels=["a", "b"])),
    )
    call(
        "huggingface",
        "sentence_similarity",
        lambda: hf("bert-mean").sentence_similarity(TEXTS[0], other_sentences=TEXTS[1:]),
    )
    call("huggingface", "body too large", lambda: hf("bert-mean").feature_extraction("long " * 200_000).tolist())
    call(
        "huggingface",
        "429",
        lambda: [hf("bert-mean", LIMITED).feature_extraction("a").tolist() for _ in range(2)],
    )
    call("huggingface", "wrong key", lambda: hf("bert-mean", WRONG).feature_extraction("a").tolist())
    call("huggingface", "wrong model", lambda: hf("nothing").feature_extraction("a").tolist())


def use_cohere():
    import cohere

    def rerank(client, **more):
        answer = client.rerank(**{"model": "roberta-rank", "query": TEXTS[0], "documents": TEXTS, **more})
        return [{"index": each.index, "score": each.relevance_score} for each in answer.results]

    client = cohere.ClientV2(api_key=KEY, base_url=URL)
    call("cohere", "rerank v2", lambda: rerank(client))
    call("cohere", "rerank v1", lambda: rerank(cohere.Client(api_key=KEY, base_url=URL)))
    def wait():
        start = time.monotonic()
        for _ in range(2):
            rerank(cohere.ClientV2(api_key=LIMITED, base_url=URL))
        return 1000 * (time.monotonic() - start)

    call("cohere", "body too large", lambda: rerank(client, query="long " * 200_000))
    call("cohere", "429", wait)
    call("cohere", "wrong key", lambda: rerank(cohere.ClientV2(api_key=WRONG, base_url=URL)))
    call("cohere", "wrong model", lambda: rerank(client, model="nothing"))


def use_langchain():
    from huggingface_hub import InferenceClient
    from langchain_huggingface import HuggingFaceEndpointEmbeddings
    from langchain_openai import OpenAIEmbeddings

    embeddings = OpenAIEmbeddings(
        model="bert-mean", api_key=KEY, base_url=f"{URL}/v1", check_embedding_ctx_length=False, max_retries=0
    )
    call("langchain-openai", "embed_documents", lambda: embeddings.embed_documents(TEXTS))
    call("langchain-openai", "embed_query", lambda: [embeddings.embed_query(TEXTS[0])])
    # Its own client refuses a URL as the model.
    endpoint = HuggingFaceEndpointEmbeddings(model="bert-mean", huggingfacehub_api_token=KEY)
    endpoint.client = InferenceClient(model=f"{URL}/models/bert-mean", token=KEY)
    call("langchain-huggingface", "embed_documents", lambda: endpoint.embed_documents(TEXTS))


def use_llamaindex():
    from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
    from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference
    from llama_index.postprocessor.tei_rerank import TextEmbeddingInference

    embeddings = TextEmbeddingsInference(
        model_name="bert-mean", base_url=f"{URL}/models/bert-mean", auth_token=KEY, truncate_text=False
    )
    call("llamaindex", "embeddings", lambda: embeddings.get_text_embedding_batch(TEXTS))
    wrong = TextEmbeddingsInference(
        model_name="bert-mean", base_url=f"{URL}/models/bert-mean", auth_token=WRONG, truncate_text=False
    )
    call("llamaindex", "embeddings with a wrong key", lambda: wrong.get_text_embedding_batch(TEXTS))

    def rank(key):
        reranker = TextEmbeddingInference(
            model_name="roberta-rank", base_url=f"{URL}/models/roberta-rank", auth_token=f"Bearer {key}", top_n=3
        )
        nodes = [NodeWithScore(node=TextNode(text=text)) for text in TEXTS]
        ranked = reranker.postprocess_nodes(nodes, query_bundle=QueryBundle(TEXTS[0]))
        return [{"index": TEXTS.index(each.node.get_content()), "score": each.score} for each in ranked]

    call("llamaindex", "rerank", lambda: rank(KEY))
    call("llamaindex", "rerank with a wrong key", lambda: rank(WRONG))


CLIENTS = {
    "openai": use_openai,
    "huggingface": use_huggingface,
    "cohere": use_cohere,
    "langchain": use_langchain,
    "llamaindex": use_llamaindex,
}
for chosen in sys.argv[1:] or CLIENTS:
    CLIENTS[chosen]()

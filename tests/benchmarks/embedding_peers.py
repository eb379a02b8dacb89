"""One contestant of `embedding.py` in a process of its own: encode texts, print what it cost.

    python embedding_peers.py SYSTEM FOLDER TEXTS VECTORS

SYSTEM is a numeric path of ours, which needs this project; or `st`, `st-bf16`, `st-openvino`, `st-openvino-int8`,
which need sentence-transformers alone, the last two with its openvino extra. FOLDER is an encoder of ours, which
sentence-transformers loads as it is. TEXTS is a JSON list; VECTORS is written, a .npy file. A system is warmed up with
32 texts, then encodes all.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

Encode = Callable[[list[str]], np.ndarray]
WINDOW = 4096  # texts, as in a night


def main() -> None:
    """Encode, and print the cost as JSON."""
    system, folder, texts_file, vectors_file = sys.argv[1:]
    texts: list[str] = json.loads(Path(texts_file).read_text(encoding="utf-8"))
    if system.startswith("st"):
        encode = theirs(system, Path(folder), texts)
    elif system == "again":
        encode = again(Path(folder), texts)
    else:
        encode = ours(Path(folder))
    encode(texts[:32])
    wall, cpu = time.perf_counter(), time.process_time()
    vectors = encode(texts)
    cost = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    np.save(vectors_file, vectors.astype(np.float32))
    print(json.dumps({**cost, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def ours(folder: Path) -> Encode:
    """The encoder in `folder`, by the numeric path of its spec."""
    from tasks.core.training.encoder import load_encoder

    encoder = load_encoder(folder)

    def encode(texts: list[str]) -> np.ndarray:
        windows = [texts[start : start + WINDOW] for start in range(0, len(texts), WINDOW)]
        return np.concatenate([encoder.encode_passages(one) for one in windows])

    return encode


def again(folder: Path, texts: list[str]) -> Encode:
    """A later night: token ids come from the cache, and a text that stands several times is encoded once."""
    from tasks.core.training.encoder import load_encoder

    encoder = load_encoder(folder)
    cache = dict(zip(texts, encoder.passage.tokenize(texts), strict=True))

    def encode(texts: list[str]) -> np.ndarray:
        row = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        vectors = encoder.passage.encode([cache[text] for text in row], encoder.token_budget)
        return vectors[[row[text] for text in texts]]

    return encode


def theirs(system: str, folder: Path, texts: list[str]) -> Encode:
    """sentence-transformers: as it comes; in bf16; through OpenVINO in fp32; the same, quantised on these texts."""
    from sentence_transformers import SentenceTransformer

    if system == "st":
        model = SentenceTransformer(str(folder), device="cpu")
    elif system == "st-bf16":
        model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"torch_dtype": "bfloat16"})
    else:
        model = _through_openvino(folder, texts if system.endswith("int8") else None)
    return lambda some: model.encode(some, convert_to_tensor=True).float().cpu().numpy()


def _through_openvino(folder: Path, calibration: list[str] | None):  # type: ignore[no-untyped-def]
    import torch
    from sentence_transformers import SentenceTransformer

    options = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
    model = SentenceTransformer(str(folder), backend="openvino", model_kwargs={"ov_config": options})
    if calibration is None:
        return model
    from datasets import Dataset
    from optimum.intel import OVConfig, OVQuantizationConfig, OVQuantizer

    inner = model[0].auto_model
    quantizer = OVQuantizer(inner)
    rows = [model.tokenizer(text, truncation=True, max_length=model.max_seq_length) for text in calibration[-64:]]
    names = [one for one in ("input_ids", "attention_mask", "token_type_ids") if one in rows[0]]
    data = Dataset.from_list([{name: row[name] for name in names} for row in rows])
    with tempfile.TemporaryDirectory() as scratch:
        config = OVConfig(quantization_config=OVQuantizationConfig(num_samples=len(rows)))
        quantizer.quantize(ov_config=config, calibration_dataset=data, save_directory=scratch)
        model[0].auto_model = type(inner).from_pretrained(scratch, ov_config=options)
    return model


if __name__ == "__main__":
    main()

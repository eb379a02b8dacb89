"""Encode texts with a system of `embedding.py` in a separate process, and print its cost.

    python embedding_peers.py SYSTEM FOLDER TEXTS VECTORS

SYSTEM is one of our numeric paths or `again`, which need this project, or starts with `st`, which needs only
sentence-transformers (for `st-openvino…` with its openvino extra and `datasets`). FOLDER is one of our encoders;
sentence-transformers can load it. TEXTS is a JSON list. VECTORS is the .npy file to write. Each system first encodes 32
texts to warm up, and then all texts.
"""

from __future__ import annotations

import json
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

Encode = Callable[[list[str]], np.ndarray]
WINDOW = 4096  # texts, as in a night
CALIBRATION = 64  # texts


def main() -> None:
    """Encode the texts, and print the cost as JSON."""
    system, folder, texts_file, vectors_file = sys.argv[1:]
    texts: list[str] = json.loads(Path(texts_file).read_text(encoding="utf-8"))
    if system.startswith("st"):
        encode = load_peer(system, Path(folder), texts)
    elif system == "again":
        encode = load_again(Path(folder), texts)
    else:
        encode = load_ours(Path(folder))
    encode(texts[:32])
    wall, cpu = time.perf_counter(), time.process_time()
    vectors = encode(texts)
    cost = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    np.save(vectors_file, vectors.astype(np.float32))
    print(json.dumps({**cost, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def load_ours(folder: Path) -> Encode:
    """Load the encoder in `folder` with its numeric path."""
    from tasks.core.encoder.dual_encoder import load_encoder

    encoder = load_encoder(folder)

    def encode(texts: list[str]) -> np.ndarray:
        windows = [texts[start : start + WINDOW] for start in range(0, len(texts), WINDOW)]
        return np.concatenate([encoder.encode_passages(window) for window in windows])

    return encode


def load_again(folder: Path, texts: list[str]) -> Encode:
    """Encode as on a later night: token ids are cached, and equal texts are encoded once."""
    from tasks.core.encoder.dual_encoder import load_encoder

    encoder = load_encoder(folder)
    cache = dict(zip(texts, encoder.passage.tokenize(texts), strict=True))

    def encode(texts: list[str]) -> np.ndarray:
        row = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        vectors = encoder.passage.encode([cache[text] for text in row], encoder.token_budget)
        return vectors[[row[text] for text in texts]]

    return encode


def load_peer(system: str, folder: Path, texts: list[str]) -> Encode:
    """Load sentence-transformers: default settings, half precision, or OpenVINO in fp32, by default, or in int8."""
    import torch
    from sentence_transformers import SentenceTransformer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if system.startswith("st-openvino"):
        model = _load_openvino(system, folder, texts)
    else:
        kind = {"st": "float32", "st-bf16": "bfloat16", "st-fp16": "float16"}[system]
        model = SentenceTransformer(str(folder), device=device, model_kwargs={"dtype": kind})
    return lambda batch: model.encode(batch, convert_to_tensor=True).float().cpu().numpy()


def _load_openvino(system: str, folder: Path, texts: list[str]):  # type: ignore[no-untyped-def]
    """Load the OpenVINO backend. Without a hint it computes in bf16 where the processor supports it, also with int8."""
    import torch
    from sentence_transformers import SentenceTransformer

    options = {"INFERENCE_NUM_THREADS": torch.get_num_threads()}
    if system == "st-openvino":
        options["INFERENCE_PRECISION_HINT"] = "f32"
    model = SentenceTransformer(str(folder), backend="openvino", device="cpu", model_kwargs={"ov_config": options})
    if system != "st-openvino-int8":
        return model
    # The documented export, with texts of this corpus instead of a data set from a hub.
    from optimum.intel import OVQuantizationConfig
    from sentence_transformers import export_static_quantized_openvino_model

    with tempfile.TemporaryDirectory() as scratch:
        target, data = Path(scratch) / "model", Path(scratch) / "data"
        shutil.copytree(folder, target)
        data.mkdir()
        (data / "train.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[-CALIBRATION:]))
        export_static_quantized_openvino_model(
            model, OVQuantizationConfig(num_samples=CALIBRATION), str(target), str(data), "default", "train", "text"
        )
        options = {"ov_config": options, "file_name": "openvino/openvino_model_qint8_quantized.xml"}
        model = SentenceTransformer(str(target), backend="openvino", device="cpu", model_kwargs=options)
        model.encode(texts[:1])  # compiles the model before its files are removed
    return model


if __name__ == "__main__":
    main()

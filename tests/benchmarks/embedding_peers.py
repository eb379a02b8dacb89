"""One contestant of `embedding.py` in a process of its own: encode texts, print what it cost.

    python embedding_peers.py SYSTEM FOLDER TEXTS VECTORS

SYSTEM is a numeric path of ours or `again`, which need this project; or one that begins with `st`, which needs
sentence-transformers alone, and where `openvino` is in it also its openvino extra and `datasets`. FOLDER is an encoder
of ours, which sentence-transformers loads as it is. TEXTS is a JSON list; VECTORS is written, a .npy file. A system is
warmed up with 32 texts, then encodes all.
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
    from tasks.core.encoder.dual_encoder import load_encoder

    encoder = load_encoder(folder)

    def encode(texts: list[str]) -> np.ndarray:
        windows = [texts[start : start + WINDOW] for start in range(0, len(texts), WINDOW)]
        return np.concatenate([encoder.encode_passages(one) for one in windows])

    return encode


def again(folder: Path, texts: list[str]) -> Encode:
    """A later night: token ids come from the cache, and a text that stands several times is encoded once."""
    from tasks.core.encoder.dual_encoder import load_encoder

    encoder = load_encoder(folder)
    cache = dict(zip(texts, encoder.passage.tokenize(texts), strict=True))

    def encode(texts: list[str]) -> np.ndarray:
        row = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        vectors = encoder.passage.encode([cache[text] for text in row], encoder.token_budget)
        return vectors[[row[text] for text in texts]]

    return encode


def theirs(system: str, folder: Path, texts: list[str]) -> Encode:
    """sentence-transformers: as it comes; in half numbers; through OpenVINO in fp32, as that comes, and in int8."""
    import torch
    from sentence_transformers import SentenceTransformer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if system.startswith("st-openvino"):
        model = _through_openvino(system, folder, texts)
    else:
        kind = {"st": "float32", "st-bf16": "bfloat16", "st-fp16": "float16"}[system]
        model = SentenceTransformer(str(folder), device=device, model_kwargs={"dtype": kind})
    return lambda some: model.encode(some, convert_to_tensor=True).float().cpu().numpy()


def _through_openvino(system: str, folder: Path, texts: list[str]):  # type: ignore[no-untyped-def]
    """Where OpenVINO is not told otherwise it computes in bf16 on a processor that has it, beside int8 as well."""
    import torch
    from sentence_transformers import SentenceTransformer

    options = {"INFERENCE_NUM_THREADS": torch.get_num_threads()}
    if system == "st-openvino":
        options["INFERENCE_PRECISION_HINT"] = "f32"
    model = SentenceTransformer(str(folder), backend="openvino", device="cpu", model_kwargs={"ov_config": options})
    if system != "st-openvino-int8":
        return model
    # The route of its documentation, with texts of this corpus in place of a data set from a hub.
    from optimum.intel import OVQuantizationConfig
    from sentence_transformers import export_static_quantized_openvino_model

    with tempfile.TemporaryDirectory() as scratch:
        place, data = Path(scratch) / "model", Path(scratch) / "data"
        shutil.copytree(folder, place)
        data.mkdir()
        (data / "train.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[-CALIBRATION:]))
        export_static_quantized_openvino_model(
            model, OVQuantizationConfig(num_samples=CALIBRATION), str(place), str(data), "default", "train", "text"
        )
        options = {"ov_config": options, "file_name": "openvino/openvino_model_qint8_quantized.xml"}
        model = SentenceTransformer(str(place), backend="openvino", device="cpu", model_kwargs=options)
        model.encode(texts[:1])  # compiles, so that the files may go
    return model


if __name__ == "__main__":
    main()

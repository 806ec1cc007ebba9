"""Checks that a refactoring changes no number, to the bit: `python tests/same_numbers.py FOLDER`.

It trains the debug chain and 20 steps of each emoji preset, draws the demo with the shipped bundle, and prints hashes
of the logs, the weights and the pixels. Run it before and after a change, on the same machine, and compare. Names of
tensors and options may change: they are not hashed.
"""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.torch import load_file

TIMES = {"images_per_second", "tokens_per_second"}


def digest(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(sorted(parts))).hexdigest()[:16]


def log(run: Path) -> str:
    lines = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    return digest(*(json.dumps({k: v for k, v in sorted(line.items()) if k not in TIMES}).encode() for line in lines))


def weights(run: Path) -> str:
    tensors = load_file(run / "model" / "model.safetensors")
    return digest(*(tensor.contiguous().view(-1).float().numpy().tobytes() for tensor in tensors.values()))


def pixels(folder: Path) -> str:
    return digest(*(np.asarray(Image.open(file)).tobytes() for file in folder.glob("0*.png")))


def run(*command: object) -> None:
    subprocess.run([sys.executable, *map(str, command)], check=True, stdout=sys.stderr)


def main(out: Path) -> None:
    few = ["--steps", 20, "--log_every", 1, "--sample_every", 0, "--optimizer.warmup", 10]
    shipped = Path("checkpoints/emoji")
    for preset, options in (("debug", ["--log_every", 1]), ("emoji", few)):
        own, at = preset == "debug", out / preset
        text = at / "text" if own else shipped / "text"
        if own:
            run("-m", "tokenizer.train_text", "--config", "configs/text/debug.yaml", "--out", text)
        run("tokenizer/train.py", "--config", f"configs/tokenizer/{preset}.yaml", "--out", at / "tokenizer", *options)
        image = at / "tokenizer" / "model" if own else shipped / "tokenizer"
        codes = ["--config", f"configs/encode/{preset}.yaml", "--model", image, "--out", at / "codes"]
        run("-m", "tokenizer.encode", *codes)
        data = {"seq2seq": ["--data", at / "codes"], "diffusion": []}
        for stage, its in data.items():
            parts = ["--tokenizer", image, "--text", text, "--out", at / stage]
            run(f"{stage}/train.py", "--config", f"configs/{stage}/{preset}.yaml", *its, *parts, *options)
        for stage in ("tokenizer", *data):
            print(preset, stage, "log", log(at / stage), "weights", weights(at / stage), flush=True)
    for bundle, backend in ((shipped, "autoregressive"), (shipped, "diffusion")):
        to = out / f"demo-{backend}"
        demo = ["--config", "configs/demo.yaml", "--backend", backend]
        run("-m", "sampling.generate", "--model", bundle, *demo, "--out", to)
        print("demo", backend, "pixels", pixels(to), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

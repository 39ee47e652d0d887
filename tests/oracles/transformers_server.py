"""What people write first: a handler that runs transformers' `generate`, one request at a time.

    .venv-oracles/bin/python tests/oracles/transformers_server.py FOLDER

FOLDER holds `model/`, `answers.npy` (see transformers_generate.py), `text.npy` int32 [t] (what all
prompts begin with) and `config.json` (`num_beams`, `port`). `POST` takes `{"history": [item, …],
"num": n}`, items by their row in the answers, oldest first, and answers `{"items": [item, …]}`. A
line is printed once it is ready. Python 3.11, torch, transformers; HTTP by the standard library.
"""

import http.server
import json
import pathlib
import sys
import threading

import numpy as np
import torch
import transformers

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from transformers_generate import following_tokens, generate


def main():
    folder = pathlib.Path(sys.argv[1])
    config = json.loads((folder / "config.json").read_text())
    answers, text = (
        np.load(folder / f"{name}.npy", allow_pickle=False) for name in ("answers", "text")
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder / "model", dtype=torch.float32, local_files_only=True
    ).eval()
    following = following_tokens(answers)
    item_of = {tuple(answer): item for item, answer in reversed(list(enumerate(answers.tolist())))}
    lock = threading.Lock()

    def recommend(history, num):
        sids = answers[np.array(history, np.int64), :-2].reshape(-1)
        tokens = np.concatenate([text, sids])[None].astype(np.int32)
        lengths = np.array([tokens.shape[1]])
        with lock, torch.inference_mode():
            found, _ = generate(
                model, tokens, lengths, following, answers.shape[1], int(answers[0, -1]),
                config["num_beams"],
            )  # fmt: skip
        return [item_of[tuple(answer)] for answer in found[0].tolist()[:num]]

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            items = recommend([int(item) for item in asked["history"]], asked["num"])
            body = json.dumps({"items": items}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    recommend([0], 1)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", config["port"]), Handler)
    server.daemon_threads = True
    print(json.dumps({"ready": True}), flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()

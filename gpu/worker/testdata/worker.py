# A worker in Python, with the standard library alone: what a PyTorch worker puts
# around its model. The model here is a toy: a step adds the learning rate to
# each weight, the loss is the sum of the tokens by seven.
#
#   shoal join RUN --engine "exec:python3 worker.py"
import array
import json
import math
import os
import struct
import sys

MORE, BROKEN, PART = 1, 2, 1 << 20

# What a library prints must not get into the protocol.
pipe_in, pipe_out = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)


def read(n):
    b = pipe_in.read(n)
    if len(b) < n:
        sys.exit(0)  # the node is gone
    return b


def receive():
    head, body = None, b""
    while True:
        magic, h, p, flags = struct.unpack("<4sIII", read(16))
        if magic != b"SHW3":
            sys.exit("not the worker protocol, version 3")
        if head is None:
            head = json.loads(read(h))
        part = read(p)
        if flags == BROKEN:
            return head, None
        body += part
        if flags != MORE:
            return head, body


def send(head, body=b""):
    text = json.dumps(head).encode()
    for at in range(0, max(len(body), 1), PART):
        part = body[at:at + PART]
        flags = MORE if at + PART < len(body) else 0
        pipe_out.write(struct.pack("<4sIII", b"SHW3", len(text), len(part), flags) + text + part)
        text = b""
    pipe_out.flush()


class Toy:
    """In PyTorch: a LlamaForCausalLM and an AdamW."""

    def __init__(self, config, optimizer, params):
        self.config, self.params, self.hidden = config, params, array.array("f")

    def eval(self, batch):
        width = self.config["hidden_size"]
        self.hidden = array.array("f", [row[0] for row in batch for _ in range((len(row) - 1) * width)])
        loss = sum(sum(row) for row in batch) / 7
        return loss if math.isfinite(loss) else None

    def step(self, batch, lr):
        loss = self.eval(batch)
        for i, p in enumerate(self.params):
            self.params[i] = p + struct.unpack("<f", struct.pack("<f", lr))[0]
        return loss


class Scribe:
    """Writes texts: counts on from the prompt's last token. In PyTorch: generate()."""

    def __init__(self, config):
        self.vocab = config["vocab_size"]

    def generate(self, id, prompt, sampling):
        if sampling["hidden"]:
            raise ValueError("a toy has no hidden states")
        at = prompt[-1]
        for _ in range(sampling["max_tokens"]):
            at = (at + 1) % self.vocab
            if at in (sampling["stop"] or []):
                return
            body = struct.pack("<i", at)
            if sampling["log_probs"]:
                body += struct.pack("<d", -at)
            send({"id": id, "more": True, "rows": 1}, body)


def floats(body, n=None):
    a = array.array("f", body)
    if sys.byteorder == "big":
        a.byteswap()
    if n is not None and len(a) != n:
        raise ValueError(f"{len(a)} values, want {n}")
    return a


def answer(model, head, body):
    op = head["op"]
    if body is None:
        raise ValueError("the message was broken off")
    if op == "open" and "batch" in head:
        return Scribe(head["config"]), {}, b""
    if op == "open":
        if "separator" in head:  # a worker that cannot pack must say so
            raise ValueError("a toy keeps no documents apart")
        return Toy(head["config"], head["optimizer"], floats(body)), {}, b""
    if model is None:
        raise ValueError(f"{op} before open")
    if isinstance(model, Scribe):
        if op != "generate":
            raise ValueError(f"{op} of a model that was opened to write")
        prompt = array.array("i", body)
        if not prompt or len(prompt) != head["cols"]:
            raise ValueError(f"a prompt of {len(prompt)} tokens")
        # One text after the other: allowed, and enough for a toy.
        model.generate(head["id"], prompt, head["sampling"])
        return model, {}, b""
    if op in ("step", "eval"):
        ids, cols = array.array("i", body), head["cols"]
        if len(ids) != head["rows"] * cols:
            raise ValueError(f"{len(ids)} tokens")
        batch = [ids[i:i + cols] for i in range(0, len(ids), cols)]
        return model, {"loss": model.step(batch, head.get("lr", 0)) if op == "step" else model.eval(batch)}, b""
    if op == "hidden":
        width = model.config["hidden_size"]
        return model, {"rows": len(model.hidden) // width, "cols": width}, model.hidden.tobytes()
    if op in ("params", "save"):
        return model, {}, model.params.tobytes()
    if op in ("set", "load"):
        model.params = floats(body, len(model.params))
        return model, {}, b""
    raise ValueError(f"unknown op {op}")


send({"worker": 3, "name": "toy in Python", "identity": "toy/1 python"})
model = None
while True:
    head, body = receive()
    if head["op"] == "cancel" and isinstance(model, Scribe):
        continue  # what was asked for is written already
    try:
        model, reply, out = answer(model, head, body)
    except Exception as e:
        reply, out = {"error": str(e)}, b""
    send({"id": head["id"], **reply}, out)

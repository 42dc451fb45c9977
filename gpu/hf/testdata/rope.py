"""Writes rope.json: what PyTorch makes of kinds of RoPE, in float64, for TestRotary.

    /usr/bin/python3 rope.py > rope.json

The formulas are those of Peng et al. 2023 (YaRN), Ding et al. 2024 (LongRoPE) and Meta's for
Llama 3.1, with the defaults that transformers 5 has.
"""
import json
import math

import torch


def rotary(head, theta, longest, scaling, tokens, original=None):
    """The frequencies of a head, and the factor of its cosines and sines, in a pass over some tokens."""
    pairs = torch.arange(head // 2, dtype=torch.float64)
    plain = theta ** (-2 * pairs / head)
    s = scaling or {}
    kind = s.get("rope_type", s.get("type", "default"))
    if original is None:
        original = s.get("original_max_position_embeddings", longest)
    factor = s.get("factor")
    if kind == "default":
        return plain, 1.0
    if kind == "linear":
        return plain / factor, 1.0
    if kind == "llama3":
        turns = original * plain / (2 * math.pi)
        share = (turns - s["low_freq_factor"]) / (s["high_freq_factor"] - s["low_freq_factor"])
        share = share.clamp(0, 1)
        return share * plain + (1 - share) * plain / factor, 1.0
    if kind == "dynamic":
        longer = max(tokens, longest) / longest
        base = theta * (factor * longer - (factor - 1)) ** (head / (head - 2))
        return base ** (-2 * pairs / head), 1.0
    if factor is None:
        factor = longest / original
    if kind == "yarn":
        def pair_of(turns):
            return head * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

        first, last = pair_of(s.get("beta_fast") or 32), pair_of(s.get("beta_slow") or 1)
        if s.get("truncate", True):
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, head - 1)
        if first == last:
            last += 0.001
        stretched = ((pairs - first) / (last - first)).clamp(0, 1)

        def longer(m):
            return 1.0 if factor <= 1 else 0.1 * m * math.log(factor) + 1

        scale = s.get("attention_factor")
        if scale is None:
            scale = longer(1)
            if s.get("mscale") and s.get("mscale_all_dim"):
                scale = longer(s["mscale"]) / longer(s["mscale_all_dim"])
        return stretched * plain / factor + (1 - stretched) * plain, scale
    if kind == "longrope":
        by = s["long_factor"] if tokens > original else s["short_factor"]
        scale = s.get("attention_factor")
        if scale is None:
            scale = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
        return plain / torch.tensor(by, dtype=torch.float64), scale
    raise ValueError(kind)


def main():
    short = [round(1 + 0.01 * i, 6) for i in range(8)]
    long = [round(1 + 0.7 * i * i, 6) for i in range(8)]
    cases = [
        (16, 10000.0, 64, None, None, [1, 64]),
        (16, 10000.0, 64, {"type": "linear", "factor": 4.0}, None, [1]),
        (64, 500000.0, 131072, {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                "original_max_position_embeddings": 8192}, None, [1]),
        (128, 1000000.0, 131072, {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}, None, [1, 100000]),
        (16, 10000.0, 256, {"rope_type": "yarn", "original_max_position_embeddings": 64}, None, [1, 256]),
        (16, 10000.0, 256, {"rope_type": "yarn", "factor": None}, 64, [256]),
        (16, 10000.0, 256, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "truncate": False,
                            "beta_fast": 8, "beta_slow": 0.5}, None, [256]),
        (64, 10000.0, 4096, {"rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 4096, "mscale": 0.707,
                             "mscale_all_dim": 1.0}, None, [4096]),
        (64, 10000.0, 4096, {"rope_type": "yarn", "factor": 8.0, "attention_factor": 1.5}, None, [4096]),
        (8, 20.0, 32, {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 4}, None, [32]),
        (16, 10000.0, 64, {"type": "dynamic", "factor": 2.0}, None, [1, 64, 65, 100, 128]),
        (4, 10000.0, 64, {"rope_type": "dynamic", "factor": 8.0}, None, [64, 500]),
        (16, 10000.0, 256, {"rope_type": "longrope", "short_factor": short, "long_factor": long,
                            "original_max_position_embeddings": 64}, None, [1, 64, 65, 256]),
        (16, 10000.0, 256, {"rope_type": "longrope", "short_factor": short, "long_factor": long, "factor": 16.0}, 64, [64, 65]),
        (16, 10000.0, 256, {"rope_type": "longrope", "short_factor": short, "long_factor": long, "attention_factor": 1.25,
                            "original_max_position_embeddings": 512}, None, [256]),
        (16, 10000.0, 256, {"rope_type": "longrope", "short_factor": short, "long_factor": long}, None, [256]),
    ]
    out = []
    for head, theta, longest, scaling, original, lengths in cases:
        config = {"head_dim": head, "rope_theta": theta, "max_position_embeddings": longest, "rope_scaling": scaling}
        if original is not None:
            config["original_max_position_embeddings"] = original
        for tokens in lengths:
            freqs, scale = rotary(head, theta, longest, scaling, tokens, original)
            out.append({"config": config, "tokens": tokens, "scale": scale, "frequencies": freqs.tolist()})
    print("[\n" + ",\n".join(json.dumps(x) for x in out) + "\n]")


if __name__ == "__main__":
    main()

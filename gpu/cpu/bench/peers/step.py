"""Training steps of a Llama in PyTorch, for `make bench-engine`.

    step.py threads dim layers heads intermediate vocab sequence batch [bf16]

answers each line "n" with the wall and processor seconds of a step, means of n,
and at the end of the input prints its peak memory in KiB on standard error.
Everything that helps is on: scaled_dot_product_attention where there is one, fused
or foreach AdamW, one cross-entropy call, flush-to-zero.
"""

import sys
import time

import torch
import torch.nn.functional as F

threads, dim, layers, heads, inter, vocab, seq, batch = map(int, sys.argv[1:9])
bf16 = "bf16" in sys.argv[9:]
torch.set_num_threads(threads)
torch.set_flush_denormal(True)
torch.manual_seed(1)
hd = dim // heads


class Norm(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(dim))

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.weight


def rope(x, cos, sin):
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


mask = torch.full((seq, seq), float("-inf")).triu(1)


def attend(q, k, v):
    if hasattr(F, "scaled_dot_product_attention"):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return torch.softmax(torch.baddbmm(mask, q.flatten(0, 1), k.flatten(0, 1).transpose(1, 2), alpha=hd**-0.5), -1).view(
        q.shape[0], heads, seq, seq) @ v


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        lin = lambda i, o: torch.nn.Linear(i, o, bias=False)
        self.n1, self.n2 = Norm(), Norm()
        self.qkv, self.o = lin(dim, 3 * dim), lin(dim, dim)
        self.gu, self.down = lin(dim, 2 * inter), lin(inter, dim)

    def forward(self, x, cos, sin):
        q, k, v = self.qkv(self.n1(x)).view(batch, seq, 3, heads, hd).permute(2, 0, 3, 1, 4)
        a = attend(rope(q, cos, sin), rope(k, cos, sin), v)
        x = x + self.o(a.transpose(1, 2).reshape(batch, seq, dim))
        g, u = self.gu(self.n2(x)).chunk(2, -1)
        return x + self.down(F.silu(g) * u)


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(vocab, dim)
        torch.nn.init.normal_(self.embed.weight, std=0.02)
        self.blocks = torch.nn.ModuleList(Block() for _ in range(layers))
        self.norm = Norm()
        f = torch.outer(torch.arange(seq).float(), 10000 ** (-torch.arange(0, hd, 2).float() / hd))
        self.cos, self.sin = torch.cat((f, f), -1).cos(), torch.cat((f, f), -1).sin()

    def forward(self, ids):
        x = self.embed(ids)
        for b in self.blocks:
            x = b(x, self.cos, self.sin)
        return F.linear(self.norm(x), self.embed.weight)


m = Model()
try:
    opt = torch.optim.AdamW(m.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, foreach=True)
except TypeError:
    opt = torch.optim.AdamW(m.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
tokens = torch.randint(vocab, (batch, seq + 1))


def step():
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        z = m(tokens[:, :-1])
        loss = F.cross_entropy(z.reshape(-1, vocab).float(), tokens[:, 1:].reshape(-1))
    opt.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(m.parameters(), 1.0)
    opt.step()


step()
for line in sys.stdin:
    n = int(line)
    w, c = time.monotonic(), time.process_time()
    for _ in range(n):
        step()
    print((time.monotonic() - w) / n, (time.process_time() - c) / n, flush=True)
with open("/proc/self/status") as f:
    print(next(line.split()[1] for line in f if line.startswith("VmHWM:")), file=sys.stderr)

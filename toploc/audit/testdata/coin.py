"""Computes the vector of coin_test.go from the description alone (standard library only)."""
import hashlib, hmac, struct

H = lambda b: hashlib.sha256(b).digest()
cid = lambda b: bytes([1, 0x71, 0x12, 0x20]) + H(b)  # CIDv1, DAG-CBOR, sha2-256
run = cid(b"run")
key = hmac.new(b"secret", b"shoal/audit coin/1" + run, hashlib.sha256).digest()
secret = lambda r: H(b"\2" + key + struct.pack(">Q", r))
N = 1 << 16
tree = [b""] * N + [H(b"\0" + secret(r) + struct.pack(">Q", r)) for r in range(N)]
for i in range(N - 1, 0, -1):
    tree[i] = H(b"\1" + tree[2 * i] + tree[2 * i + 1])
reveal, i = secret(7), N + 7
while i > 1:
    reveal, i = reveal + tree[i ^ 1], i // 2
draw = hmac.new(reveal[:32], b"shoal/audit draw/1" + run, hashlib.sha256).digest()
a, s = struct.unpack(">QQ", draw[:16])
print("root", tree[1].hex())
print("reveal", H(reveal).hex())
print("audit", a % 10_000 < 5_000, "segment", s % 4, "seed", H(draw).hex())

"""Computes the vector of coin_test.go from the description alone (standard library only)."""
import hashlib, hmac, struct

H = lambda b: hashlib.sha256(b).digest()
cid = lambda b: bytes([1, 0x71, 0x12, 0x20]) + H(b)  # CIDv1, DAG-CBOR, sha2-256
run = cid(b"run")
chain, N = [hmac.new(b"secret", b"shoal/audit coin/2" + run, hashlib.sha256).digest()], 1 << 18
for r in range(N, 0, -1):  # the last first
    chain.append(H(chain[-1] + struct.pack(">Q", r)))
secret = lambda r: chain[N - r]
draw = hmac.new(secret(7), b"shoal/audit draw/1" + run, hashlib.sha256).digest()
a, s = struct.unpack(">QQ", draw[:16])
print("first", secret(0).hex())
print("reveal", secret(7).hex())
print("audit", a % 10_000 < 5_000, "segment", s % 4, "seed", H(draw).hex())

package wire

import (
	"bytes"
	"encoding/hex"
	"testing"
)

func testKey(t testing.TB, b byte) *Key {
	t.Helper()
	k, err := NewKey(bytes.Repeat([]byte{b}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// The pair peer ID and address was computed with go-libp2p and go-ethereum
// from go-ethereum's well-known test key.
func TestIdentityIsLibp2pAndEthereum(t *testing.T) {
	secret, _ := hex.DecodeString("b71c71a67e1177ad4e901695e1b4b9ee17ae16c6668d313eac2f96dbcda3f291")
	k, err := NewKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	a, err := k.Peer().Address()
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(a[:]); got != "71562b71999873db5b286df957af199ec94617f7" {
		t.Errorf("address %s", got)
	}
	s := k.Peer().String()
	if s[:12] != "16Uiu2HAmSH2" {
		t.Errorf("peer ID %s", s)
	}
	p, err := ParsePeer(s)
	if err != nil || p != k.Peer() {
		t.Errorf("round trip: %v, %v", p, err)
	}
}

func TestSignedRoundTripAndTamper(t *testing.T) {
	k := testKey(t, 7)
	run := SumCID(CodecDagCBOR, []byte("run"))
	m := k.Sign(KindVote, run, []byte{0xa0})
	b, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	if got.ID() != m.ID() || got.From != k.Peer() {
		t.Error("decoded message differs")
	}
	for i := range b {
		bad := bytes.Clone(b)
		bad[i] ^= 1
		if _, err := Decode(bad); err == nil {
			t.Fatalf("byte %d flipped: accepted", i)
		}
	}
	for n := range b {
		if _, err := Decode(b[:n]); err == nil {
			t.Fatalf("truncated to %d bytes: accepted", n)
		}
	}
	if _, err := Decode(append(bytes.Clone(b), 0)); err == nil {
		t.Error("trailing byte accepted")
	}
}

func TestCanonicalOnly(t *testing.T) {
	type pair struct {
		A uint64 `cbor:"a"`
		C CID    `cbor:"c"`
	}
	c := SumCID(CodecRaw, []byte("x"))
	b, err := Marshal(pair{3, c})
	if err != nil {
		t.Fatal(err)
	}
	var p pair
	if err := Unmarshal(b, &p); err != nil || p.C != c {
		t.Fatalf("%v %v", p, err)
	}
	long := append([]byte{0xa2, 0x61, 'a', 0x18, 3}, b[4:]...) // 3 in two bytes
	if err := Unmarshal(long, &p); err == nil {
		t.Error("long integer accepted")
	}
	extra, _ := Marshal(struct {
		A uint64 `cbor:"a"`
		B uint64 `cbor:"b"`
		C CID    `cbor:"c"`
	}{3, 1, c})
	if err := Unmarshal(extra, &p); err == nil {
		t.Error("unknown key accepted")
	}
}

func FuzzDecode(f *testing.F) {
	k := testKey(f, 9)
	m := k.Sign(KindJoin, SumCID(CodecRaw, []byte("r")), []byte{0xa0})
	b, _ := m.Encode()
	f.Add(b)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Decode(b)
		if err != nil {
			return
		}
		again, err := m.Encode()
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("accepted bytes are not canonical: %v", err)
		}
	})
}

func FuzzCIDText(f *testing.F) {
	f.Add(SumCID(CodecRaw, []byte("x")).String())
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ParseCID(s)
		if err != nil {
			return
		}
		if d, err := ParseCID(c.String()); err != nil || d != c {
			t.Fatalf("%q: %v", s, err)
		}
	})
}

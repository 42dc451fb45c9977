package chain

import (
	"encoding/json"
	"math/big"
	"os"
	"slices"
	"testing"

	"github.com/shoalnet/shoal/p2p/wire"
)

// vectors are OpenZeppelin's trees and viem's digests: see testdata/vectors.mjs.
type vectors struct {
	Trees []struct {
		Run     Hash
		Rewards []Reward
		Root    Hash
		Proofs  [][]Hash
	}
	Receipt, Epoch, Voucher, Key, Run Hash
}

func loadVectors(t *testing.T) (v vectors) {
	t.Helper()
	b, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestTreesAreOpenZeppelins(t *testing.T) {
	for _, v := range loadVectors(t).Trees {
		leaves := make([]Hash, len(v.Rewards))
		for i, r := range v.Rewards {
			leaves[i] = r.Leaf(v.Run)
		}
		tree, err := NewTree(leaves)
		if err != nil {
			t.Fatal(err)
		}
		if tree.Root() != v.Root {
			t.Fatalf("%d leaves: root %s, want %s", len(leaves), tree.Root(), v.Root)
		}
		for i := range leaves {
			if p := tree.Proof(i); !slices.Equal(p, v.Proofs[i]) {
				t.Errorf("%d leaves: proof %d is %v, want %v", len(leaves), i, p, v.Proofs[i])
			}
			if !VerifyProof(v.Root, leaves[i], v.Proofs[i]) {
				t.Errorf("%d leaves: proof %d does not verify", len(leaves), i)
			}
			if VerifyProof(v.Root, leaves[i], append(slices.Clone(v.Proofs[i]), Hash{})) {
				t.Errorf("%d leaves: a longer proof %d verifies", len(leaves), i)
			}
		}
	}
}

func numbered(n byte) Address { return Address{19: n} }

func hashed(n byte) Hash { return keccak([]byte{n}) }

func TestDigestsAreViems(t *testing.T) {
	v := loadVectors(t)
	b := Book{ChainID: 31337, Contracts: map[Contract]Address{
		Staking: numbered(2), Settlement: numbered(3), Disputes: numbered(4), Vouchers: numbered(5)}}
	e := Epoch{Run: hashed(1), Number: 3, Commit: hashed(2), Rewards: hashed(3), Receipts: hashed(4), Accounts: 5, Count: 6,
		Amounts: [4]Amount{Int(7), Int(8), Int(9), Int(10)}, Total: Int(34)}
	for name, got := range map[string][2]Hash{
		"receipt": {b.ReceiptDigest(&Receipt{hashed(1), 3, numbered(77), Rollout, hashed(2), 4096}), v.Receipt},
		"epoch":   {b.EpochDigest(&e), v.Epoch},
		"voucher": {b.VoucherDigest(hashed(1), Coins(100)), v.Voucher},
		"key":     {b.KeyDigest(numbered(9), numbered(8), 1, 1700000000), v.Key},
		"run":     {RunID(hashed(5), numbered(6)), v.Run},
	} {
		if got[0] != got[1] {
			t.Errorf("%s: %s, want %s", name, got[0], got[1])
		}
	}
}

func TestAmounts(t *testing.T) {
	for s, want := range map[string]string{"1": "1", "0.5": "0.5", "12.340": "12.34", "0": "0", "000.000000000000000001": "0.000000000000000001"} {
		a, err := ParseAmount(s)
		if err != nil || FormatAmount(a) != want {
			t.Errorf("%q: %v %v", s, FormatAmount(a), err)
		}
	}
	for _, s := range []string{"", ".", "-1", "1e3", "1.1234567890123456789", "1.2.3", "0x10", "999999999999999999999999"} {
		if a, err := ParseAmount(s); err == nil {
			t.Errorf("%q accepted as %s", s, a)
		}
	}
	if got := FormatAmount(Int(-5)); got != "-0.000000000000000005" {
		t.Error(got)
	}
}

func key(t testing.TB, n byte) *wire.Key {
	t.Helper()
	k, err := wire.NewKey(slices.Repeat([]byte{n}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestRecoverRefusesWhatTheContractsRefuse(t *testing.T) {
	k, d := key(t, 3), hashed(9)
	sig := SignDigest(k, d)
	if who, err := Recover(d, sig); err != nil || who != AddressOf(k) {
		t.Fatalf("%s, %v", who, err)
	}
	order, _ := new(big.Int).SetString("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141", 16)
	high := slices.Clone(sig)
	new(big.Int).Sub(order, new(big.Int).SetBytes(sig[32:64])).FillBytes(high[32:64])
	high[64] ^= 7 // 27 and 28 exchanged
	zero := slices.Clone(sig)
	zero[64] -= 27
	for name, bad := range map[string][]byte{"high s": high, "v of 0 or 1": zero, "short": sig[:64], "long": append(slices.Clone(sig), 0), "empty": nil} {
		if _, err := Recover(d, bad); err == nil {
			t.Errorf("%s accepted", name)
		}
	}
}

func FuzzDecodeEntry(f *testing.F) {
	b := MemoryBook(1)
	k, _ := wire.NewKey(slices.Repeat([]byte{5}, 32))
	e := b.SignReceipt(k, Receipt{Run: hashed(1), Epoch: 1, Kind: Training, Subject: hashed(2), Units: 7})
	raw, _ := e.Encode()
	f.Add(raw)
	f.Fuzz(func(t *testing.T, raw []byte) {
		e, err := DecodeEntry(raw)
		if err != nil {
			return
		}
		again, err := e.Encode()
		if err != nil || string(again) != string(raw) {
			t.Fatalf("accepted bytes are not canonical: %v", err)
		}
	})
}

func FuzzCborField(f *testing.F) {
	f.Add([]byte("\xa2\x61a\x01\x66parent\xd8\x2a\x42\x00\x01"))
	f.Add([]byte{0xa1, 0x66, 'p', 'a', 'r', 'e', 'n', 't', 0x9b, 255, 255, 255, 255, 255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		v, ok := cborField(b, "parent")
		if ok && len(v) == 0 {
			t.Fatal("an empty value")
		}
	})
}

// The order of the receipts, and who computes, change nothing.
func TestSettleIsAFunctionOfTheSet(t *testing.T) {
	b := MemoryBook(1)
	run := hashed(1)
	keys := []*wire.Key{key(t, 1), key(t, 2), key(t, 3)}
	var es []Entry
	for i, k := range keys {
		for j := range 5 {
			es = append(es, b.SignReceipt(k, Receipt{Run: run, Epoch: 2, Kind: Kind(j % 3), Subject: hashed(byte(10*i + j)), Units: uint64(i*j + 1)}))
		}
	}
	basis := Basis{Book: b, Run: run, Number: 2, Sponsor: numbered(9), Pool: Coins(1000), Before: map[Address]Amount{numbered(3): Int(5)},
		Rate:  Rate{Coins(100), [4]uint16{7000, 1500, 1000, 500}},
		Owner: func(a Address) (Address, bool) { return a, true }}
	one, credits, err := Settle(basis, es)
	if err != nil {
		t.Fatal(err)
	}
	slices.Reverse(es)
	two, _, err := Settle(basis, es)
	if err != nil || one.Epoch.Hash() != two.Epoch.Hash() {
		t.Fatalf("another order gives another epoch: %v", err)
	}
	paid := Int(5)
	for _, c := range credits {
		paid = add(paid, c.Amount)
	}
	if paid = add(paid, Coins(5)); paid.Cmp(one.Epoch.Total) != 0 || less(Coins(100), sub(paid, Int(5))) {
		t.Errorf("credits, sponsor and before add up to %s, total is %s", paid, one.Epoch.Total)
	}
	if _, _, err := Settle(basis, append(es, es[0])); err == nil {
		t.Error("a duplicate was settled")
	}
	es[0].Sig[3] ^= 1
	if _, _, err := Settle(basis, es); err == nil {
		t.Error("a bad signature was settled")
	}
}

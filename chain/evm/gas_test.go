package evm

import (
	"encoding/json"
	"maps"
	"os"
	"slices"
	"testing"

	"github.com/shoalnet/shoal/chain"
	"github.com/shoalnet/shoal/p2p/wire"
)

func testKeys(t testing.TB, n int) []*wire.Key {
	t.Helper()
	ks := make([]*wire.Key, n)
	for i := range ks {
		k, err := wire.NewKey(slices.Repeat([]byte{byte(0x41 + i)}, 32))
		if err != nil {
			t.Fatal(err)
		}
		ks[i] = k
	}
	return ks
}

// TestGas measures what each step of an epoch costs, with 1,000 receipts and
// 1,000 accounts, and compares with the snapshot in testdata/gas.json
// (SHOAL_UPDATE=1 writes it) and with the limits that were promised.
func TestGas(t *testing.T) {
	const validators = 10
	ks := testKeys(t, 4+2*validators)
	sponsor, worker, payer, anyone := ks[0], ks[1], ks[2], ks[3]
	owners, hots := ks[4:4+validators], ks[4+validators:]
	cfg := chain.DefaultConfig(chain.AddressOf(sponsor))
	cfg.Params.ChallengeWindow, cfg.Minimum = 60, chain.Coins(1)
	s, c := simulate(t, ks)
	l := world(t, cfg, c, ks)
	table := map[string]uint64{}
	do := func(step string, k *wire.Key, a chain.Action) chain.Result {
		t.Helper()
		r, err := l.Do(t.Context(), chain.AddressOf(k), a)
		if err != nil {
			t.Fatalf("%s: %v", step, err)
		}
		if step != "" {
			table[step] = r.Gas
		}
		return r
	}
	for i, k := range append(slices.Clone(owners), payer) {
		do("", sponsor, chain.Transfer{To: chain.AddressOf(k), Amount: chain.Coins(1000)})
		for _, x := range []chain.Contract{chain.Staking, chain.Settlement, chain.Disputes, chain.Vouchers} {
			do("", k, chain.Approve{Spender: x, Amount: chain.Unlimited()})
		}
		if i < validators {
			do("deposit bonds", k, chain.DepositBond{Amount: chain.Coins(500)})
			do("stake", k, chain.Stake{Role: chain.Validator, Amount: chain.Coins(10)})
			sig := chain.SignDigest(hots[i], l.book.KeyDigest(chain.AddressOf(k), chain.AddressOf(hots[i]), 0, 1<<40))
			do("register a key", k, chain.RegisterKey{Key: chain.AddressOf(hots[i]), Deadline: 1 << 40, Sig: sig})
		}
	}
	do("", sponsor, chain.Approve{Spender: chain.Runs, Amount: chain.Unlimited()})
	now, err := l.Now(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	rate := chain.Rate{Budget: chain.Coins(100), Split: [4]uint16{7000, 1500, 1000, 500}}
	run := do("publish, with shares", sponsor, chain.Publish{Manifest: chain.Hash{1}, Start: now + 10, Length: 100, Royalty: 1000, Shares: true, Rate: rate}).ID
	do("fund", sponsor, chain.Fund{Run: run, Amount: chain.Coins(1000)})
	settle := func(n uint64) *chain.Settled {
		x := &chain.Settled{Epoch: chain.Epoch{Run: run, Number: n, Commit: chain.Hash{byte(n)}}}
		total := map[chain.Address]chain.Amount{chain.AddressOf(worker): chain.Int(int64(n) * 1e9)}
		for i := range 999 {
			total[chain.Address{1, byte(i), byte(i >> 8)}] = chain.Int(int64(n) * 1e9)
		}
		x.Rewards = chain.Rewards(total)
		for i := range 1000 {
			x.Entries = append(x.Entries, chain.Entry{Index: uint64(i), Receipt: chain.Receipt{Run: run, Epoch: n, Subject: chain.Hash{byte(i), byte(i >> 8)}, Units: 1}})
		}
		if err := x.Seal(l.book); err != nil {
			t.Fatal(err)
		}
		x.Epoch.Amounts = [4]chain.Amount{chain.Int(1e12), chain.Int(0), chain.Int(0), chain.Int(0)}
		return x
	}
	claim := func(x *chain.Settled) chain.Claim {
		i := x.Find(chain.AddressOf(worker))
		return chain.Claim{Run: run, Reward: x.Rewards[i], Proof: x.RewardProof(i)}
	}
	var sum uint64
	for n, name := range []string{"first", "next"} {
		s.advance(t, 120)
		x := settle(uint64(n + 1))
		do("propose, "+name, owners[0], chain.Propose{Epoch: x.Epoch})
		if n == 0 {
			do("demand a leaf", payer, chain.Demand{Epoch: x.Epoch, Index: 5})
			do("answer it", owners[0], chain.AnswerReward{Epoch: x.Epoch, Reward: x.Rewards[5], Proof: x.RewardProof(5)})
		}
		s.advance(t, 61)
		do("finalize, "+name, anyone, chain.Finalize{Epoch: x.Epoch})
		do("claim, "+name, worker, claim(x))
		sum = table["propose, "+name] + table["finalize, "+name]
		table["1,000 receipts, "+name] = sum
	}
	do("mint shares", anyone, chain.MintShares{Run: run, Account: chain.AddressOf(worker)})
	s.advance(t, 120)
	x := settle(3)
	do("", owners[0], chain.Propose{Epoch: x.Epoch})
	type signed struct {
		owner chain.Address
		sig   []byte
	}
	var sigs []signed
	for i := range validators {
		sigs = append(sigs, signed{chain.AddressOf(owners[i]), chain.SignDigest(hots[i], l.book.EpochDigest(&x.Epoch))})
	}
	slices.SortFunc(sigs, func(a, b signed) int { return slices.Compare(a.owner[:], b.owner[:]) })
	var flat [][]byte
	for _, g := range sigs {
		flat = append(flat, g.sig)
	}
	do("finalize by 10 signatures", anyone, chain.FinalizeFast{Epoch: x.Epoch, Sigs: flat})
	bad := chain.Conviction{Run: run, Key: chain.AddressOf(hots[0]), Subject: chain.Hash{1}, Evidence: chain.Hash{2}, Bps: 3000}
	flat = nil
	for i := range validators {
		sigs[i] = signed{chain.AddressOf(owners[i]), chain.SignDigest(hots[i], l.book.ConvictionDigest(&bad))}
	}
	slices.SortFunc(sigs, func(a, b signed) int { return slices.Compare(a.owner[:], b.owner[:]) })
	for _, g := range sigs {
		flat = append(flat, g.sig)
	}
	do("convict by 10 signatures", anyone, chain.Convict{Conviction: bad, Sigs: flat})
	s.advance(t, uint64(cfg.Params.AppealWindow)+1)
	do("carry a conviction out", anyone, chain.ExecuteConviction{ID: bad.ID()})
	channel := do("open a channel", payer, chain.OpenChannel{Run: run, Provider: chain.AddressOf(worker), Amount: chain.Coins(10)}).ID
	for i, name := range []string{"first", "next"} {
		v := chain.Coins(int64(i + 1))
		do("voucher, "+name, worker, chain.Redeem{Channel: channel, Cumulative: v, Sig: chain.SignDigest(payer, l.book.VoucherDigest(channel, v))})
	}
	do("flush royalties", anyone, chain.Flush{Run: run, Channels: []chain.Hash{channel}})
	do("collect revenue", anyone, chain.Collect{Run: run, Holder: chain.AddressOf(worker)})

	for _, k := range slices.Sorted(maps.Keys(table)) {
		t.Logf("%-28s %9d", k, table[k])
	}
	for step, limit := range map[string]uint64{"propose, first": 140_000, "propose, next": 140_000, "claim, next": 70_000, "voucher, next": 70_000, "1,000 receipts, first": 200_000, "1,000 receipts, next": 200_000} {
		if table[step] > limit {
			t.Errorf("%s: %d gas, the limit is %d", step, table[step], limit)
		}
	}
	const file = "testdata/gas.json"
	got, err := json.MarshalIndent(table, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	if os.Getenv("SHOAL_UPDATE") != "" {
		if err := os.WriteFile(file, append(got, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var want map[string]uint64
	if err := json.Unmarshal(raw, &want); err != nil {
		t.Fatal(err)
	}
	for step, g := range table {
		w := want[step]
		if d := int64(g) - int64(w); d > int64(w/100) || -d > int64(w/100) {
			t.Errorf("%s: %d gas, the snapshot has %d (SHOAL_UPDATE=1 if that is meant)", step, g, w)
		}
	}
	if len(want) != len(table) {
		t.Errorf("the snapshot has %d steps, there are %d (SHOAL_UPDATE=1 if that is meant)", len(want), len(table))
	}
}

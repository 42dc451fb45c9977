package evm

import (
	"math/big"
	"os"
	"path/filepath"
	"testing"

	"github.com/ethereum/go-ethereum/common"
	"github.com/shoalnet/shoal/chain"
	"github.com/shoalnet/shoal/chain/devchain"
)

// The directory of a dev chain is restored from a copy that is older than two payments of
// ether which everybody believed: whoever sends the next one sends them again, too.
func TestRestoredDevChain(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: -short: no dev chain was restored from an older state (20 s)")
	}
	dir := t.TempDir()
	live, file := filepath.Join(dir, "live"), filepath.Join(dir, "flights.json")
	k := testKeys(t, 1)[0]
	to := chain.Address{7}
	life := func(want int64, amounts ...int64) {
		t.Helper()
		d, err := devchain.Start(t.Context(), devchain.Options{Dir: live, Funded: []common.Address{address(chain.AddressOf(k))}})
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		}()
		p := Presets["dev"]
		p.URL = d.URL
		c, err := Dial(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		s, err := NewSender(c, k, SenderOptions{File: file, OnLoss: func(l Loss) { t.Log(l) }})
		if err != nil {
			t.Fatal(err)
		}
		for _, wei := range amounts {
			if _, err := s.Pay(t.Context(), to, big.NewInt(wei)); err != nil {
				t.Fatal(err)
			}
		}
		if got := s.Losses(); len(got) > 0 {
			t.Errorf("still told: %v", got)
		}
		b, err := c.BalanceAt(t.Context(), address(to), nil)
		if err != nil {
			t.Fatal(err)
		}
		if b.Int64() != want {
			t.Errorf("%s wei were paid, want %d", b, want)
		}
	}
	life(1, 1)
	if err := os.CopyFS(filepath.Join(dir, "copy"), os.DirFS(live)); err != nil {
		t.Fatal(err)
	}
	life(111, 10, 100)
	if err := os.RemoveAll(live); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "copy"), live); err != nil {
		t.Fatal(err)
	}
	life(1111, 1000)
}

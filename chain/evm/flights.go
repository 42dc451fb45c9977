package evm

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/core/types"
)

// A flight is one nonce with every transaction that was ever sent for it: they
// differ in fees alone, so whichever is mined does the same.
type flight struct {
	Nonce  uint64          `json:"nonce"`
	What   string          `json:"what,omitempty"` // for people
	To     *common.Address `json:"to"`
	Data   hexutil.Bytes   `json:"data"`
	Value  *hexutil.Big    `json:"value,omitempty"`  // wei
	Raw    []hexutil.Bytes `json:"raw"`              // oldest first
	First  *place          `json:"first,omitempty"`  // the chain's block 1, which tells it from another of the same ID; nil: not known
	Landed *place          `json:"landed,omitempty"` // where it is, once that was safe; then it is not in flight

	sent    time.Time // guarded by the Sender's mu, as all that follows
	said    error     // of the node, about the last sending
	adopted bool      // whoever asked for it waits for it
	tended  bool      // somebody else waits, so that it comes to an end
	lost    bool      // it was safe once, and the chain has lost it
}

// A place is a block.
type place struct {
	Number uint64      `json:"number"`
	Hash   common.Hash `json:"hash"`
	Failed bool        `json:"failed,omitempty"` // the transaction reverted there
}

func (f *flight) is(to *common.Address, data []byte, wei *big.Int) bool {
	return string(f.Data) == string(data) && (to == nil) == (f.To == nil) && (to == nil || *to == *f.To) && num(f.Value.ToInt()).Cmp(num(wei)) == 0
}

// name says which transaction this is, for people.
func (f *flight) name() string {
	what := "the transaction"
	if f.What != "" {
		what = f.What
	}
	return fmt.Sprintf("%s (nonce %d, %s)", what, f.Nonce, hashOf(f))
}

// maxFlights bounds what is in flight at once, and the file; maxLanded what is
// remembered of what was safe.
const (
	maxFlights = 1024
	maxLanded  = 64
)

// load reads what an earlier process left.
func (s *Sender) load() error {
	if s.opt.File == "" {
		return nil
	}
	b, err := os.ReadFile(s.opt.File)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("transactions in flight: %w", err)
	}
	var fs []*flight
	if err := json.Unmarshal(b, &fs); err != nil || len(fs) > maxFlights+maxLanded {
		return fmt.Errorf("transactions in flight: %s is damaged (%v): see on the chain whether anything of %s is pending, then remove it", s.opt.File, err, s.from)
	}
	for _, f := range fs {
		switch {
		case f == nil || len(f.Raw) == 0:
			return fmt.Errorf("transactions in flight: %s has an entry without a transaction: remove it once nothing of %s is pending", s.opt.File, s.from)
		case f.Landed != nil:
			s.landed[f.Nonce] = f
		default:
			s.flights[f.Nonce] = f
		}
	}
	return nil
}

// saveLocked writes the flights to disk before anything goes on the wire.
func (s *Sender) saveLocked() error {
	if s.opt.File == "" {
		return nil
	}
	order := func(a, b *flight) int { return int(int64(a.Nonce) - int64(b.Nonce)) }
	fs := append(slices.SortedFunc(maps.Values(s.landed), order), slices.SortedFunc(maps.Values(s.flights), order)...)
	b, err := json.Marshal(fs)
	if err != nil {
		return fmt.Errorf("transactions in flight: %w", err)
	}
	tmp := s.opt.File + ".new"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("transactions in flight: %w", err)
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(tmp, s.opt.File)
	}
	if err == nil {
		var dir *os.File
		if dir, err = os.Open(filepath.Dir(s.opt.File)); err == nil {
			err = errors.Join(dir.Sync(), dir.Close())
		}
	}
	if err != nil {
		return fmt.Errorf("transactions in flight: %w", err)
	}
	return nil
}

// adopt finds the same call in flight that nobody who asked for it waits for.
func (s *Sender) adopt(to *common.Address, data []byte, wei *big.Int) *flight {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range slices.Sorted(maps.Keys(s.flights)) {
		if f := s.flights[n]; !f.adopted && f.is(to, data, wei) {
			f.adopted = true
			return f
		}
	}
	return nil
}

// land moves a flight to those that are safe.
func (s *Sender) land(f *flight, rc *types.Receipt) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.flights, f.Nonce)
	f.Landed = &place{rc.BlockNumber.Uint64(), rc.BlockHash, rc.Status != types.ReceiptStatusSuccessful}
	f.lost = false
	s.landed[f.Nonce] = f
	s.found(f.Nonce)
	for len(s.landed) > maxLanded {
		delete(s.landed, slices.Min(slices.Collect(maps.Keys(s.landed))))
	}
	return s.saveLocked()
}

func (s *Sender) forget(f *flight) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.flights[f.Nonce] == f {
		delete(s.flights, f.Nonce)
	}
	s.found(f.Nonce)
	return s.saveLocked()
}

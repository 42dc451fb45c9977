package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/shoalnet/shoal/chain"
	"github.com/shoalnet/shoal/chain/settle"
)

// state is what the agent keeps on disk: nothing of it says what it has done,
// only what it has seen.
type state struct {
	Version uint64         `json:"version"` // 1
	Deriver []byte         `json:"deriver"`
	Closes  []settle.Close `json:"closes"` // not finalized yet

	// What the ledger's events said, up to Cursor.
	Cursor   chain.Cursor        `json:"cursor"`
	Pool     chain.Amount        `json:"pool"`
	Pools    []chain.Amount      `json:"pools"` // since the last finalized epoch
	Total    chain.Amount        `json:"total"` // of the last finalized epoch
	Proposed *proposed           `json:"proposed,omitempty"`
	Finals   []proposed          `json:"finals"` // finalized, and not yet worked out here
	Demands  []demand            `json:"demands"`
	Final    uint64              `json:"final"` // the last epoch that is worked out
	Before   []chain.Reward      `json:"before"`
	Slashed  map[string]slashing `json:"slashed"` // by Conviction.ID
	// Who was slashed by two of its own signatures (of whatever run), by key.
	Equivocated map[string]slashing `json:"equivocated"`
}

// A proposed epoch, with the pools that the run may have had for it.
type proposed struct {
	Epoch    chain.Epoch    `json:"epoch"`
	Serial   uint64         `json:"serial"`
	Proposer chain.Address  `json:"proposer"`
	Pools    []chain.Amount `json:"pools"`
}

type demand struct {
	Side  chain.Side `json:"side"`
	Index uint64     `json:"index"`
}

// A slashing is a conviction that the ledger closed.
type slashing struct {
	Account chain.Address `json:"account"`
	Guilty  bool          `json:"guilty"`
	Amount  chain.Amount  `json:"amount"`
}

// errDisk is wrapped by errors of the agent's own files.
var errDisk = errors.New("settlement's files")

const (
	stateFile  = "state.json"
	maxState   = 1 << 30
	epochFiles = "epoch-%d.json"
)

func (a *Agent) load() error {
	if err := os.MkdirAll(a.opt.Dir, 0o700); err != nil {
		return fmt.Errorf("%w: %w", errDisk, err)
	}
	a.d = settle.New(a.opt.Params)
	a.st = state{Version: 1, Pool: chain.Int(0), Total: chain.Int(0), Slashed: map[string]slashing{}, Equivocated: map[string]slashing{}}
	b, err := os.ReadFile(filepath.Join(a.opt.Dir, stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errDisk, err)
	}
	var st state
	if err := json.Unmarshal(b, &st); err != nil || st.Version != 1 {
		return fmt.Errorf("%w: %s is damaged or of another version: delete it, and it is made again from the commits and the ledger (%w)",
			errDisk, filepath.Join(a.opt.Dir, stateFile), errors.Join(err))
	}
	d, err := settle.Decode(a.opt.Params, st.Deriver)
	if err != nil {
		return fmt.Errorf("%w: %s: %w (delete the file to settle on another run or ledger)", errDisk, filepath.Join(a.opt.Dir, stateFile), err)
	}
	a.d, a.st = d, st
	if a.st.Slashed == nil {
		a.st.Slashed = map[string]slashing{}
	}
	if a.st.Equivocated == nil {
		a.st.Equivocated = map[string]slashing{}
	}
	return nil
}

func (a *Agent) save() (err error) {
	a.st.Deriver, err = a.d.Encode()
	if err != nil {
		return fmt.Errorf("%w: %w", errDisk, err)
	}
	b, err := json.Marshal(&a.st)
	if err != nil {
		return fmt.Errorf("%w: %w", errDisk, err)
	}
	return replace(filepath.Join(a.opt.Dir, stateFile), b)
}

// replace writes a file whole or not at all.
func replace(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".tmp*")
	if err != nil {
		return fmt.Errorf("%w: %w", errDisk, err)
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err == nil {
		var d *os.File
		if d, err = os.Open(filepath.Dir(path)); err == nil {
			err = errors.Join(d.Sync(), d.Close())
		}
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("%w: write %s: %w", errDisk, path, err)
	}
	return nil
}

// An EpochFile is what this peer derived of one epoch that the ledger has settled
// or passed over.
type EpochFile struct {
	Number  uint64         `json:"number"`
	Settled *chain.Settled `json:"settled,omitempty"` // nil: the ledger has no such epoch
	Lines   []settle.Line  `json:"lines"`
}

func (a *Agent) saveEpoch(f *EpochFile) error {
	b, err := json.Marshal(f)
	if err != nil {
		return fmt.Errorf("%w: %w", errDisk, err)
	}
	path := filepath.Join(a.opt.Dir, fmt.Sprintf(epochFiles, f.Number))
	if old, err := os.ReadFile(path); err == nil && string(old) == string(b) {
		return nil
	} else if errors.Is(err, fs.ErrNotExist) {
		a.note(f)
	}
	return replace(path, b)
}

// Epochs reads what an agent left in dir, ascending by number. It may be called
// while the agent runs.
func Epochs(dir string) ([]EpochFile, error) {
	names, err := filepath.Glob(filepath.Join(dir, strings.Replace(epochFiles, "%d", "*", 1)))
	if err != nil {
		return nil, err
	}
	var out []EpochFile
	for _, n := range names {
		b, err := os.ReadFile(n)
		if err != nil {
			return nil, fmt.Errorf("epochs derived here: %w", err)
		}
		var f EpochFile
		if err := json.Unmarshal(b, &f); err != nil {
			return nil, fmt.Errorf("epochs derived here: %s: %w", n, err)
		}
		out = append(out, f)
	}
	sortFiles(out)
	return out, nil
}

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/testnet"
)

// snapshotEvery is how often a local training writes its snapshot within a round.
const snapshotEvery = 30 * time.Second

// A trained is how far a local training has come. A snapshot is one as a line of
// JSON, and behind it what the trainer saves, which is checksummed.
type trained struct {
	Run     string          `json:"run"`
	Round   uint64          `json:"round"`   // that it is in
	Step    uint64          `json:"step"`    // of the round, done
	Sum     float64         `json:"sum"`     // of their losses
	Base    uint64          `json:"base"`    // windows that the rounds before took
	Tokens  uint64          `json:"tokens"`  // of the rounds before
	Seconds float64         `json:"seconds"` // of training
	Points  []testnet.Point `json:"points"`
}

// keep writes the snapshot, where there is to be one; now, or once it is time.
func (b *baseline) keep(t node.Trainer, at *trained, now bool) error {
	if b.snapshot == "" || !now && time.Since(b.kept) < snapshotEvery {
		return nil
	}
	err := writeFileBy(b.snapshot, 0o644, func(w io.Writer) error {
		if err := json.NewEncoder(w).Encode(at); err != nil {
			return err
		}
		return t.Save(w)
	})
	if err != nil {
		return fmt.Errorf("--snapshot: %w", err)
	}
	b.kept = time.Now()
	return nil
}

// resume brings t to where the snapshot is; a new training has none.
func (b *baseline) resume(t node.Trainer) (at trained, err error) {
	at.Run, b.kept = b.run.String(), time.Now()
	if b.snapshot == "" {
		return at, nil
	}
	if _, err := abandoned(filepath.Dir(b.snapshot), b.snapshot); err != nil {
		return at, fmt.Errorf("--snapshot: %w", err)
	}
	if err := regular(b.snapshot); err != nil {
		return at, fmt.Errorf("--snapshot: %w", err)
	}
	f, err := os.Open(b.snapshot)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return at, b.keep(t, &at, true) // a place that cannot be written is told now
	case err != nil:
		return at, fmt.Errorf("--snapshot: %w", err)
	}
	defer f.Close()
	in := bufio.NewReader(f)
	bad := func(err error) error {
		return advise(fmt.Errorf("--snapshot: %s: %w", b.snapshot, err), "remove it to begin anew, or name another file")
	}
	line, err := in.ReadBytes('\n')
	if err != nil {
		return at, bad(errors.New("it is not a snapshot"))
	}
	var was trained
	if err := json.Unmarshal(line, &was); err != nil {
		return at, bad(fmt.Errorf("it is not a snapshot: %w", err))
	}
	switch {
	case was.Run != at.Run:
		return at, bad(fmt.Errorf("it is of the run %.80q, this is %s", was.Run, at.Run))
	case was.Round > b.m.Stop.Rounds || was.Step > b.m.Round.InnerSteps:
		return at, bad(fmt.Errorf("it is at step %d of round %d", was.Step, was.Round))
	}
	if err := t.Load(in); err != nil {
		return at, bad(err)
	}
	return was, nil
}

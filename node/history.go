package node

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/shoalnet/shoal/p2p/wire"
)

// A Record is one line of history.jsonl: one commit that this peer adopted as
// its head, and how the round before it went here. Where a fork was left
// behind, a round has more than one line and the last counts.
type Record struct {
	Round  uint64    `json:"round"`
	Commit wire.CID  `json:"commit"`
	State  wire.CID  `json:"state"`
	Time   time.Time `json:"time"` // of the adoption, by this peer's clock

	Deltas     int           `json:"deltas"`      // merged into the commit
	DeltaPeers []wire.PeerID `json:"delta_peers"` // whose they are
	Bytes      uint64        `json:"delta_bytes"` // of their payloads
	Roster     int           `json:"roster"`      // members after it
	Included   bool          `json:"included"`    // a delta of this peer is among them
	Late       int           `json:"late"`        // how many were late
	Weak       bool          `json:"weak"`

	TrainLoss float64  `json:"train_loss"` // token-weighted mean of the merged deltas' own words, nats per token
	ValLoss   *float64 `json:"val_loss"`   // of State, where this peer evaluated it
	Tokens    uint64   `json:"tokens"`     // merged by this commit
	Total     uint64   `json:"tokens_total"`

	BytesIn  uint64 `json:"bytes_in"` // by this peer, since the commit before
	BytesOut uint64 `json:"bytes_out"`
	// Where the time since the commit before went: in inner steps; after them,
	// while a payload or state was under way or a merge ran; the rest.
	Compute  float64 `json:"compute_s"`
	Exchange float64 `json:"exchange_s"`
	Wait     float64 `json:"wait_s"`
}

// maxRecord bounds one line of history.jsonl, in bytes.
const maxRecord = 1 << 20

// ReadHistory reads history.jsonl. A last line that a crash cut off is left
// out; any other damage is an error that names the line.
func ReadHistory(r io.Reader) ([]Record, error) {
	in := bufio.NewScanner(r)
	in.Buffer(nil, maxRecord)
	var out []Record
	var bad error
	for n := 1; in.Scan(); n++ {
		if bad != nil {
			return nil, bad
		}
		if len(in.Bytes()) == 0 {
			continue
		}
		var rec Record
		if err := json.Unmarshal(in.Bytes(), &rec); err != nil {
			bad = fmt.Errorf("history line %d: %w", n, err)
			continue
		}
		out = append(out, rec)
	}
	if err := in.Err(); err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	return out, nil
}

// history appends records to a file. It is a log for people: a record that
// cannot be written is reported and lost.
type history struct {
	path string
	last Record // the last one written or read
}

// openHistory reads what is there, and ends a line that a crash cut off. A file with other
// damage, as a power cut may leave it, is put aside: nothing else depends on it.
func openHistory(path string, log *slog.Logger) (*history, error) {
	h := &history{path: path}
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return h, nil
	}
	if err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	defer f.Close()
	recs, err := ReadHistory(f)
	if err != nil {
		aside := path + ".corrupt"
		if rerr := os.Rename(path, aside); rerr != nil {
			return nil, fmt.Errorf("%s: %w, and it cannot be put aside: %w", path, err, rerr)
		}
		log.Warn("the history of rounds cannot be read: it is put aside, and a new one begins", "aside", aside, "err", err)
		return h, nil
	}
	if len(recs) > 0 {
		h.last = recs[len(recs)-1]
	}
	return h, endLine(path)
}

// endLine cuts a partial last line off.
func endLine(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("history: %w", err)
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("history: %w", err)
	}
	tail := make([]byte, min(size, maxRecord))
	if _, err := f.ReadAt(tail, size-int64(len(tail))); err != nil && err != io.EOF {
		return fmt.Errorf("history: %w", err)
	}
	for n := len(tail); n > 0; n-- {
		if tail[n-1] == '\n' {
			return f.Truncate(size - int64(len(tail)-n))
		}
	}
	return f.Truncate(size - int64(len(tail)))
}

func (h *history) append(r Record) error {
	h.last = r
	line, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("history: %w", err)
	}
	f, err := os.OpenFile(h.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("history: %w", err)
	}
	if _, err := f.Write(append(line, '\n')); err != nil {
		f.Close()
		return fmt.Errorf("history: %w", err)
	}
	return f.Close()
}

// chronicle writes a record once its validation loss is known, or once the
// next head shows that it will not be.
type chronicle struct {
	mu      sync.Mutex // guards the following
	file    *history
	waiting *Record
	log     *slog.Logger
}

// adopted adds a record. With eval its validation loss is to come.
func (c *chronicle) adopted(r Record, eval bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flushLocked()
	c.waiting = &r
	if !eval {
		c.flushLocked()
	}
}

// evaluated completes the record of a state.
func (c *chronicle) evaluated(state wire.CID, loss float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waiting != nil && c.waiting.State == state {
		c.waiting.ValLoss = &loss
		c.flushLocked()
	}
}

// flush writes a record that still waits.
func (c *chronicle) flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flushLocked()
}

func (c *chronicle) flushLocked() {
	if c.waiting == nil {
		return
	}
	if err := c.file.append(*c.waiting); err != nil {
		c.log.Warn("a record of the history is lost", "round", c.waiting.Round, "err", err)
	}
	c.waiting = nil
}

// total returns the tokens merged up to the last record.
func (c *chronicle) total() (tokens uint64, any bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waiting != nil {
		return c.waiting.Total, true
	}
	return c.file.last.Total, c.file.last.Commit.Defined()
}

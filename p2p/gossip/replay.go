package gossip

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/shoalnet/shoal/p2p"
	"github.com/shoalnet/shoal/p2p/wire"
)

const (
	windowWords   = 4 // 256 numbers; an author's messages overtake one another by a few
	windowBits    = 64 * windowWords
	maxAuthors    = 4096
	replayMemory  = 2 * time.Hour // after an author's last accepted message; longer than any round's messages are of use
	replayMagic   = "shoalsq1"
	replayEntry   = 33 + 8 + 8*windowWords + 8
	maxReplayFile = len(replayMagic) + 4 + maxAuthors*replayEntry + sha256.Size
)

// replay knows which sequence numbers of each author were accepted. An author
// that is silent for replayMemory is forgotten, so that one whose clock went
// back is heard again; above maxAuthors the one silent longest is.
type replay struct {
	path string

	mu      sync.Mutex // guards following
	authors map[wire.PeerID]*window
	dirty   bool
}

// window holds the highest number accepted and, as bit i of words, whether
// top-i was.
type window struct {
	top   uint64
	words [windowWords]uint64
	last  int64 // Unix seconds
}

func seqno(b []byte) uint64 { return binary.BigEndian.Uint64(b) }

// fresh reports whether seq is neither in the window nor below it.
func (w *window) fresh(seq uint64) bool {
	if seq > w.top {
		return true
	}
	back := w.top - seq
	return back < windowBits && w.words[back/64]&(1<<(back%64)) == 0
}

// accept marks seq, which is fresh.
func (w *window) accept(seq uint64) {
	if seq > w.top {
		w.shift(seq - w.top)
		w.top = seq
	}
	back := w.top - seq
	w.words[back/64] |= 1 << (back % 64)
}

// shift makes the window older by n numbers.
func (w *window) shift(n uint64) {
	if n >= windowBits {
		w.words = [windowWords]uint64{}
		return
	}
	whole, part := int(n/64), n%64
	for i := windowWords - 1; i >= 0; i-- {
		var v uint64
		if j := i - whole; j >= 0 {
			v = w.words[j] << part
			if part > 0 && j > 0 {
				v |= w.words[j-1] >> (64 - part)
			}
		}
		w.words[i] = v
	}
}

func (r *replay) fresh(p wire.PeerID, seq uint64, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := r.authors[p]
	return w == nil || r.forgotten(w, now) || w.fresh(seq)
}

func (r *replay) forgotten(w *window, now time.Time) bool {
	return now.Unix()-w.last > int64(replayMemory/time.Second)
}

// accept records seq and reports whether it was fresh.
func (r *replay) accept(p wire.PeerID, seq uint64, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := r.authors[p]
	if w != nil && r.forgotten(w, now) {
		w = nil
	}
	if w == nil {
		if _, known := r.authors[p]; !known && len(r.authors) >= maxAuthors {
			r.evictLocked()
		}
		w = new(window)
		r.authors[p] = w
	}
	if !w.fresh(seq) {
		return false
	}
	w.accept(seq)
	w.last = now.Unix()
	r.dirty = true
	return true
}

// evictLocked forgets the eighth of the authors that were silent longest.
func (r *replay) evictLocked() {
	all := make([]wire.PeerID, 0, len(r.authors))
	for p := range r.authors {
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b wire.PeerID) int {
		return cmp.Or(cmp.Compare(r.authors[a].last, r.authors[b].last), a.Compare(b))
	})
	for _, p := range all[:len(all)/8] {
		delete(r.authors, p)
	}
}

// top returns the highest number accepted of p, 0 if p is unknown.
func (r *replay) top(p wire.PeerID) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if w := r.authors[p]; w != nil {
		return w.top
	}
	return 0
}

func (r *replay) encode(now time.Time) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]wire.PeerID, 0, len(r.authors))
	for p, w := range r.authors {
		if !r.forgotten(w, now) {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, wire.PeerID.Compare)
	b := append([]byte(replayMagic), 0, 0, 0, 0)
	binary.LittleEndian.PutUint32(b[len(replayMagic):], uint32(len(all)))
	for _, p := range all {
		w := r.authors[p]
		b = append(b, p[:]...)
		b = binary.LittleEndian.AppendUint64(b, w.top)
		for _, x := range w.words {
			b = binary.LittleEndian.AppendUint64(b, x)
		}
		b = binary.LittleEndian.AppendUint64(b, uint64(w.last))
	}
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

// decodeReplay parses the file format in the package comment.
func decodeReplay(b []byte) (map[wire.PeerID]*window, error) {
	head := len(replayMagic) + 4
	if len(b) > maxReplayFile || len(b) < head+sha256.Size || !bytes.HasPrefix(b, []byte(replayMagic)) {
		return nil, errors.New("not a sequence number file of version 1")
	}
	body, sum := b[:len(b)-sha256.Size], b[len(b)-sha256.Size:]
	if want := sha256.Sum256(body); !bytes.Equal(sum, want[:]) {
		return nil, errors.New("checksum does not match")
	}
	n := binary.LittleEndian.Uint32(body[len(replayMagic):])
	rows := body[head:]
	if n > maxAuthors || len(rows) != int(n)*replayEntry {
		return nil, fmt.Errorf("%d authors in %d bytes", n, len(rows))
	}
	out := make(map[wire.PeerID]*window, n)
	for ; len(rows) > 0; rows = rows[replayEntry:] {
		p, w := wire.PeerID(rows[:33]), new(window)
		w.top = binary.LittleEndian.Uint64(rows[33:])
		for i := range w.words {
			w.words[i] = binary.LittleEndian.Uint64(rows[41+8*i:])
		}
		w.last = int64(binary.LittleEndian.Uint64(rows[41+8*windowWords:]))
		out[p] = w
	}
	return out, nil
}

// loadReplay reads path. A file that does not parse is put aside with a
// warning; replays older than the last minutes are then possible, not harmful.
func loadReplay(path string, log *slog.Logger, now time.Time) *replay {
	r := &replay{path: path, authors: make(map[wire.PeerID]*window)}
	if path == "" {
		return r
	}
	b, err := readBounded(path, int64(maxReplayFile))
	if errors.Is(err, fs.ErrNotExist) {
		return r
	}
	var authors map[wire.PeerID]*window
	if err == nil {
		authors, err = decodeReplay(b)
	}
	if err != nil {
		aside := path + ".corrupt"
		log.Warn("gossip sequence numbers cannot be read and are put aside", "aside", aside, "err", errors.Join(err, os.Rename(path, aside)))
		return r
	}
	for p, w := range authors {
		// A date in the future would never be forgotten.
		w.last = min(w.last, now.Unix())
		r.authors[p] = w
	}
	return r
}

func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit+1))
}

func (r *replay) save(now time.Time) error {
	if r.path == "" {
		return nil
	}
	r.mu.Lock()
	dirty := r.dirty
	r.dirty = false
	r.mu.Unlock()
	if !dirty {
		return nil
	}
	if err := p2p.ReplaceFile(r.path, r.encode(now)); err != nil {
		r.mu.Lock()
		r.dirty = true
		r.mu.Unlock()
		return err
	}
	return nil
}

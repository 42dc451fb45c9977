package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/shoalnet/shoal/diloco/codec"
	"github.com/shoalnet/shoal/diloco/outer"
	"github.com/shoalnet/shoal/gpu/hf"
	"github.com/shoalnet/shoal/p2p/wire"
)

// The files of a checkpoint, a flat UnixFS directory that transformers can
// load. Their bytes are a function of the state and its position alone, so
// equal states have equal CIDs on every machine.
const (
	ConfigFile    = "config.json"
	WeightsFile   = "model.safetensors" // F32
	TokenizerFile = "tokenizer.json"
	MomentumFile  = "outer.safetensors" // of the outer optimizer, F32
	PositionFile  = "commit.json"
)

// ShardIndexFile stands in a base for WeightsFile where the weights are in more
// than one file: which holds what.
const ShardIndexFile = "model.safetensors.index.json"

// A Position says where in a run's chain a state belongs: it is the state of
// the commit of Round whose parent is Parent. It cannot name that commit, whose
// CID depends on the state's.
type Position struct {
	Run    wire.CID `json:"run"`
	Round  uint64   `json:"round"`
	Parent wire.CID `json:"parent"` // empty at genesis
}

// A State is what the outer step works on: flat vectors in the layout of the
// model's tensors. It is never changed once made.
type State struct {
	Params   []float32
	Momentum []float32
}

// A Model is what a run fixes about its states and payloads: everything that
// the outer step and a checkpoint's bytes depend on besides their content.
type Model struct {
	Run       wire.CID
	Config    hf.Config
	Tokenizer []byte // tokenizer.json
	Tensors   []hf.Tensor
	Codec     *codec.Codec
	Outer     outer.Config
}

// Params returns the number of parameters.
func (m *Model) Params() int { return m.Codec.Params() }

// Limit bounds the bytes of a checkpoint of the model, headers included.
func (m *Model) Limit() int64 {
	return 8*int64(m.Params()) + 2*(256*int64(len(m.Tensors))+4096) + int64(len(m.Tokenizer)) + 64<<10
}

// Files returns the checkpoint of s at position p. Weights and momentum are those of s: a copy
// of them is nowhere.
func (m *Model) Files(s *State, p Position) (map[string]io.Reader, error) {
	config, err := m.Config.Marshal()
	if err != nil {
		return nil, fmt.Errorf("checkpoint: %w", err)
	}
	weights, err := hf.Safetensors(m.Tensors, s.Params)
	if err != nil {
		return nil, fmt.Errorf("checkpoint: weights: %w", err)
	}
	momentum, err := hf.Outer(m.Tensors, s.Momentum)
	if err != nil {
		return nil, fmt.Errorf("checkpoint: momentum: %w", err)
	}
	pos, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("checkpoint: position: %w", err)
	}
	return map[string]io.Reader{
		ConfigFile: bytes.NewReader(config), WeightsFile: weights, TokenizerFile: bytes.NewReader(m.Tokenizer),
		MomentumFile: momentum, PositionFile: bytes.NewReader(append(pos, '\n')),
	}, nil
}

// ReadFiles parses a checkpoint of this model and checks that all of it is
// there, finite and of the right shape, and that config and tokenizer are the
// run's. What cannot be read is an error that wraps hf.ErrRead.
func (m *Model) ReadFiles(files map[string]*io.SectionReader) (*State, Position, error) {
	weights, pos, err := m.files(files)
	if err != nil {
		return nil, pos, err
	}
	var flat [2][]float32
	for i, w := range weights {
		if flat[i], err = w.Flat(); err != nil {
			return nil, pos, fmt.Errorf("checkpoint: %s: %w", vectorFiles[i], err)
		}
	}
	return &State{flat[0], flat[1]}, pos, nil
}

// CheckFiles checks what ReadFiles does, and keeps nothing.
func (m *Model) CheckFiles(files map[string]*io.SectionReader) error {
	weights, _, err := m.files(files)
	if err != nil {
		return err
	}
	for i, w := range weights {
		if err := w.Check(nil); err != nil {
			return fmt.Errorf("checkpoint: %s: %w", vectorFiles[i], err)
		}
	}
	return nil
}

// vectorFiles are a state's vectors.
var vectorFiles = [2]string{WeightsFile, MomentumFile}

// files checks a checkpoint, but for its numbers.
func (m *Model) files(files map[string]*io.SectionReader) (weights [2]*hf.Weights, pos Position, err error) {
	small := map[string][]byte{}
	config, err := m.Config.Marshal()
	if err != nil {
		return weights, pos, fmt.Errorf("checkpoint: %w", err)
	}
	for name, most := range map[string]int{ConfigFile: len(config), TokenizerFile: len(m.Tokenizer), PositionFile: maxPosition, WeightsFile: 0, MomentumFile: 0} {
		f, ok := files[name]
		switch {
		case !ok:
			return weights, pos, fmt.Errorf("checkpoint: %s is missing", name)
		case most == 0:
			continue
		case f.Size() > int64(most) && name == PositionFile:
			return weights, pos, fmt.Errorf("checkpoint: %s: %d bytes, at most %d", name, f.Size(), most)
		}
		small[name] = make([]byte, min(f.Size(), int64(most)+1))
		if _, err := f.ReadAt(small[name], 0); err != nil && !errors.Is(err, io.EOF) {
			return weights, pos, fmt.Errorf("checkpoint: %s: %w: %w", name, hf.ErrRead, err)
		}
	}
	if !bytes.Equal(small[ConfigFile], config) {
		return weights, pos, fmt.Errorf("checkpoint: %s is not that of the run", ConfigFile)
	}
	if !bytes.Equal(small[TokenizerFile], m.Tokenizer) {
		return weights, pos, fmt.Errorf("checkpoint: %s is not that of the run", TokenizerFile)
	}
	d := json.NewDecoder(bytes.NewReader(small[PositionFile]))
	d.DisallowUnknownFields()
	if err := d.Decode(&pos); err != nil {
		return weights, pos, fmt.Errorf("checkpoint: %s: %w", PositionFile, err)
	}
	if pos.Run != m.Run {
		return weights, pos, fmt.Errorf("checkpoint: it is of the run %s, not of %s", pos.Run, m.Run)
	}
	for i, name := range vectorFiles {
		f, err := hf.OpenSafetensors(files[name], files[name].Size())
		if err == nil {
			weights[i], err = f.Weights(m.Tensors)
		}
		if err != nil {
			return weights, pos, fmt.Errorf("checkpoint: %s: %w", name, err)
		}
	}
	return weights, pos, nil
}

// maxPosition bounds commit.json, in bytes.
const maxPosition = 64 << 10

// Genesis returns the first state: params, which the manifest fixes, and no momentum.
func (m *Model) Genesis(params []float32) (*State, error) {
	if len(params) != m.Params() {
		return nil, fmt.Errorf("genesis has %d parameters, the model %d", len(params), m.Params())
	}
	return &State{params, make([]float32, len(params))}, nil
}

// Step applies the outer step to parent and returns the next state. No deltas
// leave weights and momentum as they are.
func (m *Model) Step(parent *State, deltas []outer.Input) (*State, error) {
	next := &State{slices.Clone(parent.Params), slices.Clone(parent.Momentum)}
	if len(deltas) == 0 {
		return next, nil
	}
	if err := outer.Step(next.Params, next.Momentum, deltas, m.Outer); err != nil {
		return nil, fmt.Errorf("outer step: %w", err)
	}
	return next, nil
}

// Put stores a state's checkpoint and returns its CID.
func (m *Model) Put(ctx context.Context, b Blocks, s *State, p Position) (wire.CID, error) {
	files, err := m.Files(s, p)
	if err != nil {
		return "", err
	}
	c, err := b.PutDir(ctx, files)
	if err != nil {
		return "", fmt.Errorf("store the state of round %d: %w", p.Round, err)
	}
	return c, nil
}

// Load reads a checkpoint from the local store.
func (m *Model) Load(ctx context.Context, b Blocks, c wire.CID) (*State, Position, error) {
	files, err := b.OpenDir(ctx, c, m.Limit())
	if err != nil {
		return nil, Position{}, fmt.Errorf("load state %s: %w", c, err)
	}
	s, pos, err := m.ReadFiles(files)
	if err != nil {
		return nil, pos, fmt.Errorf("load state %s: %w", c, badContent(err))
	}
	return s, pos, nil
}

// Check is Load that keeps nothing: the state is whole.
func (m *Model) Check(ctx context.Context, b Blocks, c wire.CID) error {
	files, err := b.OpenDir(ctx, c, m.Limit())
	if err == nil {
		err = m.CheckFiles(files)
	}
	if err != nil {
		return fmt.Errorf("state %s: %w", c, err)
	}
	return nil
}

// badContent says that err is about what is in a file, unless that could not be read.
func badContent(err error) error {
	if errors.Is(err, hf.ErrRead) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrBadContent, err)
}

// states keeps the states in use in memory: the head's, which every round
// trains from and most merges step from, and the last few made.
type states struct {
	model  *Model
	blocks Blocks

	mu   sync.Mutex // guards the following
	held []heldState
}

type heldState struct {
	cid   wire.CID
	state *State
}

// heldStates is how many states stay in memory: the head's and one that may follow it.
const heldStates = 2

var errStateMissing = errors.New("state is not held")

// get returns the state, from memory or the local store.
func (s *states) get(ctx context.Context, c wire.CID) (*State, error) {
	s.mu.Lock()
	for i, h := range s.held {
		if h.cid == c {
			s.held = append(slices.Delete(s.held, i, i+1), h)
			s.mu.Unlock()
			return h.state, nil
		}
	}
	s.mu.Unlock()
	s.makeRoom("")
	st, _, err := s.model.Load(ctx, s.blocks, c)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errStateMissing, err)
	}
	s.put(c, st)
	return st, nil
}

// largeState is of how many bytes a state is one that memory may not hold many of.
const largeState = 1 << 28

// makeRoom lets go of large states for one more, so that there are never more of them than heldStates;
// not of but, from which it is to be made. What it lets go of can be read again.
func (s *states) makeRoom(but wire.CID) {
	if 8*s.model.Params() < largeState {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := 0; i < len(s.held) && len(s.held) >= heldStates; {
		if s.held[i].cid == but {
			i++
			continue
		}
		s.held = slices.Delete(s.held, i, i+1)
	}
}

// put remembers a state, the latest use last.
func (s *states) put(c wire.CID, st *State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.held {
		if h.cid == c {
			return
		}
	}
	if len(s.held) >= heldStates {
		s.held = slices.Delete(s.held, 0, len(s.held)-heldStates+1)
	}
	s.held = append(s.held, heldState{c, st})
}

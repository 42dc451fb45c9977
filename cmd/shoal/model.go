package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/shoalnet/shoal/gpu/cpu"
	"github.com/shoalnet/shoal/gpu/hf"
	"github.com/shoalnet/shoal/gpu/llama"
	"github.com/shoalnet/shoal/gpu/worker"
	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/p2p/wire"
)

const maxModel = 1 << 38 // bytes of a model directory

// Files of a model directory that it may lack.
const (
	tokenizerConfigFile = "tokenizer_config.json"
	generationFile      = "generation_config.json"
	chatTemplateFile    = "chat_template.jinja" // instead of chat_template in tokenizer_config.json
	specialTokensFile   = "special_tokens_map.json"
	shardIndexFile      = node.ShardIndexFile // instead of model.safetensors
)

// companions say how a model is talked to. A run that goes on from it hands them on.
var companions = []string{tokenizerConfigFile, generationFile, chatTemplateFile, specialTokensFile}

const maxCompanion = 8 << 20 // bytes of one

// A modelDir is a model's directory. Its weights stay where they lie until they are read,
// some at a time: they are never in memory twice. It wants to be closed.
type modelDir struct {
	files map[string][]byte // by name, but for those with weights
	open  func(name string) (*io.SectionReader, error)
	close func() error // ends reading
}

// model finds a model's directory on disk, or fetches it by CID.
func (a *app) model(ctx context.Context, name string, kf *keyFlags, nf *netFlags) (*modelDir, error) {
	if fi, err := os.Stat(name); err == nil && fi.IsDir() {
		return localModel(name)
	}
	return a.fetchModel(ctx, name, kf, nf)
}

func localModel(path string) (_ *modelDir, err error) {
	var opened []*os.File
	m := &modelDir{
		files: map[string][]byte{},
		open: func(name string) (*io.SectionReader, error) {
			name = filepath.Join(path, name)
			if err := regular(name); err != nil {
				return nil, notAModel(err)
			}
			f, err := os.Open(name)
			if err != nil {
				return nil, notAModel(err)
			}
			opened = append(opened, f)
			fi, err := f.Stat()
			if err != nil {
				return nil, err
			}
			return io.NewSectionReader(f, 0, fi.Size()), nil
		},
		close: func() (err error) {
			for _, f := range opened {
				err = errors.Join(err, f.Close())
			}
			opened = nil
			return err
		},
	}
	for _, f := range []string{node.ConfigFile, node.TokenizerFile} {
		if m.files[f], err = required(path, f, maxTokenizer); err != nil {
			return nil, notAModel(err)
		}
	}
	for _, f := range companions {
		if m.files[f], err = optional(path, f, maxCompanion); err != nil {
			return nil, err
		}
	}
	if m.files[shardIndexFile], err = optional(path, shardIndexFile, maxTokenizer); err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(path, node.WeightsFile)); err == nil {
		m.files[shardIndexFile] = nil // where there is one too, it is of the same
	} else if m.files[shardIndexFile] == nil {
		return nil, notAModel(err)
	}
	return m, nil
}

func notAModel(err error) error {
	err = fmt.Errorf("model: %w", err)
	if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return advise(err, "a model directory holds config.json, model.safetensors and tokenizer.json; `shoal export` writes one")
}

func (a *app) fetchModel(ctx context.Context, name string, kf *keyFlags, nf *netFlags) (m *modelDir, err error) {
	c, err := wire.ParseCID(name)
	if err != nil || c.Codec() != wire.CodecDagPB {
		return nil, advise(fmt.Errorf("%q is neither a directory nor the CID of one", name), "export a run's model with `shoal export RUN DIR`, or give a state's CID (bafybei…)")
	}
	s, _, err := a.visit(ctx, kf, nf)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	own, cancel := context.WithCancel(ctx)
	defer cancel()
	patient := time.AfterFunc(fetchPatience, cancel)
	defer patient.Stop()
	scr, best := a.screen(), int64(-1)
	defer scr.clear()
	for {
		err := s.blocks.FetchDir(own, c, s.net.Peers(), maxModel, func(done, total int64) {
			if done > best { // however long it takes
				best = done
				patient.Reset(fetchPatience)
			}
			scr.now(fmt.Sprintf("fetching %s of %s", size(done), size(total)), 5*time.Second)
		})
		if err == nil {
			return storedModel(ctx, s, c)
		}
		if ctx.Err() != nil || !errors.Is(err, node.ErrNotFound) && own.Err() == nil {
			return nil, err
		}
		select { // nobody was found yet who has it
		case <-time.After(time.Second):
		case <-own.Done():
			switch {
			case ctx.Err() != nil:
				return nil, ctx.Err()
			case len(s.net.Peers()) == 0:
				return nil, noPeers("fetch " + name)
			}
			return nil, advise(fmt.Errorf("fetch %s: no byte of it came for %v", name, fetchPatience), "the same command goes on from what has come; or give the address of a peer that has it: --bootstrap")
		}
	}
}

// fetchPatience is how long a model's fetch goes on without a byte.
const fetchPatience = 2 * time.Minute

// storedModel is one in the store of s, which closes with it.
func storedModel(ctx context.Context, s *session, c wire.CID) (*modelDir, error) {
	all, err := s.blocks.OpenDir(ctx, c, maxModel)
	if err != nil {
		return nil, err
	}
	m := &modelDir{files: map[string][]byte{}, close: s.close, open: func(name string) (*io.SectionReader, error) {
		if r := all[name]; r != nil {
			return r, nil
		}
		return nil, notAModel(fmt.Errorf("%s: %w", name, os.ErrNotExist))
	}}
	limits := map[string]int64{node.ConfigFile: maxTokenizer, node.TokenizerFile: maxTokenizer}
	if all[node.WeightsFile] == nil { // where there are both, they are of the same
		limits[shardIndexFile] = maxTokenizer
	}
	for _, name := range companions {
		limits[name] = maxCompanion
	}
	for name, limit := range limits {
		r := all[name]
		if r == nil {
			continue
		}
		if r.Size() > limit {
			return nil, fmt.Errorf("%s: %s: %d bytes, at most %d", c, name, r.Size(), limit)
		}
		m.files[name] = make([]byte, r.Size())
		if _, err := io.ReadFull(r, m.files[name]); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// weights are those of a model of cfg, in one part or in shards. They can be read until m closes.
func (m *modelDir) weights(cfg hf.Config) (*hf.Weights, error) {
	read := func(name string) (*hf.File, error) {
		r, err := m.open(name)
		if err != nil {
			return nil, err
		}
		f, err := hf.OpenSafetensors(r, r.Size())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		return f, nil
	}
	where := node.WeightsFile
	var f *hf.File
	var err error
	if index := m.files[shardIndexFile]; index != nil {
		where = shardIndexFile
		f, err = hf.ReadShards(index, read)
	} else {
		f, err = read(node.WeightsFile)
	}
	if err != nil {
		return nil, unreadable(err)
	}
	w, err := f.Weights(cfg.Tensors())
	if err != nil {
		return nil, unreadable(fmt.Errorf("%s: %w", where, err))
	}
	return w, nil
}

// unreadable says what to do where weights end before their end.
func unreadable(err error) error {
	if errors.Is(err, hf.ErrRead) && errors.Is(err, io.ErrUnexpectedEOF) {
		return advise(fmt.Errorf("model: its files became shorter while they were read: %w", err), "copy the model whole, and try again")
	}
	return err
}

// params are the values of the weights in the order of cfg.Tensors.
func (m *modelDir) params(cfg hf.Config) ([]float32, error) {
	w, err := m.weights(cfg)
	if err != nil {
		return nil, err
	}
	if err := room(cfg, 4*cfg.NumParams(), "float32", 0, freeMemory()); err != nil {
		return nil, err
	}
	flat, err := w.Flat()
	return flat, unreadable(err)
}

// room refuses weights that take so many bytes, besides others that the work takes, in free bytes
// of memory, 0 where that is not known: the allocation would end the process.
func room(cfg hf.Config, bytes int64, as string, others, free int64) error {
	if free <= 0 || bytes+others <= free {
		return nil
	}
	what := fmt.Sprintf("model: %s parameters in %s", count(float64(cfg.NumParams())), as)
	next := "use a smaller model, or a machine with more memory"
	if as == "float32" && bytes/2+others <= free {
		next = "--bf16 needs half as much for the weights; or " + next
	}
	if others > 0 {
		what += fmt.Sprintf(" take %s, the work %s", size(bytes), size(others))
	}
	return fits(what, bytes+others, free, next)
}

// fits refuses what takes n bytes of memory where free are left.
func fits(what string, n, free int64, next string) error {
	if free > 0 && n > free {
		return advise(fmt.Errorf("%s: %s of memory are needed, %s are free", what, size(n), size(free)), "%s", next)
	}
	return nil
}

// opened is a model that is known, and ready to compute once it is loaded. It wants to be closed.
type opened struct {
	cfg    hf.Config
	tok    *hf.Tokenizer
	m      *llama.Model // nil where a worker computes
	writes generator
	close  func() error
}

// describe reads what says what the model is.
func (m *modelDir) describe() (*opened, error) {
	cfg, err := hf.ParseConfig(m.files[node.ConfigFile])
	if err != nil {
		return nil, err
	}
	tok, err := hf.LoadTokenizer(m.files[node.TokenizerFile])
	if err != nil {
		return nil, err
	}
	return &opened{cfg: cfg, tok: tok, close: func() error { return nil }}, nil
}

// A loading says how a model is loaded.
type loading struct {
	threads int
	bf16    bool  // round matrices where they are not in bfloat16
	flat    bool  // as llama.New has it: smaller models read short texts faster so
	others  int64 // bytes that the work takes besides
	// spawn, where not nil, starts a worker that computes instead. Then the model can only write,
	// so many positions.
	spawn     func() (*worker.Client, error)
	positions int
}

// load makes o ready to compute with the weights of m.
func (a *app) load(ctx context.Context, o *opened, m *modelDir, l loading) error {
	if l.spawn != nil {
		if err := room(o.cfg, 4*o.cfg.NumParams(), "float32, for a worker,", l.others, freeMemory()); err != nil {
			return err
		}
		r := &remoteModel{spawn: l.spawn, cfg: o.cfg, params: func() ([]float32, error) { return m.params(o.cfg) },
			batch: worker.Batch{Streams: 1, Positions: l.positions, BF16: l.bf16}}
		o.writes, o.close = r, r.Close
		return nil
	}
	w, err := m.weights(o.cfg)
	if err != nil {
		return err
	}
	half, as := l.bf16 || w.BF16(), "float32"
	if half {
		as = "bfloat16"
	}
	need := llama.LoadedMemory(o.cfg, half)
	if l.flat {
		need = 4 * o.cfg.NumParams()
	}
	if err := room(o.cfg, need, as, l.others, freeMemory()); err != nil {
		return err
	}
	thrifty(need)
	dev, err := cpu.New(cpu.Options{Threads: threads(l.threads)})
	if err != nil {
		return err
	}
	scr := a.screen()
	defer scr.clear()
	var x *llama.Model
	if l.flat {
		var params []float32
		if params, err = w.Flat(); err == nil {
			x, err = llama.New(dev, o.cfg, params)
		}
	} else {
		x, err = llama.Load(ctx, dev, o.cfg, w, half, func(done, total int64) {
			scr.late("reading the model: %s of %s parameters", count(float64(done)), count(float64(total)))
		})
	}
	if err != nil {
		return errors.Join(unreadable(err), dev.Close())
	}
	o.m, o.writes, o.close = x, x, dev.Close
	return nil
}

// thrifty has what lies around in memory collected in time where n bytes stay: as usual it may
// become as much again. What stays holds no pointers, so that to look through it costs nothing.
func thrifty(n int64) {
	if n > 1<<28 {
		debug.SetGCPercent(10)
	}
}

// knows refuses tokens that the model's vocabulary lacks: transformers fails at them, too.
func (o *opened) knows(ids []int32) error {
	for _, id := range ids {
		if int(id) >= o.cfg.VocabSize {
			return advise(fmt.Errorf("%s gives token %d, %s has a vocab_size of %d", node.TokenizerFile, id, node.ConfigFile, o.cfg.VocabSize), "the tokenizer is another model's: use the one that this model was trained with")
		}
	}
	return nil
}

// required reads a file of dir, which is nobody's pipe.
func required(dir, name string, limit int64) ([]byte, error) {
	name = filepath.Join(dir, name)
	if err := regular(name); err != nil {
		return nil, err
	}
	return readBounded(name, limit)
}

// optional reads a file of dir that need not be there.
func optional(dir, name string, limit int64) ([]byte, error) {
	b, err := required(dir, name, limit)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

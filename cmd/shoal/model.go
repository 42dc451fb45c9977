package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
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

// A modelDir is a model's directory. Weights that lie on disk stay there until
// params maps them: they are never in memory twice.
type modelDir struct {
	files map[string][]byte // by name; those with weights only where path is empty
	path  string            // of the directory; empty where it was fetched
}

// model finds a model's directory on disk, or fetches it by CID.
func (a *app) model(ctx context.Context, name string, kf *keyFlags, nf *netFlags) (*modelDir, error) {
	if fi, err := os.Stat(name); err == nil && fi.IsDir() {
		return localModel(name)
	}
	return a.fetchModel(ctx, name, kf, nf)
}

func localModel(path string) (_ *modelDir, err error) {
	m := &modelDir{map[string][]byte{}, path}
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
	defer func() { err = errors.Join(err, s.close()) }()
	own, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	scr := a.screen()
	defer scr.clear()
	for {
		err := s.blocks.FetchDir(own, c, s.net.Peers(), maxModel, func(done, total int64) {
			scr.now(fmt.Sprintf("fetching %s of %s", size(done), size(total)), 5*time.Second)
		})
		if err == nil {
			files, err := s.blocks.GetDir(ctx, c, maxModel)
			return &modelDir{files: files}, err
		}
		if !errors.Is(err, node.ErrNotFound) || own.Err() != nil {
			return nil, err
		}
		select { // nobody was found yet who has it
		case <-time.After(time.Second):
		case <-own.Done():
			if len(s.net.Peers()) == 0 {
				return nil, noPeers("fetch " + name)
			}
			return nil, err
		}
	}
}

// params are the values of the weights, in one part or in shards, in the order of
// cfg.Tensors.
func (m *modelDir) params(cfg hf.Config) (flat []float32, err error) {
	if err := room(cfg, freeMemory()); err != nil {
		return nil, err
	}
	var maps []*mapping
	defer func() {
		for _, x := range maps {
			err = errors.Join(err, x.close())
		}
	}()
	read := func(name string) (*hf.File, error) {
		b := m.files[name]
		if m.path != "" {
			x, err := mapFile(filepath.Join(m.path, name))
			if err != nil {
				return nil, notAModel(err)
			}
			maps, b = append(maps, x), x.data
		}
		f, err := hf.ReadSafetensors(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		return f, nil
	}
	err = faults(func() error {
		st, err := m.tensors(read)
		if err != nil {
			return err
		}
		if flat, err = st.Flat(cfg.Tensors()); err != nil {
			where := node.WeightsFile
			if m.files[shardIndexFile] != nil {
				where = shardIndexFile
			}
			return fmt.Errorf("%s: %w", where, err)
		}
		return nil
	})
	return flat, err
}

// room refuses weights that have none in so many free bytes of memory, 0 where that is
// not known: the allocation would end the process.
func room(cfg hf.Config, free int64) error {
	what := fmt.Sprintf("model: %d parameters, as float32,", cfg.NumParams())
	return fits(what, 4*cfg.NumParams(), free, "use a smaller model, or a machine with more memory")
}

// fits refuses what takes n bytes of memory where free are left.
func fits(what string, n, free int64, next string) error {
	if free > 0 && n > free {
		return advise(fmt.Errorf("%s: %s of memory, %s are free", what, size(n), size(free)), "%s", next)
	}
	return nil
}

func (m *modelDir) tensors(read func(name string) (*hf.File, error)) (*hf.File, error) {
	index := m.files[shardIndexFile]
	if index == nil {
		return read(node.WeightsFile)
	}
	return hf.ReadShards(index, read)
}

// A mapping is a file's bytes: mapped where the system can, read otherwise.
type mapping struct {
	data  []byte
	close func() error
}

// mapFile maps a file for reading. Whoever reads data does so within faults.
func mapFile(name string) (_ *mapping, err error) {
	if err := regular(name); err != nil {
		return nil, err
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }() // the mapping stays
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	n := fi.Size()
	if n > maxModel || int64(int(n)) != n {
		return nil, fmt.Errorf("%s: %d bytes, at most %d", name, n, int64(maxModel))
	}
	if n == 0 {
		return &mapping{close: func() error { return nil }}, nil
	}
	return mapBytes(f, int(n))
}

// faults runs f, which reads mapped files. Where one of them has become shorter
// since, or its disk fails, the system raises a signal that would end the process
// (SIGBUS): here it is an error.
func faults(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // of this goroutine
	defer func() {
		r := recover()
		if r == nil {
			return
		}
		if _, ok := r.(interface {
			runtime.Error
			Addr() uintptr // of memory that is not there: no other panic has one
		}); !ok {
			panic(r)
		}
		err = advise(errors.New("model: its files became shorter while they were read, or their disk fails"), "copy the model whole, and try again")
	}()
	return f()
}

// opened is a model ready to compute. It wants to be closed.
type opened struct {
	cfg    hf.Config
	tok    *hf.Tokenizer
	m      *llama.Model // nil where a worker computes
	writes generator
	close  func() error
}

// open makes a model of the directory; thr as --threads.
func (m *modelDir) open(thr int) (*opened, error) { return m.openFor(thr, nil) }

// openFor is open that leaves the computing to a worker, where spawn starts one: then
// the model can only write.
func (m *modelDir) openFor(thr int, spawn func() (*worker.Client, error)) (*opened, error) {
	cfg, err := hf.ParseConfig(m.files[node.ConfigFile])
	if err != nil {
		return nil, err
	}
	tok, err := hf.LoadTokenizer(m.files[node.TokenizerFile])
	if err != nil {
		return nil, err
	}
	params, err := m.params(cfg)
	if err != nil {
		return nil, err
	}
	if spawn != nil {
		r := &remoteModel{spawn: spawn, cfg: cfg, params: params, batch: worker.Batch{Streams: 1, Positions: cfg.Context()}}
		return &opened{cfg, tok, nil, r, r.Close}, nil
	}
	dev, err := cpu.New(cpu.Options{Threads: threads(thr)})
	if err != nil {
		return nil, err
	}
	x, err := llama.New(dev, cfg, params)
	if err != nil {
		return nil, errors.Join(err, dev.Close())
	}
	return &opened{cfg, tok, x, x, dev.Close}, nil
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

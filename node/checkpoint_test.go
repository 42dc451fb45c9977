package node

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"math"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/diloco/codec"
	"github.com/shoalnet/shoal/diloco/outer"
	"github.com/shoalnet/shoal/node/manifest"
	"github.com/shoalnet/shoal/p2p/wire"
)

// checkpoint are the bytes of Model.Files.
func checkpoint(t testing.TB, m *Model, s *State, p Position) map[string][]byte {
	t.Helper()
	files, err := m.Files(s, p)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{}
	for name, r := range files {
		if out[name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// sections are files as OpenDir opens them.
func sections(files map[string][]byte) map[string]*io.SectionReader {
	out := map[string]*io.SectionReader{}
	for name, b := range files {
		out[name] = io.NewSectionReader(bytes.NewReader(b), 0, int64(len(b)))
	}
	return out
}

func TestCheckpointIsAFunctionOfStateAndPosition(t *testing.T) {
	s := newSwarm(t, nil)
	m := s.model
	st := &State{make([]float32, m.Params()), make([]float32, m.Params())}
	for i := range st.Params {
		st.Params[i], st.Momentum[i] = float32(i)/8, -float32(i)/16
	}
	pos := Position{Run: s.run, Round: 4, Parent: s.run}
	files := checkpoint(t, m, st, pos)
	again := checkpoint(t, m, &State{append([]float32{}, st.Params...), st.Momentum}, pos)
	if !maps.EqualFunc(files, again, bytes.Equal) {
		t.Fatal("the same state gives other files")
	}
	got, p, err := m.ReadFiles(sections(files))
	if err != nil || p != pos || got.Params[9] != st.Params[9] || got.Momentum[9] != st.Momentum[9] {
		t.Fatalf("read back %+v, %v", p, err)
	}
	size := 0
	for _, f := range files {
		size += len(f)
	}
	if int64(size) > m.Limit() {
		t.Errorf("a checkpoint has %d bytes, the limit is %d", size, m.Limit())
	}
	// A commit without deltas changes the position alone.
	next, err := m.Step(st, nil)
	if err != nil {
		t.Fatal(err)
	}
	moved := checkpoint(t, m, next, Position{Run: s.run, Round: 5, Parent: s.run})
	for name := range files {
		if same := bytes.Equal(files[name], moved[name]); same == (name == PositionFile) {
			t.Errorf("%s: same %v", name, same)
		}
	}

	st.Params[5] = float32(math.Inf(1))
	infinite := checkpoint(t, m, st, pos)
	for _, c := range []struct {
		want string
		bad  func(f map[string][]byte)
	}{
		{"model.safetensors is missing", func(f map[string][]byte) { delete(f, WeightsFile) }},
		{"outer.safetensors is missing", func(f map[string][]byte) { delete(f, MomentumFile) }},
		{"config.json", func(f map[string][]byte) { f[ConfigFile] = []byte("{}") }},
		{"tokenizer.json", func(f map[string][]byte) { f[TokenizerFile] = nil }},
		{"commit.json", func(f map[string][]byte) { f[PositionFile] = []byte(`{"run":"","extra":1}`) }},
		{"of the run", func(f map[string][]byte) { f[PositionFile] = []byte(`{"run":"","round":4,"parent":""}`) }},
		{"model.safetensors", func(f map[string][]byte) { f[WeightsFile] = f[WeightsFile][:90] }},
		{"commit.json: 70000 bytes", func(f map[string][]byte) { f[PositionFile] = make([]byte, 70000) }},
		{"not finite", func(f map[string][]byte) { f[WeightsFile] = infinite[WeightsFile] }},
	} {
		bad := maps.Clone(files)
		c.bad(bad)
		if _, _, err := m.ReadFiles(sections(bad)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.want, err)
		}
	}
}

func TestStepLeavesItsParentAlone(t *testing.T) {
	s := newSwarm(t, nil)
	m := s.model
	parent := &State{make([]float32, m.Params()), make([]float32, m.Params())}
	u := make([]float32, m.Params())
	for i := range u {
		u[i] = 0.25
	}
	d, err := m.Codec.Encode(codec.Header{Run: s.run, Parent: s.run, Peer: testKey(t, 0).Peer()}, u)
	if err != nil {
		t.Fatal(err)
	}
	next, err := m.Step(parent, []outer.Input{{Delta: d, Weight: 3}})
	if err != nil {
		t.Fatal(err)
	}
	// One Nesterov step from rest: θ ← θ − η(g + μ·g), η 0.7, μ 0.6.
	if parent.Params[0] != 0 || parent.Momentum[0] != 0 {
		t.Error("the parent has changed")
	}
	if got, want := float64(next.Params[3]), -0.7*(0.25+0.6*0.25); math.Abs(got-want) > 1e-3 {
		t.Errorf("weight %g, want %g", got, want)
	}
}

func TestClaims(t *testing.T) {
	c := claims{Size: 100, Steps: 10, Tokens: 16}
	good := diloco.Delta{Bytes: 100, Steps: 4, Tokens: 64}
	if err := c.check(&good); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*diloco.Delta){
		"bytes":      func(d *diloco.Delta) { d.Bytes = 99 },
		"more steps": func(d *diloco.Delta) { d.Steps, d.Tokens = 11, 176 },
		"no steps":   func(d *diloco.Delta) { d.Steps, d.Tokens = 0, 0 },
		"tokens":     func(d *diloco.Delta) { d.Tokens = 1 << 40 },
	} {
		d := good
		change(&d)
		if err := c.check(&d); !errors.Is(err, ErrBadContent) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNewModelRefusesWhatDoesNotFit(t *testing.T) {
	s := newSwarm(t, nil)
	tok := s.model.Tokenizer
	for name, change := range map[string]func(*manifest.Manifest){
		"tokens":        func(m *manifest.Manifest) { m.Model.Config.VocabSize = 8 },
		"codec":         func(m *manifest.Manifest) { m.Codec.Kind = "zip" },
		"learning rate": func(m *manifest.Manifest) { m.Outer.LR = 9 },
	} {
		m := *s.manifest
		change(&m)
		if _, err := NewModel(s.run, &m, tok); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := NewModel(s.run, s.manifest, []byte("{}")); !errors.Is(err, ErrBadContent) {
		t.Errorf("a tokenizer that is none: %v", err)
	}
}

func FuzzReadHistory(f *testing.F) {
	f.Add([]byte(`{"round":1,"val_loss":2.5,"deltas":3}` + "\n" + `{"rou`))
	f.Add([]byte("\n\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if recs, err := ReadHistory(bytes.NewReader(b)); err == nil && len(recs) > len(b) {
			t.Fatal("more records than bytes")
		}
	})
}

func FuzzDecodeAnnounce(f *testing.F) {
	b, err := wire.Marshal(&Announce{Name: "moby", Round: 3, Time: 5})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := decodeAnnounce(b)
		if err != nil {
			return
		}
		again, err := wire.Marshal(&a)
		if err != nil || !bytes.Equal(again, b) || checkName(a.Name) != nil {
			t.Fatalf("accepted %q, %v", b, err)
		}
	})
}

func FuzzPosition(f *testing.F) {
	s := newSwarm(f, nil)
	st := &State{make([]float32, s.model.Params()), make([]float32, s.model.Params())}
	files := checkpoint(f, s.model, st, Position{Run: s.run, Round: 1})
	f.Add(files[PositionFile])
	f.Fuzz(func(t *testing.T, b []byte) {
		all := maps.Clone(files)
		all[PositionFile] = b
		if _, p, err := s.model.ReadFiles(sections(all)); err == nil && p.Run != s.run {
			t.Fatalf("accepted %q", b)
		}
	})
}

package manifest

import (
	"bytes"
	"encoding/hex"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/shoalnet/shoal/p2p/wire"
	"go.yaml.in/yaml/v3"
)

func good(t testing.TB) *Manifest {
	t.Helper()
	m, err := Parse(goodYAML())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func goodYAML() []byte {
	return Template("moby-dick", wire.SumCID(wire.CodecRaw, []byte("tokenizer")), wire.SumCID(wire.CodecDagCBOR, []byte("index")), 85)
}

// edit returns YAML with the field at path replaced by text, or without it
// where text is "-".
func edit(t testing.TB, in []byte, path, text string) []byte {
	t.Helper()
	var doc yaml.Node
	if err := yaml.Unmarshal(in, &doc); err != nil {
		t.Fatal(err)
	}
	n := doc.Content[0]
	keys := strings.Split(path, ".")
	for i, k := range keys {
		at := -1
		for j := 0; j < len(n.Content); j += 2 {
			if n.Content[j].Value == k {
				at = j
			}
		}
		if i < len(keys)-1 {
			if at < 0 {
				n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: k}, &yaml.Node{Kind: yaml.MappingNode})
				at = len(n.Content) - 2
			}
			n = n.Content[at+1]
			continue
		}
		if text == "-" {
			if at >= 0 {
				n.Content = append(n.Content[:at], n.Content[at+2:]...)
			}
			break
		}
		var v yaml.Node
		if err := yaml.Unmarshal([]byte(text), &v); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		val := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null"}
		if len(v.Content) > 0 {
			val = v.Content[0]
		}
		if at >= 0 {
			n.Content[at+1] = val
		} else {
			n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: k}, val)
		}
	}
	out, err := yaml.Marshal(&doc)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestRoundTrips: YAML and CBOR carry the same manifest both ways.
func TestRoundTrips(t *testing.T) {
	m := good(t)
	bos, sep := 3, 0
	m.Model.Config.BOS, m.Model.Config.EOS = &bos, []int{3, 4}
	m.Inner.Separator = &sep
	m.Model.Base = wire.SumCID(wire.CodecDagPB, []byte("base"))
	m.Model.Seed = 1<<64 - 1
	m.Admission = Admission{Kind: "allow", MinPeers: 2, Allow: []Address{{1}, {2}, {3}}, MinStake: "0"}
	m.Rewards.Budget, m.Rewards.Token = maxAmount, Address{9}
	m.Inner.LR = 0.1 + 0.2 // more digits than %g prints by default
	key, err := wire.NewKey(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	for _, signed := range []bool{false, true} {
		if signed {
			if err := m.Sign(key); err != nil {
				t.Fatal(err)
			}
		}
		b, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		d, err := Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(d, m) {
			t.Errorf("CBOR: got %+v, want %+v", d, m)
		}
		y, err := m.YAML()
		if err != nil {
			t.Fatal(err)
		}
		p, err := Parse(y)
		if err != nil {
			t.Fatalf("%v\n%s", err, y)
		}
		if !reflect.DeepEqual(p, m) {
			t.Errorf("YAML: got %+v, want %+v", p, m)
		}
	}
}

// A separator makes another run, and one that is left out the same as ever.
func TestSeparator(t *testing.T) {
	m := good(t)
	batch := [][]int32{{2, 2, 5, 6, 2}, {7, 8, 9, 2, 1}}
	if n := m.Inner.Predictions(batch); n != 8 {
		t.Errorf("%d predictions, want 8", n)
	}
	plain, err := m.CID()
	if err != nil {
		t.Fatal(err)
	}
	p, err := Parse(edit(t, goodYAML(), "inner.separator", "2"))
	if err != nil {
		t.Fatal(err)
	}
	if n := p.Inner.Predictions(batch); n != 5 {
		t.Errorf("%d predictions, want 5: separators have none", n)
	}
	packed, err := p.CID()
	if err != nil || packed == plain {
		t.Errorf("the same run with a separator and without (%v)", err)
	}
	if n := p.Inner.Predictions([][]int32{{2, 2}, {}}); n != 0 {
		t.Errorf("%d predictions of nothing", n)
	}
}

// The run's ID is for ever: the same manifest has this CID on every machine and
// in every version that reads schema 1.
func TestGoldenCID(t *testing.T) {
	b, err := good(t).Encode()
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "manifest.cbor.hex")
	if os.Getenv("REWRITE") != "" {
		if err := os.WriteFile(golden, []byte(hex.EncodeToString(b)+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if hex.EncodeToString(b) != strings.TrimSpace(string(want)) {
		t.Errorf("canonical bytes changed:\n%x\n%s", b, want)
	}
	c, err := good(t).CID()
	if err != nil {
		t.Fatal(err)
	}
	if got := c.String(); got != goldenCID {
		t.Errorf("CID %s, want %s", got, goldenCID)
	}
}

const goldenCID = "bafyreigqivdvotkk7xtuixzjtl3lmipgyhabt7sjv3mpbaaxhxrbhobgh4"

// What does not change the meaning does not change the ID.
func TestSameMeaningSameCID(t *testing.T) {
	want, err := good(t).CID()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range [][2]string{
		{"inner.lr", "5e-3"},
		{"inner.lr", "5.0e-03"},
		{"inner.optimizer", "-"},
		{"model.config.head_dim", "16"},
		{"model.config.num_key_value_heads", "-"},
		{"model.config.max_position_embeddings", "-"},
		{"round.deadline", "1m"},
		{"rewards.budget", `"0"`},
		{"rewards.token", `"0x0000000000000000000000000000000000000000"`},
		{"stop.rounds", "3_0"},
		{"admission", "-"},
		{"verification.segments", "-"},
		{"verification.window", "-"},
		{"verification.tolerance", "-"},
		{"outer", "-"},
	} {
		m, err := Parse(edit(t, goodYAML(), e[0], e[1]))
		if err != nil {
			t.Errorf("%s: %v", e, err)
			continue
		}
		if got, err := m.CID(); err != nil || got != want {
			t.Errorf("%s: CID %v, %v, want %v", e, got, err, want)
		}
	}
	a := edit(t, edit(t, goodYAML(), "admission.kind", "allow"), "admission.allow", `["0x0200000000000000000000000000000000000000", "0x0100000000000000000000000000000000000000"]`)
	b := edit(t, a, "admission.allow", `["0x0100000000000000000000000000000000000000", "0x0200000000000000000000000000000000000000"]`)
	x, err := Parse(a)
	if err != nil {
		t.Fatal(err)
	}
	y, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(x, y) {
		t.Error("the order of the allow list matters")
	}
}

func TestSponsor(t *testing.T) {
	key, err := wire.NewKey(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	m := good(t)
	before, err := m.CID()
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Sign(key); err != nil {
		t.Fatal(err)
	}
	if err := m.Validate(); err != nil {
		t.Error(err)
	}
	if after, err := m.CID(); err != nil || after == before {
		t.Errorf("signing left the CID at %v, %v", after, err)
	}
	for name, spoil := range map[string]func(*Manifest){
		"another manifest":  func(m *Manifest) { m.Stop.Rounds++ },
		"another signature": func(m *Manifest) { m.Sponsor.Signature[40] ^= 1 },
		"another address":   func(m *Manifest) { m.Sponsor.Address[3] ^= 1 },
		"no signature":      func(m *Manifest) { m.Sponsor.Signature = Signature{} },
		"no address":        func(m *Manifest) { m.Sponsor.Address = Address{} },
	} {
		bad := *m
		s := *m.Sponsor
		bad.Sponsor = &s
		spoil(&bad)
		if err := bad.Validate(); err == nil || !strings.HasPrefix(err.Error(), "sponsor.") {
			t.Errorf("%s: %v", name, err)
		}
		b, err := bad.encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Decode(b); err == nil {
			t.Errorf("%s: decoded", name)
		}
	}
}

// The examples of EIP-55.
func TestAddressChecksum(t *testing.T) {
	for _, s := range []string{"0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed", "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359", "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB", "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb"} {
		var a, b, c Address
		if err := a.UnmarshalText([]byte(s)); err != nil || a.String() != s {
			t.Errorf("%s came back as %s, %v", s, a, err)
		}
		if err := b.UnmarshalText([]byte(strings.ToLower(s))); err != nil || a != b {
			t.Errorf("lower case of %s: %v", s, err)
		}
		swapped := s[:2] + strings.ToLower(s[2:12]) + s[12:]
		if err := c.UnmarshalText([]byte(swapped)); err == nil && swapped != s {
			t.Errorf("%s: wrong checksum accepted", swapped)
		}
	}
}

func TestTemplate(t *testing.T) {
	m := good(t)
	if m.Name != "moby-dick" || m.Round.Deadline != time.Minute || m.Model.Config.HeadDim != 16 {
		t.Errorf("%+v", m)
	}
	if err := m.Model.Config.HF().Validate(); err != nil {
		t.Error(err)
	}
	_, err := Parse(Template("x", "", "", 0))
	if err == nil {
		t.Fatal("a template without its CIDs is valid")
	}
	for _, want := range []string{"model.config.vocab_size: missing", "tokenizer: missing", "data: missing"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v lacks %q", err, want)
		}
	}
	if n := len(strings.Split(err.Error(), "\n")); n != 3 {
		t.Errorf("%d problems, want 3: %v", n, err)
	}
}

// Every field that has a default may be left out of the template, and its
// comment there says so.
func TestTemplateSaysDefault(t *testing.T) {
	for i, line := range strings.Split(template, "\n") {
		key, comment, ok := strings.Cut(line, "#")
		if !ok || strings.TrimSpace(key) == "" || !strings.Contains(key, ": ") {
			continue
		}
		lines := strings.Split(string(goodYAML()), "\n")
		lines = append(lines[:i:i], lines[i+1:]...)
		_, err := Parse([]byte(strings.Join(lines, "\n")))
		if says := strings.Contains(comment, "default"); says != (err == nil) && !strings.Contains(key, "seed") {
			t.Errorf("%q: without it: %v", line, err)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	b, err := good(t).Encode()
	if err != nil {
		t.Fatal(err)
	}
	for n := range b {
		if _, err := Decode(b[:n]); err == nil {
			t.Fatalf("truncated to %d bytes: accepted", n)
		}
	}
	if _, err := Decode(append(bytes.Clone(b), 0)); err == nil {
		t.Error("trailing byte accepted")
	}
	if _, err := Decode(make([]byte, MaxSize+1)); err == nil || !strings.Contains(err.Error(), "limit") {
		t.Errorf("oversized: %v", err)
	}
	for name, spoil := range map[string]func(*Manifest){
		"unsorted":  func(m *Manifest) { m.Admission.Kind, m.Admission.Allow = "allow", []Address{{2}, {1}} },
		"twice":     func(m *Manifest) { m.Admission.Kind, m.Admission.Allow = "allow", []Address{{1}, {1}} },
		"rate":      func(m *Manifest) { m.Inner.LR = 2 },
		"no data":   func(m *Manifest) { m.Data = "" },
		"bad CID":   func(m *Manifest) { m.Model.Base = m.Data },
		"minus":     func(m *Manifest) { m.Model.Config.HiddenSize = -64 },
		"deadline":  func(m *Manifest) { m.Round.Deadline = -time.Hour },
		"minuszero": func(m *Manifest) { m.Inner.MinLR *= 0; m.Inner.MinLR = -m.Inner.MinLR },
	} {
		m := good(t)
		spoil(m)
		b, err := m.encode()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := Decode(b); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if _, err := m.Encode(); err == nil {
			t.Errorf("%s: encoded", name)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(goodYAML())
	f.Add([]byte("version: 1\nname: &a x\nlicence: *a\nround: {deadline: 1s, inner_steps: -1}\nadmission: {allow: [1, {}, []]}\n"))
	f.Add([]byte("sponsor: {address: '0x', signature: 3}\nversion: 1\nversion: 1"))
	for _, config := range configs {
		f.Add(edit(f, goodYAML(), "model.config", config))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Parse(b)
		if err != nil {
			if err.Error() == "" {
				t.Fatal("empty error")
			}
			return
		}
		y, err := m.YAML()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse(y)
		if err != nil || !reflect.DeepEqual(m, again) {
			t.Fatalf("%v\n%s", err, y)
		}
	})
}

func FuzzDecode(f *testing.F) {
	b, err := good(f).Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	for _, config := range configs {
		m, err := Parse(edit(f, goodYAML(), "model.config", config))
		if err != nil {
			f.Fatal(err)
		}
		if b, err = m.Encode(); err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Decode(b)
		if err != nil {
			return
		}
		again, err := m.Encode()
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("accepted bytes are not canonical: %v", err)
		}
		y, err := m.YAML()
		if err != nil {
			t.Fatal(err)
		}
		if p, err := Parse(y); err != nil || !reflect.DeepEqual(p, m) {
			t.Fatalf("YAML of it: %v\n%s", err, y)
		}
	})
}

// Left out, the number of segments follows from the tokens of a phase, so that
// snapshots stay a small share of the work; written, it stands.
func TestDefaultSegments(t *testing.T) {
	for _, c := range []struct {
		steps, segments string
		want            uint64
	}{
		{"2", "-", 1},
		{"20", "-", 1},
		{"79", "-", 1},
		{"80", "-", 2},
		{"159", "-", 3},
		{"160", "-", 4},
		{"3000", "-", 4},
		{"20", "4", 4},
		{"3000", "1", 1},
	} {
		m, err := Parse(edit(t, edit(t, goodYAML(), "round.inner_steps", c.steps), "verification.segments", c.segments))
		if err != nil {
			t.Fatal(err)
		}
		if got := m.Verification.Segments; got != c.want {
			t.Errorf("%s steps of 512 tokens, segments %s: %d segments, want %d", c.steps, c.segments, got, c.want)
		}
	}
}

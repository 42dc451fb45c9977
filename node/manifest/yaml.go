package manifest

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Default returns a manifest with every field that has a default set to it.
func Default() *Manifest {
	return &Manifest{
		Version: Version,
		Task:    "pretrain",
		Model:   Model{Config: Config{Architectures: []string{"LlamaForCausalLM"}, RMSNormEps: 1e-5, RopeTheta: 10000}},
		Inner: Inner{Optimizer: "adamw", Beta1: 0.9, Beta2: 0.95, Eps: 1e-8, WeightDecay: 0.1, Clip: 1,
			Schedule: "cosine"},
		Outer:        Outer{LR: 0.7, Momentum: 0.6, Nesterov: true},
		Round:        Round{Deadline: 10 * time.Minute, LateRounds: 2, DropAfter: 3, LeakAfter: 8},
		Codec:        Codec{Kind: "int8", Chunk: 4096},
		Admission:    Admission{Kind: "open", MinPeers: 1, MinStake: "0"},
		Verification: Verification{Segments: defaultSegments, Window: 8, Tolerance: Tolerance{Exponents: 38, MantissaMean: 10, MantissaMedian: 8}},
		Rewards:      Rewards{Budget: "0", Trainers: Whole},
	}
}

// derive fills in the defaults that follow from other fields.
func (m *Manifest) derive(set map[string]int) {
	c := &m.Model.Config
	unset := func(name string) bool { _, ok := set["model.config."+name]; return !ok }
	if unset("num_key_value_heads") {
		c.NumKeyValueHeads = c.NumAttentionHeads
	}
	if unset("head_dim") && c.NumAttentionHeads > 0 && c.HiddenSize%c.NumAttentionHeads == 0 {
		c.HeadDim = c.HiddenSize / c.NumAttentionHeads
	}
	if unset("max_position_embeddings") && m.Inner.Sequence > 0 {
		c.MaxPositionEmbeddings = m.Inner.Sequence
	}
	if _, ok := set["verification.segments"]; !ok {
		m.Verification.Segments = m.DefaultSegments()
	}
	m.trim()
	slices.SortFunc(m.Admission.Allow, func(a, b Address) int { return bytes.Compare(a[:], b[:]) })
}

// trim makes empty lists nil, so that equal manifests are deeply equal.
func (m *Manifest) trim() {
	m.Model.Config.trim()
	if len(m.Admission.Allow) == 0 {
		m.Admission.Allow = nil
	}
}

// Parse reads a manifest from YAML, fills in the defaults and validates it. Its
// error is Problems wherever the text is YAML at all.
func Parse(text []byte) (*Manifest, error) {
	if len(text) > MaxSize {
		return nil, fmt.Errorf("manifest of %d bytes is over the limit of %d", len(text), MaxSize)
	}
	var doc yaml.Node
	d := yaml.NewDecoder(bytes.NewReader(text))
	if err := d.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, errors.New("manifest is empty: `shoal manifest init` writes one to begin with")
		}
		return nil, fmt.Errorf("manifest: %w", err)
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("manifest: more than one YAML document")
	}
	if len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
		return nil, errors.New("manifest: the document is not a map of fields")
	}
	m := Default()
	w := walker{lines: map[string]int{}}
	w.value("", doc.Content[0], reflect.ValueOf(m).Elem())
	m.derive(w.lines)
	found := w.problems
	m.validate(&found)
	for i := range found {
		if found[i].Line == 0 {
			found[i].Line = w.line(found[i].Path)
		}
	}
	if err := found.err(); err != nil {
		return nil, err
	}
	return m, nil
}

// A walker carries a YAML tree into a struct and notes what does not fit.
type walker struct {
	problems Problems
	lines    map[string]int // of the fields that are there
}

// line returns where a field is or, if it is missing, where its nearest parent is.
func (w *walker) line(path string) int {
	for path != "" {
		if l, ok := w.lines[path]; ok {
			return l
		}
		path = path[:max(0, strings.LastIndexByte(path, '.'))]
	}
	return 0
}

func (w *walker) wrong(path string, n *yaml.Node, want string) {
	got := n.Value
	switch n.Kind {
	case yaml.MappingNode:
		got = "a map"
	case yaml.SequenceNode:
		got = "a list"
	case yaml.AliasNode:
		got = "an alias"
	default:
		if n.Tag == "!!null" {
			got = "nothing"
		} else {
			got = strconv.Quote(got[:min(len(got), 60)])
		}
	}
	w.problems.add(path, n.Line, "%s is not %s", got, want)
}

// value stores n in v. Its depth is that of the struct, whatever n is.
func (w *walker) value(path string, n *yaml.Node, v reflect.Value) {
	if path != "" {
		w.lines[path] = n.Line
	}
	if n.Anchor != "" || n.Kind == yaml.AliasNode {
		w.problems.add(path, n.Line, "anchors and aliases are not allowed")
		return
	}
	if t, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
			w.wrong(path, n, "text")
		} else if err := t.UnmarshalText([]byte(n.Value)); err != nil {
			w.problems.add(path, n.Line, "%v", err)
		}
		return
	}
	if d, ok := v.Addr().Interface().(*time.Duration); ok {
		x, err := time.ParseDuration(n.Value)
		if n.Kind != yaml.ScalarNode || err != nil {
			w.wrong(path, n, "a duration such as 90s or 5m")
			return
		}
		*d = x
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		w.fields(path, n, v)
	case reflect.Pointer:
		p := reflect.New(v.Type().Elem())
		w.value(path, n, p.Elem())
		v.Set(p)
	case reflect.Slice:
		w.list(path, n, v)
	default:
		w.scalar(path, n, v)
	}
}

func (w *walker) fields(path string, n *yaml.Node, v reflect.Value) {
	if n.Kind != yaml.MappingNode {
		w.wrong(path, n, "a map of fields")
		return
	}
	index := map[string]int{}
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ",")
		index[name] = i
	}
	if path != "" {
		path += "."
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		at := path + key.Value[:min(len(key.Value), 60)]
		k, ok := index[key.Value]
		switch {
		case key.Kind != yaml.ScalarNode || !ok:
			w.problems.add(at, key.Line, "unknown field%s", suggest(key.Value, index))
		case seen[key.Value]:
			w.problems.add(at, key.Line, "it is there twice")
		default:
			seen[key.Value] = true
			w.value(at, n.Content[i+1], v.Field(k))
		}
	}
}

// elsewhere are names that other people and config.json have for a field.
var elsewhere = map[string]string{
	"license":    "licence",
	"model_type": "architectures", "rope_parameters": "rope_scaling", "type": "rope_type", "use_sliding_window": "sliding_window", "max_window_layers": "layer_types",
}

// suggest names the field that an unknown one may have been meant to be.
func suggest(key string, index map[string]int) string {
	plain := func(s string) string {
		return strings.ToLower(strings.NewReplacer("_", "", "-", "", " ", "").Replace(s))
	}
	if other, ok := elsewhere[strings.ToLower(key)]; ok {
		key = other
	}
	for name := range index {
		if plain(name) == plain(key) {
			return ": did you mean " + name + "?"
		}
	}
	return ""
}

func (w *walker) list(path string, n *yaml.Node, v reflect.Value) {
	if n.Kind != yaml.SequenceNode {
		w.wrong(path, n, "a list")
		return
	}
	if len(n.Content) > MaxAllow {
		w.problems.add(path, n.Line, "%d entries are above the limit of %d", len(n.Content), MaxAllow)
		return
	}
	out := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, x := range n.Content {
		w.value(fmt.Sprintf("%s[%d]", path, i), x, out.Index(i))
	}
	v.Set(out)
}

func (w *walker) scalar(path string, n *yaml.Node, v reflect.Value) {
	if n.Kind != yaml.ScalarNode {
		w.wrong(path, n, "a single value")
		return
	}
	digits := strings.ReplaceAll(n.Value, "_", "")
	number := n.Tag == "!!int" || n.Tag == "!!float"
	octal := len(digits) > 1 && digits[0] == '0' // 010 is 8 to some readers and 10 to others
	switch v.Kind() {
	case reflect.String:
		if n.Tag != "!!str" && !number { // amounts may be written without quotes
			w.wrong(path, n, "text")
			return
		}
		v.SetString(n.Value)
	case reflect.Bool:
		switch {
		case n.Tag == "!!bool" && strings.EqualFold(n.Value, "true"):
			v.SetBool(true)
		case n.Tag == "!!bool" && strings.EqualFold(n.Value, "false"):
			v.SetBool(false)
		default:
			w.wrong(path, n, "true or false")
		}
	case reflect.Uint64:
		x, err := strconv.ParseUint(digits, 10, 64)
		if !number || octal || err != nil {
			w.wrong(path, n, "a whole number, 0 or above")
			return
		}
		v.SetUint(x)
	case reflect.Int:
		x, err := strconv.ParseInt(digits, 10, strconv.IntSize)
		if !number || octal || err != nil {
			w.wrong(path, n, "a whole number")
			return
		}
		v.SetInt(x)
	case reflect.Float64:
		x, err := strconv.ParseFloat(digits, 64)
		if !number || err != nil || math.IsInf(x, 0) || math.IsNaN(x) {
			w.wrong(path, n, "a finite number")
			return
		}
		v.SetFloat(x)
	}
}

// YAML returns the manifest as YAML, without comments, every field spelled out.
// Parse gives the same manifest back.
func (m *Manifest) YAML() ([]byte, error) {
	var out bytes.Buffer
	e := yaml.NewEncoder(&out)
	e.SetIndent(2)
	if err := e.Encode(m); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	if err := e.Close(); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	return out.Bytes(), nil
}

package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/gpu/hf"
	"github.com/shoalnet/shoal/gpu/llama"
	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/toploc"
)

// shoalToploc runs one command line with in as standard input.
func shoalToploc(t *testing.T, in []byte, args ...string) (out, errs string, code int) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "in"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(in); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Seek(0, 0); err != nil {
		t.Fatal(err)
	}
	var o, e bytes.Buffer
	code = run(append([]string{"toploc"}, args...), f, &o, &e)
	return o.String(), e.String(), code
}

func toplocFile(t *testing.T, name string, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

type toplocCase struct {
	Name        string
	TopK        int  `json:"topk"`
	Batch       int  `json:"decode_batching_size"`
	SkipPrefill bool `json:"skip_prefill"`
	Shapes      [][]int
	Activations []byte   `json:"activations_b64"`
	Null        bool     `json:"is_null"`
	Proofs      []string `json:"proofs_base64"`
	Lowest      []string `json:"proofs_lowest_index_base64"`
	Verify      []struct {
		Op         struct{ Type string }
		ListPath   [][3]float64 `json:"list_path"`
		TensorPath [][3]float64 `json:"tensor_path"`
	}
}

// flags gives the case's parameters; false where its rows have several lengths.
func (c toplocCase) flags() ([]string, bool) {
	h := func(i int) int { return c.Shapes[i][len(c.Shapes[i])-1] }
	prompt := 0
	for i := range c.Shapes {
		if h(i) != h(0) {
			return nil, false
		}
	}
	if !c.SkipPrefill {
		prompt = 1
		for _, d := range c.Shapes[0] {
			prompt *= d
		}
		prompt /= h(0)
	}
	return []string{"--hidden", digits(h(0)), "--topk", digits(c.TopK), "--batch", digits(c.Batch), "--prompt-tokens", digits(prompt)}, true
}

func digits(n int) string { b, _ := json.Marshal(n); return string(b) }

func toplocCases(t *testing.T) []toplocCase {
	t.Helper()
	b, err := os.ReadFile("../../toploc/testdata/toploc.json")
	if err != nil {
		t.Fatal(err)
	}
	var v struct{ Cases []toplocCase }
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	return v.Cases
}

func TestToplocVectors(t *testing.T) {
	proofs, results := 0, 0
	for _, c := range toplocCases(t) {
		flags, ok := c.flags()
		if !ok {
			continue
		}
		file := toplocFile(t, "rows", c.Activations)
		for ties, want := range map[string][]string{"libstdcxx": c.Proofs, "lowest": c.Lowest} {
			out, errs, code := shoalToploc(t, nil, append(append([]string{"prove"}, flags...), "--ties", ties, file)...)
			if c.Null {
				if code == 0 || !strings.Contains(errs, "no top") {
					t.Errorf("%s: exit %d, %s", c.Name, code, errs)
				}
				continue
			}
			if code != 0 || !slices.Equal(strings.Fields(out), want) {
				t.Errorf("%s, %s: proofs differ, exit %d, %s", c.Name, ties, code, errs)
			}
			proofs += len(want)
		}
		list := toplocFile(t, "proofs", []byte(strings.Join(c.Proofs, "\n")+"\n"))
		for _, v := range c.Verify {
			if v.Op.Type != "identity" && v.Op.Type != "negate" {
				continue
			}
			b := slices.Clone(c.Activations)
			for i := 1; v.Op.Type == "negate" && i < len(b); i += 2 {
				b[i] ^= 0x80
			}
			for sem, want := range map[string][][3]float64{"tensor": v.TensorPath, "list": v.ListPath} {
				if want == nil {
					continue
				}
				out, errs, code := shoalToploc(t, b, append(append([]string{"verify"}, flags...), "--semantics", sem, "--proofs", list, "-")...)
				if code != 0 {
					t.Errorf("%s: exit %d, %s", c.Name, code, errs)
				}
				d := json.NewDecoder(strings.NewReader(out))
				for i, w := range want {
					var r toploc.Result
					if err := d.Decode(&r); err != nil {
						t.Fatal(err)
					}
					if float64(r.ExpMismatches) != w[0] || r.MantErrMean != w[1] || r.MantErrMedian != w[2] {
						t.Errorf("%s, %s, chunk %d: %+v, want %v", c.Name, sem, i, r, w)
					}
					results++
				}
			}
		}
	}
	if proofs < 150 || results < 100 {
		t.Errorf("only %d proofs and %d results were compared", proofs, results)
	}
}

// activations are rows of a made-up model, as a file holds them.
func activations(seed uint64, rows, hidden int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	f, a := make([]float32, rows*hidden), make([]uint16, rows*hidden)
	for i := range f {
		f[i] = float32(r.NormFloat64())
	}
	toploc.RoundBF16(a, f)
	b := make([]byte, 0, 2*len(a))
	for _, v := range a {
		b = append(b, byte(v), byte(v>>8))
	}
	return b
}

func TestToplocStrict(t *testing.T) {
	rows := activations(1, 80, 64)
	flags := []string{"--hidden", "64", "--topk", "32", "--batch", "16", "--prompt-tokens", "16"}
	prove := func(b []byte, more ...string) []string {
		out, errs, code := shoalToploc(t, b, append(append(append([]string{"prove"}, flags...), more...), "-")...)
		if code != 0 {
			t.Fatalf("exit %d, %s", code, errs)
		}
		return strings.Fields(out)
	}
	honest := prove(rows)
	if len(honest) != 5 {
		t.Fatalf("%d proofs", len(honest))
	}
	file := toplocFile(t, "rows", rows)
	type line struct {
		OK     *bool
		Reason *string
	}
	verify := func(proofs []string, more ...string) (lines []line, errs string, code int) {
		list := toplocFile(t, "proofs", []byte(strings.Join(proofs, "\n")+"\n"))
		out, errs, code := shoalToploc(t, nil, append(append(append([]string{"verify"}, flags...), more...), "--strict", "--proofs", list, file)...)
		for d := json.NewDecoder(strings.NewReader(out)); d.More(); {
			var l line
			if err := d.Decode(&l); err != nil || l.OK == nil || l.Reason == nil || *l.OK != (*l.Reason == "") {
				t.Fatalf("%s: %v", out, err)
			}
			lines = append(lines, l)
		}
		return lines, errs, code
	}
	for _, p := range [][]string{honest, prove(rows, "--ties", "libstdcxx")} {
		if lines, errs, code := verify(p); code != 0 || len(lines) != 5 {
			t.Errorf("honest: exit %d, %s", code, errs)
		}
	}
	other := prove(activations(2, 80, 64))
	null := base64.StdEncoding.EncodeToString(make([]byte, 66))
	for name, c := range map[string]struct {
		proofs []string
		errs   string
		reason string // of the third
	}{
		"replay":    {append(slices.Clone(honest[:2]), append([]string{other[2]}, honest[3:]...)...), "1 of 5 chunks fail", "limit"},
		"repeated":  {[]string{honest[0], honest[1], honest[1], honest[3], honest[4]}, "1 of 5 chunks fail", "limit"},
		"null":      {[]string{honest[0], honest[1], null, honest[3], honest[4]}, "1 of 5 chunks fail", "null proof"},
		"truncated": {[]string{honest[0], honest[1], honest[2][:20], honest[3], honest[4]}, "1 of 5 chunks fail", "characters"},
		"garbage":   {[]string{honest[0], honest[1], strings.Repeat("!", len(honest[2])), honest[3], honest[4]}, "1 of 5 chunks fail", "illegal"},
		"endless":   {[]string{honest[0], honest[1], strings.Repeat("A", 1<<18), honest[3], honest[4]}, "1 of 5 chunks fail", "too long"},
		"too few":   {honest[:4], "4 records", ""},
		"too many":  {append(slices.Clone(honest), other[0]), "6 records", ""},
		"none":      {nil, "records", ""},
	} {
		lines, errs, code := verify(c.proofs)
		if code != 1 || !strings.Contains(errs, c.errs) {
			t.Errorf("%s: exit %d, %s", name, code, errs)
		}
		// One object a chunk, of which one fails: who reads nothing else knows as much.
		if len(lines) != 5 || !slices.ContainsFunc(lines, func(l line) bool { return !*l.OK }) {
			t.Errorf("%s: %d objects, of which none fails", name, len(lines))
		}
		if c.reason != "" && (len(lines) != 5 || *lines[2].OK || !strings.Contains(*lines[2].Reason, c.reason) || !*lines[4].OK) {
			t.Errorf("%s: %d lines, third %q", name, len(lines), *lines[2].Reason)
		}
	}
	seen := filepath.Join(t.TempDir(), "seen")
	if _, errs, code := verify(honest, "--seen", seen); code != 0 {
		t.Errorf("first submission: %s", errs)
	}
	if lines, _, code := verify(honest, "--seen", seen); code != 1 || !*lines[0].OK || *lines[1].OK {
		t.Errorf("second submission: exit %d, %+v", code, lines)
	}
}

func TestToplocPolicyAndProjections(t *testing.T) {
	const hidden = 64
	l := toploc.Limits{ExpMismatches: 2, MantErrMean: 1, MantErrMedian: 1, SignMismatches: 1}
	q := toploc.ProjectionLimits{Mean: 0.6, WorstToken: 1.5}
	b, err := json.Marshal(toploc.Policy{
		Version: 1, Params: toploc.Params{Hidden: hidden, TopK: 32, Batch: 16}, Prefill: l, Decode: l,
		Projection:        &toploc.Projection{Values: 8, Bits: 4, Gain: slices.Repeat([]float32{40}, hidden)},
		ProjectionPrefill: q, ProjectionDecode: q,
	})
	if err != nil {
		t.Fatal(err)
	}
	policy := toplocFile(t, "policy.json", b)
	rows := toplocFile(t, "rows", activations(3, 40, hidden))
	must := func(args ...string) string {
		out, errs, code := shoalToploc(t, nil, args...)
		if code != 0 {
			t.Fatalf("%v: exit %d, %s", args, code, errs)
		}
		return out
	}
	proofs := toplocFile(t, "proofs", []byte(must("prove", "--hidden", "64", "--topk", "32", "--batch", "16", rows)))
	v2 := toplocFile(t, "v2", []byte(must("project", "--policy", policy, "--job", "17", rows)))
	out := must("verify", "--policy", policy, "--strict", "--proofs", proofs, "--projections", v2, "--job", "17", rows)
	if n := strings.Count(out, `"proj_err_mean":0.2`); n != 3 || strings.Count(out, `"ok":true`) != 3 {
		t.Errorf("%s", out)
	}
	if got := must("inspect", v2); strings.Count(got, "8 × 4 bits each") != 3 {
		t.Errorf("%s", got)
	}
	out, errs, code := shoalToploc(t, nil, "verify", "--policy", policy, "--strict", "--proofs", proofs, "--projections", v2, "--job", "18", rows)
	if code != 1 || strings.Count(out, "another job") != 3 || !strings.Contains(errs, "3 of 3") {
		t.Errorf("another job's records: exit %d, %s, %s", code, out, errs)
	}
}

func TestToplocCalibrate(t *testing.T) {
	text := strings.Repeat("it was the best of times, it was the worst of times. ", 8)
	tok, err := hf.NewChar(text)
	if err != nil {
		t.Fatal(err)
	}
	cfg := hf.Config{
		HiddenSize: 32, IntermediateSize: 48, NumHiddenLayers: 2, NumAttentionHeads: 2, NumKeyValueHeads: 2,
		VocabSize: tok.VocabSize(), MaxPositionEmbeddings: 32, RMSNormEps: 1e-5, RopeTheta: 10000, TieWordEmbeddings: true,
	}
	conf, err := cfg.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	params := llama.Genesis(cfg, 1)
	for i := range params {
		params[i] *= 4 // a model that has something to say
	}
	st, err := hf.WriteSafetensors(cfg.Tensors(), params)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, b := range map[string][]byte{node.ConfigFile: conf, node.WeightsFile: st, node.TokenizerFile: tok.JSON(), "text": []byte(text)} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out := filepath.Join(dir, "policy.json")
	table, errs, code := shoalToploc(t, nil, "calibrate", dir, "--text", filepath.Join(dir, "text"), "--out", out,
		"--sequences", "8", "--prompt-tokens", "8", "--tokens", "16", "--batch", "8", "--topk", "16", "--threads", "1")
	if code != 0 || !strings.Contains(table, "| constant polynomial | 24 |") {
		t.Fatalf("exit %d, %s\n%s", code, errs, table)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	p, err := toploc.ParsePolicy(b)
	if err != nil || p.Params.TopK != 16 || p.Tokens == nil || p.Projection == nil {
		t.Fatalf("%+v %v", p, err)
	}
	if _, errs, code := shoalToploc(t, nil, "calibrate", dir, "--text", filepath.Join(dir, "text"), "--out", out, "--prompt-tokens", "300"); code == 0 {
		t.Errorf("a text too short: %s", errs)
	}
}

func TestToplocInspect(t *testing.T) {
	out, _, code := shoalToploc(t, activations(1, 40, 64), "prove", "--hidden", "64", "--topk", "32", "--batch", "16", "-")
	if code != 0 {
		t.Fatal(out)
	}
	lines := strings.Fields(out)
	bad := append(slices.Clone(lines), lines[1], base64.StdEncoding.EncodeToString(make([]byte, 66)), "AA==", "?",
		base64.StdEncoding.EncodeToString(append([]byte{0, 1}, make([]byte, 64)...)))
	if _, errs, code := shoalToploc(t, []byte(out), "inspect", "--topk", "32", "-"); code != 0 {
		t.Errorf("honest records: %s", errs)
	}
	got, errs, code := shoalToploc(t, []byte(strings.Join(bad, "\n")), "inspect", "--json", "-")
	if code != 1 || !strings.Contains(errs, "5 of 8 records") {
		t.Errorf("exit %d, %s", code, errs)
	}
	var all []inspection
	for d := json.NewDecoder(strings.NewReader(got)); d.More(); {
		var v inspection
		if err := d.Decode(&v); err != nil {
			t.Fatal(err)
		}
		all = append(all, v)
	}
	for i, want := range []string{"", "", "", "line 2 again", "null proof", "are no record", "illegal", "modulus 1 is below"} {
		if i >= len(all) || all[i].OK != (want == "") || !strings.Contains(all[i].Reason, want) || all[i].Line != i+1 {
			t.Fatalf("line %d: %+v, want %q", i+1, all[min(i, len(all)-1)], want)
		}
	}
}

func TestToplocRefuses(t *testing.T) {
	rows := toplocFile(t, "rows", activations(1, 8, 64))
	ragged := toplocFile(t, "ragged", activations(1, 8, 64)[:1001])
	empty := toplocFile(t, "empty", nil)
	proofs := toplocFile(t, "proofs", []byte("x\n"))
	small := []string{"--hidden", "64", "--topk", "8", "--batch", "4"}
	for name, c := range map[string]struct {
		args []string
		code int
		errs string
	}{
		"no file":        {append([]string{"prove"}, small...), 2, "FILE is missing"},
		"no hidden":      {[]string{"prove", rows}, 2, "--hidden is missing"},
		"no such file":   {append([]string{"prove", "nowhere"}, small...), 1, "no such file"},
		"a directory":    {append([]string{"prove", t.TempDir()}, small...), 1, "directory"},
		"negative top-k": {[]string{"prove", "--hidden", "64", "--topk", "-1", rows}, 2, "top-k -1"},
		"large batch":    {[]string{"prove", "--hidden", "64", "--batch", "99999999", rows}, 2, "batch"},
		"ties":           {append([]string{"prove", rows, "--ties", "first"}, small...), 2, "want lowest or libstdcxx"},
		"semantics":      {append([]string{"verify", rows, "--semantics", "python", "--proofs", proofs}, small...), 2, "want tensor or list"},
		"list, strict":   {append([]string{"verify", rows, "--semantics", "list", "--strict", "--proofs", proofs}, small...), 2, "--strict follows"},
		"no proofs":      {append([]string{"verify", rows}, small...), 2, "--proofs is missing"},
		"proofs nowhere": {append([]string{"verify", rows, "--proofs", "nowhere"}, small...), 1, "--proofs"},
		"seed alone":     {append([]string{"verify", rows, "--proofs", proofs, "--seed", "3"}, small...), 2, "belong to --strict"},
		"ragged":         {append([]string{"prove", ragged}, small...), 1, "ends with 105 bytes after 7 rows of 128"},
		"empty":          {append([]string{"prove", empty}, small...), 1, "is empty"},
		"long prompt":    {append([]string{"prove", rows, "--prompt-tokens", "9"}, small...), 1, "fewer than the 9"},
		"short chunk":    {[]string{"prove", "--hidden", "64", "--topk", "100", "--batch", "7", rows}, 1, "has no top 100"},
		"bad record":     {append([]string{"verify", rows, "--proofs", proofs}, small...), 1, "shoal: " + proofs + ": line 1"},
		"no policy":      {append([]string{"verify", rows, "--policy", proofs, "--proofs", proofs}, small...), 1, "--policy"},
		"v2, no job":     {append([]string{"verify", rows, "--strict", "--projections", proofs, "--proofs", proofs}, small...), 2, "--projections needs"},
		"project":        {append([]string{"project", rows}, small...), 2, "are needed"},
		"calibrate":      {[]string{"calibrate", "model"}, 2, "are needed"},
		"inspect top-k":  {[]string{"inspect", "--topk", "5000", proofs}, 2, "want 1 to 4096"},
		"unknown":        {[]string{"forge"}, 2, "unknown command"},
	} {
		out, errs, code := shoalToploc(t, nil, c.args...)
		if code != c.code || !strings.Contains(errs, c.errs) || out != "" {
			t.Errorf("%s: exit %d, %q %q; want %d, %q", name, code, out, errs, c.code, c.errs)
		}
	}
	// A stream's raggedness shows at its end, after the proofs of whole chunks.
	out, errs, code := shoalToploc(t, activations(1, 8, 64)[:1001], append([]string{"prove", "-"}, small...)...)
	if code != 1 || !strings.Contains(errs, "after 7 rows") || len(strings.Fields(out)) != 1 {
		t.Errorf("exit %d, %q %q", code, out, errs)
	}
}

func FuzzToplocLedger(f *testing.F) {
	f.Add([]byte(strings.Repeat("0a", 32) + "\n"))
	f.Add([]byte("\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := readLedger("fuzz", bytes.NewReader(b))
		if err == nil && len(l.old) > (len(b)+1)/64 {
			t.Fatalf("%d hashes of %d bytes", len(l.old), len(b))
		}
	})
}

// Whatever the file holds, records come out one a line, or an error does.
func FuzzToplocRecords(f *testing.F) {
	f.Add([]byte("/9kAAQAC\n/9kAAQAD\r\n\n"), 6)
	f.Add([]byte(strings.Repeat("A", 1<<17)+"\n/9kAAQAC"), 0)
	f.Add([]byte("AAAA\nAA=="), 1) // of as many characters, not of as many bytes
	f.Fuzz(func(t *testing.T, b []byte, size int) {
		if size < 0 || size > 1<<13 {
			return
		}
		r := newRecordReader("fuzz", bytes.NewReader(b), size, 1<<13)
		for {
			rec, err := r.next()
			var bad recordError
			if err == io.EOF {
				break
			}
			if err != nil && !errors.As(err, &bad) {
				t.Fatal(err)
			}
			if err == nil && size > 0 && len(rec) != size {
				t.Fatalf("a record of %d bytes, want %d", len(rec), size)
			}
		}
		if lines := bytes.Count(b, []byte("\n")); r.read < lines || r.read > lines+1 {
			t.Fatalf("%d records of %d lines", r.read, lines)
		}
	})
}

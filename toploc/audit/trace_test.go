package audit

import (
	"bytes"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/p2p/wire"
)

func block(s string) wire.CID { return wire.SumCID(wire.CodecDagCBOR, []byte(s)) }
func raw(s string) wire.CID   { return wire.SumCID(wire.CodecRaw, []byte(s)) }

func signer(t testing.TB, n byte) *wire.Key {
	t.Helper()
	k, err := wire.NewKey(bytes.Repeat([]byte{n}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// goodTrace is of 10 steps in segments of 4, of rows of 8.
func goodTrace(t testing.TB) *Trace {
	size := RecordSize(8)
	return &Trace{
		Version: 1, Run: block("run"), Peer: signer(t, 1).Peer(), Round: 3, State: block("state"), Slot: 1, Slots: 2, Base: 640,
		Steps: 10, Every: 4, Engine: "toy", Before: block("before"), Owed: raw("owed"), Payload: raw("payload"),
		Segments: []Segment{{raw("a"), make([]byte, 4*size)}, {raw("b"), make([]byte, 4*size)}, {raw("c"), make([]byte, 2*size)}},
	}
}

func TestTraceBytes(t *testing.T) {
	want := goodTrace(t)
	b, err := want.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeTrace(b)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := got.Encode(); err != nil || !bytes.Equal(again, b) {
		t.Errorf("encodes to other bytes: %v", err)
	}
	if c := wire.SumCID(wire.CodecDagCBOR, b).String(); c != goldenTrace {
		t.Errorf("the trace's CID is %s, it was %s", c, goldenTrace)
	}
	for name, change := range map[string]func(*Trace){
		"version":          func(x *Trace) { x.Version = 2 },
		"no run":           func(x *Trace) { x.Run = "" },
		"no peer":          func(x *Trace) { x.Peer = wire.PeerID{} },
		"slot":             func(x *Trace) { x.Slot = 2 },
		"no steps":         func(x *Trace) { x.Steps = 0 },
		"many steps":       func(x *Trace) { x.Steps = MaxSteps + 1 },
		"endless segments": func(x *Trace) { x.Every = 1 << 60 },
		"no engine":        func(x *Trace) { x.Engine = "" },
		"long engine":      func(x *Trace) { x.Engine = strings.Repeat("x", maxEngine+1) },
		"owed out of thin": func(x *Trace) { x.Before = "" },
		"too few segments": func(x *Trace) { x.Segments = x.Segments[:2] },
		"no end":           func(x *Trace) { x.Segments[1].End = "" },
		"too large":        func(x *Trace) { x.Segments[0].Proofs = make([]byte, MaxTrace) },
	} {
		x := goodTrace(t)
		change(x)
		if _, err := x.Encode(); err == nil {
			t.Errorf("%s: encoded", name)
		}
		if b, err := wire.Marshal(x); err == nil {
			if _, err := DecodeTrace(b); err == nil {
				t.Errorf("%s: decoded", name)
			}
		}
	}
}

const goldenTrace = "bafyreidxcr4nmahcao5gy2rl75k2j6iki7fbkwpywdecvupqysvn2ojgli"

func TestClaims(t *testing.T) {
	x := goodTrace(t)
	claims := Claims{
		Run: x.Run, Peer: x.Peer, Round: 3, State: x.State, Slot: 1, Slots: 2, Base: 640, Steps: 10, Payload: x.Payload,
		Before: x.Before, Inner: 10, Segments: 3, Width: 8,
	}
	if err := x.Check(&claims); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Claims){
		"run": func(c *Claims) { c.Run = block("x") }, "peer": func(c *Claims) { c.Peer = signer(t, 2).Peer() },
		"round": func(c *Claims) { c.Round++ }, "state": func(c *Claims) { c.State = block("x") },
		"slot": func(c *Claims) { c.Slot = 0 }, "slots": func(c *Claims) { c.Slots++ }, "base": func(c *Claims) { c.Base++ },
		"steps": func(c *Claims) { c.Steps++ }, "payload": func(c *Claims) { c.Payload = raw("x") },
		"before": func(c *Claims) { c.Before = block("x") }, "none before": func(c *Claims) { c.Before = "" },
		"inner": func(c *Claims) { c.Inner = 20 }, "segments": func(c *Claims) { c.Segments = 5 }, "width": func(c *Claims) { c.Width = 16 },
	} {
		c := claims
		change(&c)
		if err := x.Check(&c); err == nil {
			t.Errorf("%s: passes", name)
		}
	}
}

func goodEvidence(t testing.TB) *Evidence {
	k := signer(t, 1)
	run := block("run")
	v := k.Sign(wire.KindVerdict, run, []byte{0xa0})
	return &Evidence{
		Version: 1, Run: run, Delta: k.Sign(wire.KindDelta, run, []byte{0xa0}), Verdict: &v, Trace: block("trace"), Segment: 2,
		Auditor: signer(t, 2).Peer(), Engine: "toy", Reason: "it is wrong", Numbers: []Number{{"distance", 3, 0.02}},
	}
}

func TestEvidenceBytes(t *testing.T) {
	e := goodEvidence(t)
	b, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := DecodeEvidence(b); err != nil || got.Reason != e.Reason || got.Verdict == nil || got.Numbers[0] != e.Numbers[0] {
		t.Errorf("%+v, %v", got, err)
	}
	e.Verdict, e.Reason = nil, strings.Repeat("é", maxReason)
	if b, err = e.Encode(); err != nil {
		t.Fatal(err)
	}
	if got, err := DecodeEvidence(b); err != nil || got.Verdict != nil || len(got.Reason) > maxReason {
		t.Errorf("without a verdict and with a long reason: %v", err)
	}
	other := signer(t, 3).Sign(wire.KindDelta, e.Run, []byte{0xa0})
	for name, change := range map[string]func(*Evidence){
		"version":     func(e *Evidence) { e.Version = 0 },
		"not a delta": func(e *Evidence) { e.Delta = *e.Verdict },
		"no verdict":  func(e *Evidence) { e.Verdict = &e.Delta },
		"other run":   func(e *Evidence) { e.Run = block("x") },
		"segment":     func(e *Evidence) { e.Segment = MaxSegments },
		"infinite":    func(e *Evidence) { e.Numbers[0].Value = math.Inf(1) },
		"many":        func(e *Evidence) { e.Numbers = make([]Number, maxNumbers+1) },
		"forged":      func(e *Evidence) { e.Delta.From = other.From },
		"tampered":    func(e *Evidence) { e.Delta.Body = []byte{0x80} },
	} {
		e := goodEvidence(t)
		change(e)
		b, err := e.Encode()
		if err == nil {
			_, err = DecodeEvidence(b)
		}
		if err == nil {
			t.Errorf("%s: passes", name)
		}
	}
}

func FuzzTrace(f *testing.F) {
	b, err := goodTrace(f).Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := DecodeTrace(b)
		if err != nil {
			return
		}
		if again, err := x.Encode(); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("not canonical: %v", err)
		}
		for i := range x.Segments {
			if from, n := x.Span(uint64(i)); n < 1 || from+n > x.Steps {
				t.Fatalf("segment %d has steps %d to %d of %d", i, from, from+n, x.Steps)
			}
		}
	})
}

func FuzzEvidence(f *testing.F) {
	b, err := goodEvidence(f).Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := DecodeEvidence(b)
		if err != nil {
			return
		}
		if again, err := e.Encode(); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("not canonical: %v", err)
		}
	})
}

func rows(n, width int, seed uint32) []float32 {
	out := make([]float32, n*width)
	for i := range out {
		seed = seed*1664525 + 1013904223
		out[i] = (float32(seed>>8)/(1<<23) - 1) * float32(1+i%7)
	}
	return out
}

func TestProofs(t *testing.T) {
	var p Prover
	l := NewLimits(38, 10, 8)
	a := rows(64, 64, 1)
	near := slices.Clone(a)
	for i := range near {
		near[i] *= 1 + 1e-4
	}
	record, err := p.Append(nil, a, 64)
	if err != nil || len(record) != RecordSize(64) {
		t.Fatal(len(record), err)
	}
	other, err := p.Append(nil, rows(64, 64, 2), 64)
	if err != nil {
		t.Fatal(err)
	}
	constant := bytes.Repeat([]byte{0}, RecordSize(64))
	copy(constant, record[:4]) // the modulus, and one coefficient: every position has the same value
	same := slices.Repeat([]float32{0.5}, 64*64)
	alike, err := p.Append(nil, same, 64)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		record []byte
		rows   []float32
		ok     bool
	}{
		{"own", record, a, true}, {"near", record, near, true}, {"of other rows", other, a, false}, {"constant", constant, a, false},
		{"short", record[:9], a, false}, {"none", nil, a, false}, {"zero", make([]byte, RecordSize(64)), a, false},
		{"activations that are all alike", alike, same, true},
	} {
		if _, err := p.Judge(c.record, c.rows, 64, 7, l); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if _, err := p.Append(nil, nil, 64); err == nil {
		t.Error("no rows are proven")
	}
	if _, err := p.Append(nil, a[:65], 64); err == nil {
		t.Error("half a row is proven")
	}
}

func TestCompareEnds(t *testing.T) {
	start := rows(10, 10, 1)
	end := slices.Clone(start)
	for i := range end {
		end[i] += 0.1
	}
	own := Snapshot{7, end, rows(10, 10, 3), rows(10, 10, 4)}
	l := NewLimits(38, 10, 8)
	for _, c := range []struct {
		name   string
		change func(*Snapshot)
		ok     bool
	}{
		{"the same", func(*Snapshot) {}, true},
		{"a little off", func(s *Snapshot) { s.Params[3] += 1e-3 }, true},
		{"not trained", func(s *Snapshot) { copy(s.Params, start) }, false},
		{"moments scaled", func(s *Snapshot) { s.First[0] += 30 }, false},
		{"second moments zero", func(s *Snapshot) { clear(s.Second) }, false},
		{"steps", func(s *Snapshot) { s.Steps++ }, false},
		{"infinite", func(s *Snapshot) { s.Params[0] = float32(math.Inf(1)) }, false},
		{"not a number", func(s *Snapshot) { s.Second[0] = float32(math.NaN()) }, false},
		{"short", func(s *Snapshot) { s.First = s.First[1:] }, false},
	} {
		s := Snapshot{7, slices.Clone(own.Params), slices.Clone(own.First), slices.Clone(own.Second)}
		c.change(&s)
		numbers, err := CompareEnds(start, own, s, l)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
		for _, n := range numbers {
			if math.IsNaN(n.Value) || math.IsInf(n.Value, 0) {
				t.Errorf("%s: %+v has no canonical bytes", c.name, n)
			}
		}
	}
}

func TestProbe(t *testing.T) {
	seen := map[uint64]int{}
	for i := range 400 {
		p := ProbeFor([32]byte{byte(i), byte(i >> 8)}, 4, 1000, 3)
		if p.After < 1 || p.After > 4 || len(p.Windows) != 3 || slices.Max(p.Windows) >= 1000 {
			t.Fatalf("%+v", p)
		}
		seen[p.After]++
	}
	for s := range uint64(4) {
		if seen[s+1] < 60 { // 100 expected, deviation 9
			t.Errorf("step %d is drawn %d times of 400", s+1, seen[s+1])
		}
	}
	a, b := OwnSeed(block("x"), 1, signer(t, 1).Peer()), OwnSeed(block("x"), 1, signer(t, 2).Peer())
	if a == b || a == OwnSeed(block("x"), 2, signer(t, 1).Peer()) {
		t.Error("two validators, or segments, have one seed")
	}
}

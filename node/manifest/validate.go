package manifest

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"github.com/shoalnet/shoal/gpu/hf"
	"github.com/shoalnet/shoal/p2p/wire"
	"github.com/shoalnet/shoal/toploc/audit"
)

// The limits of a manifest, beside those of hf.Config.
const (
	MaxName       = 64
	MaxRounds     = 10_000_000
	MaxInnerSteps = 100_000 // in a round
	MaxSteps      = MaxRounds * MaxInnerSteps
	MaxBatch      = 1 << 16
	MaxSequence   = 1 << 20
	MaxWindow     = 1 << 26 // batch · sequence: tokens in one step of one peer
	MaxPeers      = 4096
	MaxAllow      = 4096
	MaxAudited    = 3072 // inner steps of a round in a run that audits: a proof of each is in its trace
	MaxDeadline   = 24 * time.Hour
	// MaxAuditWindow bounds for how long material is kept and cases are open.
	MaxAuditWindow = 64
	MaxLateRounds  = 64
	MaxDropAfter   = 10_000
	MaxLeakAfter   = 10_000
	MinChunk       = 64
	MaxChunk       = 4096
	Whole          = 10_000 // parts in a whole: densities, rates and splits
	maxDigits      = 78     // of an amount: 2^256 has 78
)

// Validate returns Problems, or nil. It checks each field and what must hold
// between them, and the sponsor's signature where there is a sponsor.
func (m *Manifest) Validate() error {
	var p Problems
	m.validate(&p)
	return p.err()
}

func (m *Manifest) validate(p *Problems) {
	if m.Version != Version {
		p.add("version", 0, "%d is not %d, the version that this program knows", m.Version, Version)
	}
	switch {
	case m.Name == "":
		p.add("name", 0, "missing")
	case !IsName(m.Name):
		p.add("name", 0, "%.80q is not 1 to %d of a-z, 0-9 and -, the first not -", m.Name, MaxName)
	}
	switch {
	case m.Licence == "":
		p.add("licence", 0, "missing: an SPDX expression such as Apache-2.0")
	case !isLicence(m.Licence):
		p.add("licence", 0, "%.80q is not an SPDX expression of at most 64 characters", m.Licence)
	}
	if m.Task == "rl" {
		p.add("task", 0, "rl is not in this version, only pretrain")
	} else {
		p.oneOf("task", m.Task, "pretrain")
	}
	m.validateModel(p)
	link(p, "tokenizer", m.Tokenizer, true, wire.CodecRaw, wire.CodecDagPB)
	link(p, "data", m.Data, true, wire.CodecDagCBOR)
	m.validateInner(p)
	p.float("outer.lr", m.Outer.LR, above(0), from(2)) // as outer.Config
	p.float("outer.momentum", m.Outer.Momentum, from(0), bound{1, true})
	if !m.Outer.Nesterov {
		p.add("outer.nesterov", 0, "false: only Nesterov momentum is implemented")
	}
	m.validateRound(p)
	m.validateAdmission(p)
	v := &m.Verification
	if p.uint("verification.audit_rate", v.AuditRate, 0, Whole) && v.AuditRate > 0 && m.Round.InnerSteps > MaxAudited {
		p.add("verification.audit_rate", 0, "%d, but a run that audits has at most %d inner steps in a round, not %d: write 0, or fewer steps", v.AuditRate, MaxAudited, m.Round.InnerSteps)
	}
	p.uint("verification.segments", v.Segments, 1, 64)
	if p.uint("verification.window", v.Window, 2, MaxAuditWindow) && v.AuditRate > 0 {
		m.validateAsking(p)
	}
	p.uint("verification.tolerance.exponents", v.Tolerance.Exponents, 0, 128)
	p.float("verification.tolerance.mantissa_mean", v.Tolerance.MantissaMean, from(0), from(127))
	p.float("verification.tolerance.mantissa_median", v.Tolerance.MantissaMedian, from(0), from(127))
	m.validateRewards(p)
	p.uint("stop.rounds", m.Stop.Rounds, 1, MaxRounds)
	m.validateSponsor(p)
}

// validateAsking refuses audits in which nobody who withholds could be convicted: a window in rounds has to
// cover the seconds in which validators ask for what does not come.
func (m *Manifest) validateAsking(p *Problems) {
	window, late := m.Verification.Window, m.Round.LateRounds
	if late > MaxLateRounds {
		return // that has its own problem
	}
	if audit.AskRounds(window, late) == 0 {
		least := window
		for least <= MaxAuditWindow && audit.AskRounds(least, late) == 0 {
			least++
		}
		if least > MaxAuditWindow {
			p.add("round.late_rounds", 0, "%d is too late for a run that audits: what is merged then is audited by nobody, whatever verification.window", late)
		} else {
			p.add("verification.window", 0, "%d leaves no round to ask for material that is withheld, where deltas come up to %d rounds late (round.late_rounds): at least %d", window, late, least)
		}
	} else if r := audit.Shortest(window, late); m.Round.Deadline >= time.Second && m.Round.Deadline < r {
		p.add("round.deadline", 0, "%v is shorter than %v, which a round lasts at least where verification.window is %d, so that material can be asked for: write a longer deadline, or a longer window", m.Round.Deadline, r, window)
	}
}

func (m *Manifest) validateSponsor(p *Problems) {
	const leave = "leave the sponsor out, publishing with a key fills it in"
	switch {
	case m.Sponsor == nil:
	case m.Sponsor.Address.IsZero():
		p.add("sponsor.address", 0, "missing: %s", leave)
	case m.Sponsor.Signature == Signature{}:
		p.add("sponsor.signature", 0, "missing: %s", leave)
	case len(*p) == 0: // what has other problems cannot have been signed
		if err := m.verifySponsor(); err != nil {
			p.add("sponsor.signature", 0, "%v", err)
		}
	}
}

// IsName says whether a run can be called s.
func IsName(s string) bool {
	for i, c := range []byte(s) {
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' && i > 0) {
			return false
		}
	}
	return len(s) >= 1 && len(s) <= MaxName
}

func isLicence(s string) bool {
	for _, c := range []byte(s) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-.+() ", c) >= 0) {
			return false
		}
	}
	return len(s) <= 64 && strings.TrimSpace(s) == s
}

// link checks a CID and what kind of block it names.
func link(p *Problems, path string, c wire.CID, must bool, codecs ...uint64) {
	if !c.Defined() {
		if must {
			p.add(path, 0, "missing: a CID")
		}
		return
	}
	if _, err := wire.CIDFromBytes([]byte(c)); err != nil {
		p.add(path, 0, "%v", err)
		return
	}
	for _, x := range codecs {
		if c.Codec() == x {
			return
		}
	}
	p.add(path, 0, "%s does not name the right kind of block (its codec is 0x%x)", c, c.Codec())
}

func (m *Manifest) validateInner(p *Problems) {
	in := &m.Inner
	p.oneOf("inner.optimizer", in.Optimizer, "adamw")
	p.float("inner.lr", in.LR, above(0), from(1))
	if p.float("inner.min_lr", in.MinLR, from(0), from(1)) && in.MinLR > in.LR {
		p.add("inner.min_lr", 0, "%g is above inner.lr, %g", in.MinLR, in.LR)
	}
	p.float("inner.beta1", in.Beta1, from(0), bound{1, true})
	p.float("inner.beta2", in.Beta2, from(0), bound{1, true})
	p.float("inner.eps", in.Eps, above(0), from(0.1))
	p.float("inner.weight_decay", in.WeightDecay, from(0), from(10))
	p.float("inner.clip", in.Clip, from(0), from(1e6))
	p.uint("inner.steps", in.Steps, 0, MaxSteps)
	steps := m.ScheduleSteps()
	warm := p.uint("inner.warmup", in.Warmup, 0, MaxSteps)
	if warm && steps > 0 && in.Warmup > steps {
		p.add("inner.warmup", 0, "%d is above the schedule's %d steps", in.Warmup, steps)
	}
	if p.oneOf("inner.schedule", in.Schedule, "constant", "cosine", "wsd") && p.uint("inner.decay_steps", in.DecaySteps, 0, MaxSteps) {
		switch {
		case in.Schedule != "wsd" && in.DecaySteps != 0:
			p.add("inner.decay_steps", 0, "%d, but only the wsd schedule has them: write 0", in.DecaySteps)
		case in.Schedule == "wsd" && in.DecaySteps == 0:
			p.add("inner.decay_steps", 0, "missing: the wsd schedule must decay")
		case warm && steps > 0 && in.DecaySteps > 0 && in.Warmup+in.DecaySteps > steps:
			p.add("inner.decay_steps", 0, "%d and a warm-up of %d are more than the schedule's %d steps", in.DecaySteps, in.Warmup, steps)
		}
	}
	if c := &m.Model.Config; in.Separator != nil && c.VocabSize > 0 {
		p.int("inner.separator", *in.Separator, 0, min(c.VocabSize, hf.MaxVocab)-1)
	}
	b := p.int("inner.batch", in.Batch, 1, MaxBatch)
	if p.int("inner.sequence", in.Sequence, 1, MaxSequence) {
		c := m.Model.Config.HF()
		if in.Separator != nil && c.RopeLength(in.Sequence) != 0 {
			p.add("inner.separator", 0, "documents cannot be kept apart in sequences of %d tokens: from that length on %s turns a text by its length, leave the separator out or write a shorter inner.sequence",
				in.Sequence, c.RopeScaling.Kind)
		}
		if most := c.Context(); c.MaxPositionEmbeddings > 0 && in.Sequence > most {
			stretched := ""
			if most > c.MaxPositionEmbeddings {
				stretched = fmt.Sprintf(", which rope_scaling stretches to %d", most)
			}
			p.add("inner.sequence", 0, "%d is above model.config.max_position_embeddings, %d%s", in.Sequence, c.MaxPositionEmbeddings, stretched)
		} else if b && in.Batch*in.Sequence > MaxWindow {
			p.add("inner.batch", 0, "%d sequences of %d tokens are above the limit of %d tokens", in.Batch, in.Sequence, MaxWindow)
		}
	}
}

func (m *Manifest) validateRound(p *Problems) {
	r, c := &m.Round, &m.Codec
	p.uint("round.inner_steps", r.InnerSteps, 1, MaxInnerSteps)
	if r.Deadline < time.Second || r.Deadline > MaxDeadline {
		p.add("round.deadline", 0, "%v is not within 1s and %v", r.Deadline, MaxDeadline)
	}
	p.uint("round.late_rounds", r.LateRounds, 1, MaxLateRounds)
	p.uint("round.drop_after", r.DropAfter, 1, MaxDropAfter)
	p.uint("round.leak_after", r.LeakAfter, 1, MaxLeakAfter)

	kind := p.oneOf("codec.kind", c.Kind, "int8", "int4", "topk")
	if p.int("codec.chunk", c.Chunk, MinChunk, MaxChunk) && c.Chunk&(c.Chunk-1) != 0 {
		p.add("codec.chunk", 0, "%d is not a power of two", c.Chunk)
	}
	switch {
	case kind && c.Kind == "topk" && c.Density == 0:
		p.add("codec.density", 0, "missing: topk needs it, in parts per 10,000")
	case kind && c.Kind != "topk" && c.Density != 0:
		p.add("codec.density", 0, "%d, but %s has none: write 0", c.Density, c.Kind)
	default:
		p.int("codec.density", c.Density, 0, Whole)
	}
}

func (m *Manifest) validateAdmission(p *Problems) {
	a := &m.Admission
	kind := p.oneOf("admission.kind", a.Kind, "open", "allow", "stake")
	peers := p.int("admission.min_peers", a.MinPeers, 1, MaxPeers)
	switch {
	case len(a.Allow) > MaxAllow:
		p.add("admission.allow", 0, "%d addresses are above the limit of %d", len(a.Allow), MaxAllow)
	case kind && a.Kind == "allow" && len(a.Allow) == 0:
		p.add("admission.allow", 0, "missing: the addresses that may join")
	case kind && a.Kind != "allow" && len(a.Allow) != 0:
		p.add("admission.allow", 0, "%d addresses, but admission is %s: leave them out", len(a.Allow), a.Kind)
	case kind && a.Kind == "allow" && peers && a.MinPeers > len(a.Allow):
		p.add("admission.min_peers", 0, "%d is more than the %d addresses allowed", a.MinPeers, len(a.Allow))
	}
	for i := range a.Allow {
		if a.Allow[i].IsZero() {
			p.add("admission.allow", 0, "the zero address is nobody's")
		}
		if i > 0 && bytes.Compare(a.Allow[i-1][:], a.Allow[i][:]) >= 0 {
			p.add("admission.allow", 0, "%s is there twice or out of order", a.Allow[i])
		}
	}
	if amount(p, "admission.min_stake", a.MinStake) && kind {
		switch {
		case a.Kind == "stake" && a.MinStake == "0":
			p.add("admission.min_stake", 0, "missing: the least stake")
		case a.Kind != "stake" && a.MinStake != "0":
			p.add("admission.min_stake", 0, "%s, but admission is %s: write 0", a.MinStake, a.Kind)
		}
	}
}

func (m *Manifest) validateRewards(p *Problems) {
	r := &m.Rewards
	if amount(p, "rewards.budget", r.Budget) && (r.Budget == "0") != r.Token.IsZero() {
		if r.Token.IsZero() {
			p.add("rewards.token", 0, "missing: a budget of %s of what?", r.Budget)
		} else {
			p.add("rewards.token", 0, "%s, but the budget is 0", r.Token)
		}
	}
	split := []struct {
		path string
		v    uint64
	}{{"trainers", r.Trainers}, {"workers", r.Workers}, {"validators", r.Validators}, {"sponsor", r.Sponsor}}
	sum, ok := uint64(0), true
	for _, s := range split {
		ok = p.uint("rewards."+s.path, s.v, 0, Whole) && ok
		sum += s.v
	}
	if ok && sum != Whole {
		p.add("rewards", 0, "trainers, workers, validators and sponsor add up to %d, not to %d parts", sum, Whole)
	}
}

// amount reports what is not the one decimal spelling of a number below 2^256.
func amount(p *Problems, path, s string) bool {
	switch {
	case s == "":
		p.add(path, 0, "missing: a whole number, 0 if none")
	case strings.Trim(s, "0123456789") != "" || len(s) > 1 && s[0] == '0':
		p.add(path, 0, "%.90q is not a whole number in plain decimal digits", s)
	case len(s) > maxDigits || len(s) == maxDigits && s > maxAmount:
		p.add(path, 0, "%.90q is above 2^256-1", s)
	default:
		return true
	}
	return false
}

const maxAmount = "115792089237316195423570985008687907853269984665640564039457584007913129639935"

package chain

import (
	"bytes"
	"encoding/binary"

	"github.com/shoalnet/shoal/p2p/wire"
)

// What an equivocation costs, as in the contract.
const (
	equivocationBps = 5_000 // of each of the account's stakes
	reporterBps     = 2_000 // of what is slashed
)

// NewReport makes the action that convicts the signer of a and b, two messages
// of one run that one peer must not both have signed: what diloco.Evidence holds.
func NewReport(a, b wire.Signed) Report {
	return Report{Kind: uint8(a.Kind), Run: []byte(a.Run), BodyA: a.Body, SigA: a.Sig, BodyB: b.Body, SigB: b.Sig}
}

func (s *State) report(from Address, a Report) error {
	switch {
	case a.Kind < uint8(wire.KindDelta) || a.Kind > uint8(wire.KindAttest):
		return refuse("BadKind")
	case len(a.Run) > 64:
		return refuse("BadRun")
	case bytes.Equal(a.BodyA, a.BodyB):
		return refuse("SameMessage")
	}
	key, ok := messageSigner(a.Kind, a.Run, a.BodyA, a.SigA)
	other, ok2 := messageSigner(a.Kind, a.Run, a.BodyB, a.SigB)
	if !ok || !ok2 || key != other {
		return refuse("BadSignature")
	}
	place, err := place(a)
	if err != nil {
		return err
	}
	account, err := s.answerable(key)
	if err != nil {
		return err
	}
	stakes := [2]Amount{s.slashable(account, Trainer), s.slashable(account, Validator)}
	if account == key && !positive(add(stakes[:]...)) {
		return refuse("KeyUnknown")
	}
	run := keccak(a.Run)
	offence := keccak(pad(key[:]), word(uint64(a.Kind)), run[:], place[:])
	if s.convicted[offence] {
		return refuse("AlreadyConvicted")
	}
	s.convicted[offence] = true
	s.emit(Event{Name: "Equivocated", Account: account, Key: key})
	for role := Trainer; role <= Validator; role++ {
		if n := bps(stakes[role], equivocationBps); positive(n) {
			s.slash(account, role, n, from, reporterBps)
		}
	}
	return nil
}

// place is what the two messages are about: the digest of the parent that both
// have, or the later round of attestations that conflict.
func place(a Report) (Hash, error) {
	if a.Kind != uint8(wire.KindAttest) {
		pa, ok := cborField(a.BodyA, "parent")
		pb, ok2 := cborField(a.BodyB, "parent")
		switch {
		case !ok || !ok2:
			return Hash{}, refuse("BadBody")
		case !bytes.Equal(pa, pb):
			return Hash{}, refuse("OtherParent")
		}
		return keccak(pa), nil
	}
	var n [4]uint64
	for i, x := range [4]struct {
		body []byte
		key  string
	}{{a.BodyA, "round"}, {a.BodyA, "sourceRound"}, {a.BodyB, "round"}, {a.BodyB, "sourceRound"}} {
		v, ok := cborField(x.body, x.key)
		major, arg, _, ok2 := cborHead(v, 0)
		if !ok || !ok2 || major != 0 {
			return Hash{}, refuse("BadBody")
		}
		n[i] = arg
	}
	// Casper FFG (Buterin and Griffith 2017), conditions I and II
	if n[0] != n[2] && !(n[1] < n[3] && n[2] < n[0]) && !(n[3] < n[1] && n[0] < n[2]) {
		return Hash{}, refuse("NoConflict")
	}
	return Hash(word(max(n[0], n[2]))), nil
}

// messageSigner recovers the account of a wire.Signed of any body.
func messageSigner(kind uint8, run, body, sig []byte) (Address, bool) {
	inner := keccak([]byte("shoal/1"), []byte{kind, byte(len(run))}, run, body)
	a, err := Recover(keccak([]byte("\x19Ethereum Signed Message:\n32"), inner[:]), sig)
	return a, err == nil
}

// cborField returns the encoded value under a text key of the map that b is.
// It follows the contract's reader exactly, which checks less than
// wire.Unmarshal: what was signed is what counts.
func cborField(b []byte, key string) ([]byte, bool) {
	major, pairs, at, ok := cborHead(b, 0)
	if !ok || major != 5 {
		return nil, false
	}
	for ; pairs > 0; pairs-- {
		m, n, text, ok := cborHead(b, at)
		if !ok || m != 3 || n > uint64(len(b)-text) {
			return nil, false
		}
		from := text + int(n)
		if at, ok = cborSkip(b, from); !ok {
			return nil, false
		}
		if string(b[text:from]) == key {
			return b[from:at], true
		}
	}
	return nil, false
}

// cborHead reads one head at position at: major type, argument, what follows.
func cborHead(b []byte, at int) (major byte, arg uint64, next int, ok bool) {
	if at >= len(b) {
		return
	}
	major, arg, next = b[at]>>5, uint64(b[at]&31), at+1
	if arg < 24 {
		return major, arg, next, true
	}
	if arg > 27 {
		return
	}
	n := 1 << (arg - 24)
	if next+n > len(b) {
		return
	}
	var word [8]byte
	copy(word[8-n:], b[next:next+n])
	return major, binary.BigEndian.Uint64(word[:]), next + n, true
}

func cborSkip(b []byte, at int) (int, bool) {
	// Each item takes a byte, so the number of items to come cannot usefully
	// pass the bytes that are left: no overflow.
	for todo := uint64(1); todo > 0; todo-- {
		major, n, next, ok := cborHead(b, at)
		if !ok {
			return 0, false
		}
		at = next
		switch major {
		case 2, 3:
			if n > uint64(len(b)-at) {
				return 0, false
			}
			at += int(n)
		case 4, 5:
			if n > uint64(len(b)) {
				return 0, false
			}
			todo += n * uint64(major-3)
		case 6:
			todo++
		}
	}
	return at, true
}

package shard

import (
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"

	"github.com/shoalnet/shoal/p2p/wire"
)

// Windows returns how many windows of seq inputs the tokens hold.
func Windows(tokens uint64, seq int) uint64 {
	if tokens == 0 || seq < 1 {
		return 0
	}
	return (tokens - 1) / uint64(seq)
}

// Assign returns the data position of a trainer's i-th window in a round. base
// is the cursor of the round's commit, slot the trainer's place among slots,
// each how many windows the round sets aside for one.
func Assign(base uint64, slot, slots int, each, i uint64) (uint64, error) {
	if slot < 0 || slot >= slots || i >= each {
		return 0, fmt.Errorf("window %d of %d in slot %d of %d does not exist", i, each, slot, slots)
	}
	hi, lo := bits.Mul64(uint64(slots), each)
	if hi != 0 || base > ^lo {
		return 0, fmt.Errorf("data position is out of range: %d windows for each of %d trainers from %d on", each, slots, base)
	}
	return base + uint64(slot)*each + i, nil
}

// Window returns which of a run's windows a data position means.
func Window(run wire.CID, windows, position uint64) (uint64, error) {
	if windows == 0 {
		return 0, errors.New("data has no windows: the text is shorter than a sequence")
	}
	epoch, x := position/windows, position%windows
	h := uint(max(1, (bits.Len64(windows-1)+1)/2))
	k := keys(run, epoch)
	for {
		x = feistel(&k, h, x)
		if x < windows {
			return x, nil
		}
	}
}

// keys returns the round keys of an epoch.
func keys(run wire.CID, epoch uint64) (k [8]uint64) {
	b := append([]byte("shoal/1 data order"), run...)
	sum := sha512.Sum512(binary.BigEndian.AppendUint64(b, epoch))
	for i := range k {
		k[i] = binary.BigEndian.Uint64(sum[8*i:])
	}
	return k
}

// feistel permutes the integers below 2^2h.
func feistel(k *[8]uint64, h uint, x uint64) uint64 {
	mask := uint64(1)<<h - 1
	l, r := x>>h, x&mask
	for i := range k {
		l, r = r, l^mix(r+k[i])&mask
	}
	return l<<h | r
}

// mix is SplitMix64's finalizer.
func mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

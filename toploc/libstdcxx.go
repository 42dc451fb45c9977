package toploc

import "math/bits"

// The selection of torch.topk on a Linux CPU, which is that of GNU's C++
// library: partial_sort where 64k <= n, else nth_element. Only which of the
// tied elements end up in front matters; the order there does not.

// An entry is a magnitude and its position.
type entry struct {
	key uint16
	pos uint32
}

func before(a, b entry) bool { return a.key > b.key }

func topKLibstdcxx(a []uint16, k int) []uint32 {
	q := make([]entry, len(a))
	for i, b := range a {
		q[i] = entry{key(b), uint32(i)}
	}
	if 64*k <= len(q) {
		heapSelect(q, k)
	} else {
		introselect(q, k-1)
	}
	p := make([]uint32, k)
	for i := range p {
		p[i] = q[i].pos
	}
	return p
}

// heapSelect leaves in q[:m] the m first by before.
func heapSelect(q []entry, m int) {
	for i := m/2 - 1; i >= 0; i-- {
		adjustHeap(q[:m], i, q[i])
	}
	for i := m; i < len(q); i++ {
		if before(q[i], q[0]) {
			v := q[i]
			q[i] = q[0]
			adjustHeap(q[:m], 0, v)
		}
	}
}

// adjustHeap walks the hole down to a leaf and v back up from there.
func adjustHeap(q []entry, hole int, v entry) {
	top, n := hole, len(q)
	c := hole
	for c < (n-1)/2 {
		c = 2 * (c + 1)
		if before(q[c], q[c-1]) {
			c--
		}
		q[hole] = q[c]
		hole = c
	}
	if n%2 == 0 && c == (n-2)/2 {
		c = 2*c + 1
		q[hole] = q[c]
		hole = c
	}
	for hole > top {
		parent := (hole - 1) / 2
		if !before(q[parent], v) {
			break
		}
		q[hole] = q[parent]
		hole = parent
	}
	q[hole] = v
}

// introselect puts into q[nth] what a sort would, and nothing later before it.
func introselect(q []entry, nth int) {
	lo, hi := 0, len(q)
	if nth >= hi {
		return
	}
	limit := 2 * (bits.Len(uint(hi)) - 1)
	for hi-lo > 3 {
		if limit == 0 {
			heapSelect(q[lo:hi], nth+1-lo)
			q[lo], q[nth] = q[nth], q[lo]
			return
		}
		limit--
		medianToFirst(q, lo, lo+1, lo+(hi-lo)/2, hi-1)
		cut := partition(q, lo+1, hi, q[lo])
		if cut <= nth {
			lo = cut
		} else {
			hi = cut
		}
	}
	for i := lo + 1; i < hi; i++ {
		v := q[i]
		if before(v, q[lo]) {
			copy(q[lo+1:i+1], q[lo:i])
			q[lo] = v
			continue
		}
		j := i
		for before(v, q[j-1]) {
			q[j] = q[j-1]
			j--
		}
		q[j] = v
	}
}

func medianToFirst(q []entry, to, a, b, c int) {
	m := b
	if before(q[a], q[b]) {
		if !before(q[b], q[c]) {
			m = a
			if before(q[a], q[c]) {
				m = c
			}
		}
	} else if before(q[a], q[c]) {
		m = a
	} else if before(q[b], q[c]) {
		m = c
	}
	q[to], q[m] = q[m], q[to]
}

// partition is Hoare's, unguarded: the pivot bounds both walks.
func partition(q []entry, lo, hi int, pivot entry) int {
	for {
		for before(q[lo], pivot) {
			lo++
		}
		hi--
		for before(pivot, q[hi]) {
			hi--
		}
		if lo >= hi {
			return lo
		}
		q[lo], q[hi] = q[hi], q[lo]
		lo++
	}
}

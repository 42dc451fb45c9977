package toploc

import "math/bits"

// The selection of torch.topk on a Linux CPU, which is that of GNU's C++
// library: partial_sort where 64k <= n, else nth_element. Only which of the
// tied elements end up in front matters; the order there does not.

// An entry is an activation with the order's key.
type entry struct {
	key, bits uint16
	pos       uint32
}

func before(a, b entry) bool { return a.key > b.key }

// A libstdcxx takes a stream's k largest. partial_sort is streaming by itself;
// nth_element needs all elements, but is used for fewer than 64k only.
type libstdcxx struct {
	k    int
	seen uint64
	heap bool    // q is partial_sort's heap of k
	q    []entry // else all elements
	pos  []uint32
	bits []uint16
}

func (s *libstdcxx) scan(a []uint16) {
	at := uint32(s.seen)
	s.seen += uint64(len(a))
	i := 0
	for ; i < len(a) && !s.heap; i++ {
		s.q = append(s.q, entry{key(a[i]), a[i], at + uint32(i)})
		if len(s.q) == 64*s.k {
			heapSelect(s.q, s.k)
			s.q, s.heap = s.q[:s.k], true
		}
	}
	for ; i < len(a); i++ {
		if i += above(a[i:], s.q[0].key); i == len(a) {
			return
		}
		adjustHeap(s.q, 0, entry{key(a[i]), a[i], at + uint32(i)})
	}
}

func (s *libstdcxx) take() ([]uint32, []uint16, error) {
	q, err := s.q, checkChunk(s.seen, s.k)
	if err == nil && !s.heap {
		introselect(q, s.k-1)
	}
	s.q, s.heap, s.seen = s.q[:0], false, 0
	if err != nil {
		return nil, nil, err
	}
	s.pos, s.bits = s.pos[:0], s.bits[:0]
	for _, e := range q[:s.k] {
		s.pos, s.bits = append(s.pos, e.pos), append(s.bits, e.bits)
	}
	return s.pos, s.bits, nil
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

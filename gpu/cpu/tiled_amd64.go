//go:build amd64 && !purego

package cpu

import (
	"unsafe"

	"github.com/shoalnet/shoal/gpu"
)

// A tile is a block of C that stays in registers while k runs; see
// asm/tile.go, n times, one below another. Strides are in bytes; next is where the C begins of
// what comes after. to is for those that pack B on their way, far is where memory is asked for
// that will be read much later, sf apart.
type tile func(k int, a *float32, sa int, b *float32, sb int, c *float32, sc int, acc bool, cols int, next *float32, n int, to *float32, far uintptr, sf int)

// A tiling is the tiles of one instruction set, by vectors and rows.
type tiling struct {
	lanes            int      // of a vector
	unit             int      // values of k in an element that is packed: 2 are a pair of bfloat16
	vectors          int      // at most, side by side
	rows             int      // at most, one below another; no more than lanes
	row, col         [][]tile // A as it lies, and transposed
	rowEdge, colEdge [][]tile // the same where the last vector is not full
	// strip has A in packed strips; rowPack and stripPack pack B, which must be of rows, for the
	// tiles below them. With these row and strip have B in panels always. nil: there are none.
	strip, rowPack, stripPack [][]tile
	// transpose writes up to lanes rows of src as columns of dst, whose rows are ds bytes apart.
	transpose func(k, rows int, src *float32, ss int, dst *float32, ds int)
	// strips cuts k rows of src into n pieces of h values, the last of last, each for a row of
	// one vector of a block of dst; blocks are ds bytes apart. panels does so for rows of all
	// vectors of a tile.
	strips, panels func(k, n, h, last int, src *float32, ss int, dst *float32, ds int)
	round          func(x []float32) // to bfloat16; nil where packing does it
}

// ptr is the address of s[i], unchecked: the shapes were checked before.
func ptr(s []float32, i int) *float32 {
	return (*float32)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(s)), 4*i))
}

// place is the address of s[i] for what is asked for and not read: unlike a pointer it may be of
// nothing.
func place(s []float32, i int) uintptr {
	return uintptr(unsafe.Pointer(unsafe.SliceData(s))) + uintptr(4*i)
}

// Blocks are as Goto and van de Geijn (2008) have them, with the roles of A and
// B exchanged for rows: blockM rows of A and a panel of B (blockK, 32) stay in the
// second-level cache, from which they stream without loss (a panel in the first is no faster, and
// shorter blocks of k load C more often), maxPanels of B in the second or third.
const (
	blockK    = 512 // how much of k is done at a time; C waits in memory between
	blockM    = 128
	maxPanels = 512 << 10 // values of B in panels at a time: at least one panel's
	maxStrips = ((blockM+14)/6 + 1) * blockK * 8
	near      = 192 << 10 // values of A that the second-level cache holds beside others
	few       = 32        // rows or columns that do not pay for packing
)

// tiled computes C (m, n) = or += op(A)·op(B), of half with A and B rounded to
// bfloat16 when they are packed. For seen see kernels.product.
func tiled(t *tiling, w *worker, half bool, l gpu.Layout, m, n, k int, a []float32, lda int, b []float32, ldb int, c []float32, ldc int, acc bool, seen int) {
	if k == 0 && !acc {
		for i := range m {
			clear(c[i*ldc : i*ldc+n])
		}
		return
	}
	values := k
	k = (values + t.unit - 1) / t.unit
	vecs := (n + t.lanes - 1) / t.lanes
	panels := (vecs + t.vectors - 1) / t.vectors
	width := t.vectors * t.lanes
	// Blocks of k are as equal as can be.
	blocks := (k + blockK - 1) / blockK
	packB := half || l == gpu.NT || m > few || t.rowPack != nil
	fewA := few
	if t.strip != nil && lda <= 512 {
		fewA = 2 * few
	}
	// A is read where it lies, but for columns, each of which would need a page
	// of its own, and rows that would all fall into few sets of the first-level cache.
	packA := half || n > fewA && m >= t.rows && (l == gpu.TN || lda%1024 == 0)
	// The first strip's tiles pack B, if they see all of it.
	inTile := t.rowPack != nil && !half && l != gpu.NT && seen == 0 && (packA || l != gpu.TN)
	// As are blocks of rows.
	block := (m + blockM - 1) / blockM
	block = ((m+block-1)/block + t.rows - 1) / t.rows * t.rows
	// Where A stays in the second-level cache a panel is done with before the next is packed; columns
	// from further away are turned into rows many at a time.
	one := t.rowPack != nil && (inTile || l == gpu.NT && n*min(k, blockK) <= near) && !packA && !half && m*min(k, blockK) <= near
	if one {
		block = m
	}
	// Where all of B fits, it is kept for the next product, which may be by the same.
	keep := packB && panels*width*k <= len(w.pack)
	have := keep && w.packed
	w.kept = keep && seen == 0
	for x := range blocks {
		k0 := k * x / blocks
		kb := k*(x+1)/blocks - k0
		group := panels
		if packB && !one && !keep {
			group = max(1, min(panels, maxPanels/(kb*width)))
		}
		for p0 := 0; p0 < panels; p0 += group {
			p1 := min(panels, p0+group)
			pack := w.pack
			if keep {
				pack = pack[panels*width*k0:]
			}
			if packB && !inTile && !one && !have {
				t.packB(l, kb, values, b, k0, p0*width, min(p1*width, n), ldb, pack)
				if half && t.round != nil {
					t.round(pack[:(p1-p0)*kb*width])
				}
			}
			for r0 := 0; r0 < m; r0 += block {
				r1 := min(m, r0+block)
				var soon ahead
				if t.strip != nil && seen == 0 && !one {
					soon = t.after(l, a, lda, k, k0, kb, blocks, x, m, r0, r1, block)
				}
				strips := (r1 - r0 + t.rows - 1) / t.rows
				h := (r1 - r0 + strips - 1) / strips
				if packA {
					t.packA(l, kb, values, a, k0, r0, r1, h, lda, w.strips)
					if half && t.round != nil {
						t.round(w.strips[:strips*kb*t.lanes])
					}
				}
				for p := p0; p < p1; p++ {
					j0 := p * width
					nv := min(t.vectors, vecs-p*t.vectors)
					cols := min(nv*t.lanes, n-j0)
					row, col, strip := t.row[nv], t.col[nv], t.col[nv]
					if cols < nv*t.lanes {
						row, col = t.rowEdge[nv], t.colEdge[nv]
						strip = col
					}
					if t.strip != nil {
						strip = t.strip[nv]
					}
					bp, sb := pack, 4*width
					switch {
					case packB:
						if keep || !one {
							bp = pack[(p-p0)*kb*width:]
						}
						if one && !inTile && !have {
							t.packB(l, kb, values, b, k0, j0, j0+cols, ldb, bp)
						}
					case cols < nv*t.lanes: // tiles read whole vectors
						t.packB(l, kb, values, b, k0, j0, n, ldb, bp)
					default:
						bp, sb = b[k0*ldb+j0:], 4*ldb
					}
					var panel ahead // the next
					if t.strip != nil && packB && seen == 0 && (have || !inTile && !one) && p+1 < p1 {
						panel = ahead{p: place(bp, kb*width), rows: kb, lines: width / pair, stride: 4 * width}
					}
					asked := 0 // rows of the next panel's B
					for i := 0; i < strips; {
						i0, count := r0+i*h, 1
						rows := min(h, r1-i0)
						from, to := needed(l, seen, k0, kb, i0, i0+rows)
						if from >= to || l == gpu.NT && seen > 0 && j0 >= seen+i0+rows-1 {
							i++
							continue
						}
						if (seen == 0 || l == gpu.NT) && rows == h && (t.strip != nil || !packA) { // all that are as tall
							count = (r1 - i0) / h
						}
						more := acc || k0 > 0 // C has a sum already
						if l == gpu.TN && seen > 0 && i0-seen+1 >= k0 {
							more = acc
						}
						var f tile
						var ap *float32
						var sa int
						switch {
						case packA:
							f, ap, sa = strip[rows], ptr(w.strips, (i*kb+from)*t.lanes), 4*t.lanes
						case l == gpu.TN:
							f, ap, sa = col[rows], ptr(a, (k0+from)*lda+i0), 4*lda
						default:
							f, ap, sa = row[rows], ptr(a, i0*lda+k0), 4*lda
						}
						bt, st := ptr(bp, from*sb/4), sb
						next := ptr(c, r0*ldc+min(j0+width, n-1))
						if inTile && !have && r0 == 0 && i == 0 {
							f, count = t.rowPack[nv][rows], 1
							if packA {
								f = t.stripPack[nv][rows]
							}
							bt, st = ptr(b, k0*ldb+j0), 4*ldb
						}
						far, sf := uintptr(unsafe.Pointer(next)), 0
						if inTile && !have && r0 == 0 && i > 0 && p+1 < panels && asked < kb {
							each := t.asks(kb, packA)
							count = min(count, (kb-asked+each-1)/each)
							far, sf = place(b, (k0+asked)*ldb+j0+width), 4*ldb
							asked += count * each
						} else if packA || l != gpu.TN {
							from := &panel
							if panel.at == panel.rows*panel.lines {
								from = &soon
							}
							if from.at < from.rows*from.lines {
								count, far, sf = from.take(count, t.asks(kb, packA))
							}
						}
						if i+count < strips {
							next = ptr(c, (i0+count*rows)*ldc+j0)
						}
						f(to-from, ap, sa, bt, st, ptr(c, i0*ldc+j0), 4*ldc, more, cols, next, count, ptr(bp, 0), far, sf)
						i += count
					}
				}
			}
		}
	}
}

// ahead is memory that will be read soon: rows of some pairs of cache lines, asked for line by line
// down all rows.
type ahead struct {
	p                       uintptr
	rows, lines, stride, at int
}

const pair = 32 // values in two cache lines

// after is the part of A that follows rows r0 to r1 of block x of k.
func (t *tiling) after(l gpu.Layout, a []float32, lda, k, k0, kb, blocks, x, m, r0, r1, block int) ahead {
	r2 := min(m, r1+block)
	if r1 == m {
		if x+1 == blocks {
			return ahead{}
		}
		k0, kb = k0+kb, k*(x+2)/blocks-k0-kb
		r1, r2 = 0, min(m, block)
	}
	k0, kb = k0*t.unit, kb*t.unit
	if l == gpu.TN {
		return ahead{p: place(a, k0*lda+r1), rows: kb, lines: (r2 - r1 + pair - 1) / pair, stride: 4 * lda}
	}
	return ahead{p: place(a, r1*lda+k0), rows: r2 - r1, lines: (kb + pair - 1) / pair, stride: 4 * lda}
}

// take is what count tiles ask for that ask each times each; fewer where that is more than a column.
func (s *ahead) take(count, each int) (n int, p uintptr, stride int) {
	line, row := s.at/s.rows, s.at%s.rows
	n = min(count, (s.rows-row+each-1)/each)
	s.at = min(s.at+n*each, (line+1)*s.rows)
	return n, s.p + uintptr(row*s.stride+line*4*pair), s.stride
}

// asks is how many rows a tile asks for that has k rows of B.
func (t *tiling) asks(k int, strip bool) int {
	if strip {
		return max(1, k/4-t.rows)
	}
	return max(1, k/8-t.rows/2)
}

// of is the part of the values of k that kb elements from k0 on hold.
func (t *tiling) of(values, k0, kb int) (from, n int) {
	return k0 * t.unit, min(kb*t.unit, values-k0*t.unit)
}

// packB writes columns j0 to j1 of op(B) from k0 on to dst, kb elements of k, panel after panel; what a
// panel holds beyond j1 is of no matter.
func (t *tiling) packB(l gpu.Layout, kb, values int, b []float32, k0, j0, j1, ldb int, dst []float32) {
	width := t.vectors * t.lanes
	from, k := t.of(values, k0, kb)
	if l != gpu.NT {
		n := (j1 - j0 + width - 1) / width
		t.panels(k, n, width, j1-j0-(n-1)*width, ptr(b, from*ldb+j0), 4*ldb, ptr(dst, 0), 4*kb*width)
		return
	}
	for j := j0; j < j1; j += t.lanes {
		p, at := (j-j0)/width, (j-j0)%width
		t.transpose(k, min(t.lanes, j1-j), ptr(b, j*ldb+from), 4*ldb, ptr(dst, p*kb*width+at), 4*width)
	}
}

// packA writes rows r0 to r1 of op(A) from k0 on to dst, h rows to a block of kb vectors:
// one for each element of k.
func (t *tiling) packA(l gpu.Layout, kb, values int, a []float32, k0, r0, r1, h, lda int, dst []float32) {
	n := (r1 - r0 + h - 1) / h
	from, k := t.of(values, k0, kb)
	if l == gpu.TN {
		t.strips(k, n, h, r1-r0-(n-1)*h, ptr(a, from*lda+r0), 4*lda, ptr(dst, 0), 4*t.lanes*kb)
		return
	}
	for i := range n {
		i0 := r0 + i*h
		t.transpose(k, min(h, r1-i0), ptr(a, i0*lda+from), 4*lda, ptr(dst, i*kb*t.lanes), 4*t.lanes)
	}
}

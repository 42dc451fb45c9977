package cpu

import (
	"math"
	"unsafe"

	"github.com/shoalnet/shoal/gpu"
)

// panelCols is how many outputs a panel of packed weights holds: panel p is (k,
// panelCols), the last one filled up with zeros. Of a row in bfloat16 outputs 0 and 16, 1 and 17
// and so on lie side by side, so that one instruction makes float32 of the one half and one of
// the other. Portable kernels read rows.
const panelCols = 32

// A panelKernel multiplies rows of A by one panel, C (rows, panelCols) = or +=. Meanwhile it may ask
// for memory from next on, step bytes for each k.
type panelKernel func(k int, a *float32, sa int, b *byte, c *float32, sc int, acc bool, next uintptr, step int)

// panelKernels are those of one instruction set, by rows less one.
type panelKernels struct{ full, half []panelKernel }

// linearJob is a product whose tasks are panels side by side.
type linearJob struct {
	kernels *panelKernels
	c, a    gpu.Matrix
	w       gpu.Packed
	acc     bool
	each    int // panels of a task
}

// packJob packs; a task is what goes into a panel.
type packJob struct {
	from   gpu.Matrix
	to     gpu.Packed
	at     int // the first row
	panels bool
}

// decoding is the device's jobs of gpu.Decoder.
type decoding struct {
	linear linearJob
	pack   packJob
	write  writeJob
	attn   cacheJob
	most   greatestJob
}

// NewPacked implements gpu.Decoder.
func (d *Device) NewPacked(half bool, rows, cols int) gpu.Packed {
	p := gpu.Packed{Rows: rows, Cols: cols}
	n := rows * cols
	if panelsOf(d.k) != nil {
		n = (rows + panelCols - 1) / panelCols * panelCols * cols
	}
	if half {
		p.Half = make([]uint16, n)
		huge(unsafe.Pointer(unsafe.SliceData(p.Half)), 2*n)
	} else {
		p.Buffer = d.Alloc(n)
		huge(unsafe.Pointer(unsafe.SliceData(p.Host)), 4*n)
	}
	return p
}

// PackRows implements gpu.Decoder.
func (d *Device) PackRows(p gpu.Packed, at int, w gpu.Matrix) {
	gpu.CheckPackRows(p, at, w)
	j := &d.decode.pack
	*j = packJob{from: w, to: p, at: at, panels: panelsOf(d.k) != nil}
	first, end := at/panelCols, (at+w.Rows+panelCols-1)/panelCols
	d.pool.run(j, end-first, w.Rows*w.Cols)
	*j = packJob{}
}

func (j *packJob) run(_ *worker, task int) {
	panel := j.at/panelCols + task
	for i := max(panel*panelCols, j.at); i < min((panel+1)*panelCols, j.at+j.from.Rows); i++ {
		src := row(&j.from, i-j.at)
		first, step := packedAt(&j.to, i, j.panels)
		if j.to.Half != nil {
			for x, v := range src {
				j.to.Half[first+x*step] = gpu.RoundBF16(v)
			}
			continue
		}
		for x, v := range src {
			j.to.Host[first+x*step] = v
		}
	}
}

// packedAt is where row i of w begins, and how far its values are apart.
func packedAt(w *gpu.Packed, i int, panels bool) (first, step int) {
	if !panels {
		return i * w.Cols, 1
	}
	in := i % panelCols
	if w.Half != nil {
		in = in%(panelCols/2)*2 + in/(panelCols/2)
	}
	return i/panelCols*panelCols*w.Cols + in, panelCols
}

// Unpack implements gpu.Decoder.
func (d *Device) Unpack(out gpu.Matrix, w gpu.Packed, ids []int32) {
	gpu.CheckUnpack(out, w, ids)
	for t, id := range ids {
		first, step := packedAt(&w, int(id), panelsOf(d.k) != nil)
		for x := range w.Cols {
			if w.Half != nil {
				row(&out, t)[x] = gpu.FromBF16(w.Half[first+x*step])
			} else {
				row(&out, t)[x] = w.Host[first+x*step]
			}
		}
	}
}

// Linear implements gpu.Decoder.
func (d *Device) Linear(c, a gpu.Matrix, w gpu.Packed, accumulate bool) {
	gpu.CheckLinear(c, a, w)
	if w.Cols == 0 && !accumulate {
		for i := range c.Rows {
			clear(row(&c, i))
		}
	}
	if c.Rows == 0 || w.Rows == 0 || w.Cols == 0 {
		return
	}
	panels := (w.Rows + panelCols - 1) / panelCols
	j := &d.decode.linear
	*j = linearJob{kernels: panelsOf(d.k), c: c, a: a, w: w, acc: accumulate, each: panels}
	if n := len(d.workers); n > 1 {
		const most = 16 // so that nobody waits long for another's last, however large the layer
		j.each = max(1, min(panels/(6*n), most))
	}
	// With few rows it is the weights' way from memory that costs.
	const memory = 8
	d.pool.run(j, (panels+j.each-1)/j.each, w.Rows*w.Cols/16*max(c.Rows, memory))
}

func (j *linearJob) run(w *worker, task int) {
	p0 := task * j.each
	p1 := min(p0+j.each, (j.w.Rows+panelCols-1)/panelCols)
	if j.kernels == nil {
		j.rows(w, p0*panelCols, min(p1*panelCols, j.w.Rows))
		return
	}
	list := j.kernels.full
	if j.w.Half != nil {
		list = j.kernels.half
	}
	for p := p0; p < p1; p++ {
		j.panel(w, list, p)
	}
}

// panel does all rows by panel p, a stretch of k and a block of rows at a time.
func (j *linearJob) panel(w *worker, list []panelKernel, p int) {
	const (
		stretch = 16 << 10 // bytes of a panel that stay in the first-level cache, with as many of what follows
		ahead   = 4096     // bytes: the hardware's own prefetching ends with each page of 4 KiB
	)
	line := 4 * panelCols // bytes of a row of weights
	if j.w.Half != nil {
		line = 2 * panelCols
	}
	m, k := j.c.Rows, j.w.Cols
	cols := min(panelCols, j.w.Rows-p*panelCols)
	blocks := (m + len(list) - 1) / len(list)
	kb := k
	if blocks > 1 {
		parts := (k*line + stretch - 1) / stretch
		kb = (k + parts - 1) / parts
	}
	for k0 := 0; ; k0 += kb {
		n, acc := min(kb, k-k0), j.acc || k0 > 0
		b := j.weights(p*k + k0)
		// An address, not a pointer: it may be of nothing.
		next, step := uintptr(unsafe.Pointer(b))+ahead, line
		if blocks > 1 { // each of them asks for a part of the following stretch
			next, step = uintptr(unsafe.Pointer(b))+uintptr(n*line), line/blocks
		}
		for i := range blocks {
			i0, i1 := m*i/blocks, m*(i+1)/blocks
			c, sc := address(j.c.Host, i0*j.c.Stride+p*panelCols), j.c.Stride
			if cols < panelCols {
				if acc {
					for t := i0; t < i1; t++ {
						copy(w.edge[(t-i0)*panelCols:], row(&j.c, t)[p*panelCols:])
					}
				}
				c, sc = &w.edge[0], panelCols
			}
			list[i1-i0-1](n, address(j.a.Host, i0*j.a.Stride+k0), 4*j.a.Stride, b, c, 4*sc, acc, next, step)
			if blocks > 1 {
				next += uintptr(n * step)
			}
			if cols < panelCols {
				for t := i0; t < i1; t++ {
					copy(row(&j.c, t)[p*panelCols:], w.edge[(t-i0)*panelCols:])
				}
			}
		}
		if k0+kb >= k {
			return
		}
	}
}

// weights is the address of a row of panels.
func (j *linearJob) weights(row int) *byte {
	if j.w.Half != nil {
		return (*byte)(unsafe.Pointer(&j.w.Half[row*panelCols]))
	}
	return (*byte)(unsafe.Pointer(&j.w.Host[row*panelCols]))
}

// address is that of s[i], which may be the end.
func address(s []float32, i int) *float32 {
	return (*float32)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(s)), 4*i))
}

// rows is the portable product, of outputs from to to.
func (j *linearJob) rows(w *worker, from, to int) {
	k, n := j.w.Cols, to-from
	c := j.c.Host[from:]
	if j.w.Half == nil {
		w.k.product(w, gpu.NT, j.c.Rows, n, k, j.a.Host, j.a.Stride, j.w.Host[from*k:], k, c, j.c.Stride, j.acc, 0)
		return
	}
	wide := grow(&w.score, k)
	for o := range n {
		for x, h := range j.w.Half[(from+o)*k : (from+o+1)*k] {
			wide[x] = gpu.FromBF16(h)
		}
		w.k.product(w, gpu.NT, j.c.Rows, 1, k, j.a.Host, j.a.Stride, wide, k, c[o:], j.c.Stride, j.acc, 0)
	}
}

// CacheWrite implements gpu.Decoder.
func (d *Device) CacheWrite(c gpu.Cache, spans []gpu.Span, k, v gpu.Matrix) {
	gpu.CheckShape("cache write", k, k.Rows, c.KVHeads*c.HeadDim)
	gpu.CheckShape("cache write", v, k.Rows, c.KVHeads*c.HeadDim)
	c.Check("cache write", spans, k.Rows)
	j := &d.decode.write
	*j = writeJob{c: c, spans: spans, k: k, v: v}
	d.pool.run(j, len(spans)*c.KVHeads, k.Rows*k.Cols*2)
	*j = writeJob{}
}

// writeJob fills a cache. A task is one head of one span, as those of cacheJob are.
type writeJob struct {
	c     gpu.Cache
	spans []gpu.Span
	k, v  gpu.Matrix
}

func (j *writeJob) run(_ *worker, task int) {
	dim, cols := j.c.HeadDim, j.c.KVHeads*j.c.HeadDim
	h, t := task%j.c.KVHeads*j.c.HeadDim, 0
	s := &j.spans[task/j.c.KVHeads]
	for i := range task / j.c.KVHeads {
		t += j.spans[i].Rows
	}
	for n := range s.Rows {
		at := s.Start + n
		page := j.c.Host[int(s.Pages[at/gpu.PageSize])*2*cols*gpu.PageSize:]
		at %= gpu.PageSize
		for x, y := range row(&j.k, t+n)[h : h+dim] {
			page[(h+x)*gpu.PageSize+at] = y
		}
		copy(page[(gpu.PageSize+at)*cols+h:][:dim], row(&j.v, t+n)[h:])
	}
}

// cacheJob is attention over a cache. A task is one head of one span; the heads
// of a span of one row go in groups that share their keys.
type cacheJob struct {
	c      gpu.Cache
	spans  []gpu.Span
	heads  int
	out, q gpu.Matrix
	block  int // queries at a time
	keys   int // that a block sees at most
}

// CacheAttention implements gpu.Decoder.
func (d *Device) CacheAttention(c gpu.Cache, spans []gpu.Span, heads int, out, q gpu.Matrix) {
	c.CheckAttention(spans, heads, out, q)
	j := &d.decode.attn
	*j = cacheJob{c: c, spans: spans, heads: heads, out: out, q: q}
	const perHead = 2048 // what it takes to begin
	cost := 0
	for i := range spans {
		n := spans[i].Start + spans[i].Rows
		if w := c.Window; w > 0 { // a block begins with the page that has its first key
			n = min(n, w+2*gpu.PageSize)
		}
		j.keys = max(j.keys, n)
		cost += spans[i].Rows * heads * (perHead + n/8*(c.HeadDim/8+1))
	}
	j.block = max(16, min(32, fewScores/max(1, j.keys)))
	rows := max(j.block, heads/c.KVHeads)
	for _, w := range d.workers {
		grow(&w.score, rows*wholePanels(j.keys))
	}
	d.pool.run(j, len(spans)*heads, cost)
	*j = cacheJob{}
}

func (j *cacheJob) run(w *worker, task int) {
	group := j.heads / j.c.KVHeads
	h, at := task%j.heads, 0
	s := &j.spans[task/j.heads]
	for i := range task / j.heads {
		at += j.spans[i].Rows
	}
	dim := j.c.HeadDim
	switch {
	case s.Rows == 1 && h%group == 0: // the rows of this product are heads
		j.attend(w, s, h/group, group, s.Start+1, 0, j.q.Host[at*j.q.Stride+h*dim:], dim, j.out.Host[at*j.out.Stride+h*dim:], dim)
	case s.Rows > 1:
		for i0 := 0; i0 < s.Rows; i0 += j.block {
			n := min(j.block, s.Rows-i0)
			j.attend(w, s, h/group, n, s.Start+i0+1, 1, j.q.Host[(at+i0)*j.q.Stride+h*dim:], j.q.Stride, j.out.Host[(at+i0)*j.out.Stride+h*dim:], j.out.Stride)
		}
	}
}

// wholePanels is n or the next multiple of the columns that a product takes at once.
func wholePanels(n int) int { return (n + panelCols - 1) / panelCols * panelCols }

// attend does m queries, the first of which sees seen keys, less those before the window, and
// each other more keys than the one before it, in pages of at most PageSize. Scores are computed of more
// columns, which pages have, than there are keys, since columns that fill no vector cost more.
func (j *cacheJob) attend(w *worker, s *gpu.Span, kv, m, seen, more int, q []float32, sq int, out []float32, so int) {
	dim, cols := j.c.HeadDim, j.c.KVHeads*j.c.HeadDim
	scale := float32(1 / math.Sqrt(float64(dim)))
	first := func(i int) int { // that query i sees
		if j.c.Window == 0 {
			return 0
		}
		return max(0, seen+i*more-j.c.Window)
	}
	before := first(0) / gpu.PageSize // pages that nobody sees
	lo := before * gpu.PageSize
	pages := s.Pages[before:]
	keys := seen + (m-1)*more - lo
	stride := wholePanels(keys)
	p := w.score[:m*stride]
	for k0 := 0; k0 < keys; k0 += gpu.PageSize {
		n := min(gpu.PageSize, stride-k0)
		k := j.c.Host[(int(pages[k0/gpu.PageSize])*2*cols+kv*dim)*gpu.PageSize:]
		w.few(m, n, dim, q, sq, k, gpu.PageSize, p[k0:], stride, false)
	}
	for i := range m {
		r := p[i*stride : i*stride+keys]
		from, to := first(i)-lo, seen+i*more-lo
		w.k.softmax(r[from:to], scale, 1)
		clear(r[:from])
		clear(r[to:])
	}
	for k0 := 0; k0 < keys; k0 += gpu.PageSize {
		n := min(gpu.PageSize, keys-k0)
		v := j.c.Host[(int(pages[k0/gpu.PageSize])*2+1)*cols*gpu.PageSize+kv*dim:]
		w.few(m, dim, n, p[k0:], stride, v, cols, out, so, k0 > 0)
	}
}

// few is C = or += A·B, where A often has one row, or as many as share a head of keys.
func (w *worker) few(m, n, k int, a []float32, lda int, b []float32, ldb int, c []float32, ldc int, acc bool) {
	const most = 8 // with more, packing B pays
	if m <= most && w.k.few != nil {
		w.k.few(m, n, k, a, lda, b, ldb, c, ldc, acc)
		return
	}
	w.k.product(w, gpu.NN, m, n, k, a, lda, b, ldb, c, ldc, acc, 0)
}
